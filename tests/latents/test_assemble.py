"""Assembling and loading the training set: countable rows, each once per epoch, in an order that is a pure function."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from raysys.errors import InputError
from raysys.latents.assemble import assemble, shuffle_keys
from raysys.latents.parts import LatentBatch, PartLoader, read_manifest, read_tables, set_identity
from raysys.outcomes import kept, rejected
from raysys.rows import TRAINING_SET, array_to_bytes


def states_columns(states: list[np.ndarray], dtype: str = "float16") -> dict:
    """The columns of text states, one array [T, D] per caption."""
    stored = [array_to_bytes(array, dtype) for array in states]
    return {
        "text_states": b"".join(data for data, _ in stored),
        "text_states_shapes": [shape for _, shape in stored],
        "text_states_dtype": dtype,
    }


def make_row(i: int, height: int = 2, width: int = 2, copy: int = 0, **columns) -> dict:
    """Row i: every latent value is i, every text-state value is −i, so a mixed-up join is visible."""
    latents, latents_shape = array_to_bytes(np.full((3, height, width), i))
    return {
        "row_id": f"row-{i:04d}",
        "copy": copy,
        "sample_id": f"sample-{i}",
        "captions": [f"caption {i}"],
        "license": ("CC0-1.0", "CC-BY-4.0")[i % 2],
        "bucket": f"{height}x{width}",
        "latents": latents,
        "latents_shape": latents_shape,
        **states_columns([np.full((4, 5), -i)]),
        **kept(),
        **columns,
    }


def make_set(folder, n: int, *, part_rows: int = 4, seed: int = 3, chunk: int = 7, wide_from: int | None = None):
    """Assemble rows 0 … n−1, given in tables of `chunk` rows; rows from `wide_from` on are in a second bucket."""
    rows = [make_row(i, width=2 if wide_from is None or i < wide_from else 3) for i in range(n)]
    tables = [TRAINING_SET.table(rows[k : k + chunk]) for k in range(0, n, chunk)]
    return assemble(tables, folder, seed=seed, part_rows=part_rows)


def order_of(folder) -> list[str]:
    return [row_id for table in read_tables(folder) for row_id in table["row_id"].to_pylist()]


def test_manifest_and_parts_agree(tmp_path):
    rows = [make_row(i, width=2 + i % 2) for i in range(21)] + [make_row(99, **rejected("too_large"))]
    manifest = assemble([TRAINING_SET.table(rows)], tmp_path / "set", seed=1, part_rows=4, encoders={"vae_hash": "f"})
    assert manifest == read_manifest(tmp_path / "set") == json.loads((tmp_path / "set/manifest.json").read_text())
    assert manifest["rows"] == {"in": 22, "kept": 21, "rejected": {"too_large": 1}, "error": {}}
    assert manifest["buckets"] == {"2x2": 11, "2x3": 10}
    assert manifest["licenses"] == {"CC-BY-4.0": 10, "CC0-1.0": 11}
    assert manifest["seed"] == 1
    assert manifest["encoders"] == {"vae_hash": "f"}
    assert manifest["captions"] == 21
    assert [part["rows"] for part in manifest["parts"]] == [4, 4, 3, 4, 4, 2]
    for part in manifest["parts"]:
        table = pq.read_table(tmp_path / "set" / part["name"])
        assert table.schema.equals(TRAINING_SET.schema)
        assert set(table["bucket"].to_pylist()) == {part["bucket"]}
        assert table.num_rows == part["rows"]
    assert sorted(order_of(tmp_path / "set")) == [f"row-{i:04d}" for i in range(21)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"], "staging folders must not stay"


def test_identity_is_of_the_rows_not_of_the_place(tmp_path):
    make_set(tmp_path / "a", 9)
    make_set(tmp_path / "b", 9)
    make_set(tmp_path / "c", 9, seed=4)
    first, again, other = (set_identity(tmp_path / name) for name in "abc")
    assert first == again != other
    assert first["rows"] == 9
    rows = [make_row(i) for i in range(8)] + [make_row(8, **states_columns([np.full((4, 5), 0.5)]))]
    assemble([TRAINING_SET.table(rows)], tmp_path / "d", seed=3, part_rows=4)
    assert set_identity(tmp_path / "d") != first


def test_order_depends_on_seed_and_keys_only(tmp_path):
    make_set(tmp_path / "a", 50, chunk=7)
    make_set(tmp_path / "b", 50, chunk=50)
    make_set(tmp_path / "c", 50, seed=4)
    rows = [make_row(i) for i in reversed(range(50))]
    assemble([TRAINING_SET.table(rows)], tmp_path / "d", seed=3, part_rows=4, n_spills=1)
    naive = sorted(range(50), key=lambda i: int(shuffle_keys([f"row-{i:04d}"], [0], 3)[0]))
    assert order_of(tmp_path / "a") == [f"row-{i:04d}" for i in naive]
    assert order_of(tmp_path / "a") == order_of(tmp_path / "b") == order_of(tmp_path / "d")
    assert order_of(tmp_path / "a") != order_of(tmp_path / "c")
    # A shuffle, not the input order: the correlation of place and number is small (pinned seed, n = 50).
    assert abs(np.corrcoef(naive, range(50))[0, 1]) < 0.3


def test_copies_are_separate_rows_and_equal_keys_are_refused(tmp_path):
    rows = [make_row(1, copy=0), make_row(1, copy=1), make_row(2)]
    assemble([TRAINING_SET.table(rows)], tmp_path / "set", seed=0)
    assert Counter(order_of(tmp_path / "set")) == {"row-0001": 2, "row-0002": 1}
    with pytest.raises(InputError, match=r"'row-0001' copy 0 occurs twice"):
        assemble([TRAINING_SET.table([make_row(1)]), TRAINING_SET.table([make_row(1)])], tmp_path / "x", seed=0)


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(InputError, match="no kept row"):
        assemble([TRAINING_SET.table([make_row(0, **rejected("x"))])], tmp_path / "a", seed=0)
    with pytest.raises(InputError, match="columns"):
        assemble([TRAINING_SET.table([make_row(0)]).drop_columns(["url"])], tmp_path / "b", seed=0)
    other_width = make_row(1, **states_columns([np.zeros((4, 6))]))
    with pytest.raises(InputError, match=r"text states have widths and types \[\(5, 'float16'\), \(6, 'float16'\)\]"):
        assemble([TRAINING_SET.table([make_row(0), other_width])], tmp_path / "c", seed=0)
    other_type = make_row(1, **states_columns([np.zeros((4, 5))], "float32"))
    with pytest.raises(InputError, match="float32"):
        assemble([TRAINING_SET.table([make_row(0), other_type])], tmp_path / "d", seed=0)


def test_unfinished_set_is_refused(tmp_path):
    make_set(tmp_path / "set", 5)
    (tmp_path / "set/manifest.json").unlink()
    with pytest.raises(InputError, match="not an assembled training set"):
        PartLoader(tmp_path / "set", 4)


def take(loader: PartLoader, n: int) -> list[LatentBatch]:
    return [next(loader) for _ in range(n)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_row_once_per_epoch_over_all_ranks(tmp_path, world_size):
    make_set(tmp_path / "set", 24)
    loaders = [PartLoader(tmp_path / "set", 4, rank, world_size, seed=5) for rank in range(world_size)]
    epochs = []
    for _ in range(3):
        rows = [row for loader in loaders for batch in take(loader, 6) for row in batch.row_ids]
        assert Counter(rows) == {f"row-{i:04d}": 1 for i in range(24)}
        epochs.append(rows)
    assert epochs[0] != epochs[1] != epochs[2], "each epoch has its own order"


def test_values_follow_their_row(tmp_path):
    make_set(tmp_path / "set", 10)
    batch = next(PartLoader(tmp_path / "set", 10, seed=1))
    assert batch.latents.shape == (10, 3, 2, 2)
    assert batch.latents.dtype == torch.float32
    for k, row_id in enumerate(batch.row_ids):
        i = int(row_id[4:])
        assert batch.captions[k] == f"caption {i}"
        assert (batch.latents[k] == i).all()
        assert (batch.conditioning.states[k] == -i).all()


@pytest.mark.parametrize(("batch_size", "sizes"), [(4, [2, 2]), (16, [5, 5, 6]), (5, [1, 1, 1, 2])])
def test_ranks_split_the_same_global_batches(tmp_path, batch_size, sizes):
    """Shares differ by one sample at most, so that any number of workers up to the batch size works."""
    make_set(tmp_path / "set", 26, wide_from=14)
    one = PartLoader(tmp_path / "set", batch_size, seed=5)
    several = [PartLoader(tmp_path / "set", batch_size, rank, len(sizes), seed=5) for rank in range(len(sizes))]
    for _ in range(20):
        whole, shares = next(one), [next(loader) for loader in several]
        assert [len(share) for share in shares] == sizes
        assert whole.row_ids == [row for share in shares for row in share.row_ids]
        torch.testing.assert_close(whole.latents, torch.cat([s.latents for s in shares]), rtol=0, atol=0)


def test_buckets_are_not_mixed_and_remainders_wait_for_the_next_epoch(tmp_path):
    n, n_batches = 23, 23  # 14 rows of 2x2 and 9 of 2x3 in batches of 4: neither divides
    make_set(tmp_path / "set", n, wide_from=14)
    loader = PartLoader(tmp_path / "set", 4, seed=5)
    seen = Counter()
    for batch in take(loader, n_batches):
        assert batch.latents.shape == (4, 3, 2, int(batch.bucket[-1]))
        seen.update(batch.row_ids)
    assert sum(seen.values()) == 4 * n_batches
    # 4 epochs of 23 rows were walked: no row is behind or ahead by more than what still waits.
    assert set(seen.values()) <= {3, 4, 5}
    assert loader.state()["epoch"] in (3, 4)


def test_a_set_smaller_than_a_batch_wraps_over_epochs(tmp_path):
    make_set(tmp_path / "set", 3, part_rows=2)
    batch = next(PartLoader(tmp_path / "set", 8, seed=0))
    counts = Counter(batch.row_ids)
    assert sorted(counts.values()) == [2, 3, 3]


def test_resume_at_every_position_continues_the_same_stream(tmp_path):
    make_set(tmp_path / "set", 23, wide_from=14)
    loader = PartLoader(tmp_path / "set", 4, seed=5)
    states, stream = [loader.state()], []
    for _ in range(15):
        stream.append(next(loader).row_ids)
        states.append(loader.state())
    for position, state in enumerate(states):
        saved = json.loads(json.dumps(state))
        assert saved["batches"] == position
        resumed = PartLoader(tmp_path / "set", 4, seed=5, state=saved)
        assert [next(resumed).row_ids for _ in range(15 - position)] == stream[position:]


def test_small_cache_gives_the_same_stream(tmp_path, monkeypatch):
    make_set(tmp_path / "set", 30, part_rows=1)

    def stream(cached_parts):
        monkeypatch.setattr("raysys.latents.parts.CACHED_PARTS", cached_parts)
        loader = PartLoader(tmp_path / "set", 8, seed=5)
        return [next(loader).row_ids for _ in range(10)]

    assert stream(30) == stream(2)


def test_each_worker_needs_a_sample(tmp_path):
    make_set(tmp_path / "set", 5)
    with pytest.raises(InputError, match="batch_size = 2 is smaller than the number of workers, 3"):
        PartLoader(tmp_path / "set", 2, 0, 3)


def test_captions_of_different_lengths_are_padded_to_the_longest_of_the_batch(tmp_path):
    rows = [make_row(i, **states_columns([np.full((1 + i % 3, 5), 1.0 + i)], "bfloat16")) for i in range(6)]
    assemble([TRAINING_SET.table(rows)], tmp_path / "set", seed=0)
    batch = next(PartLoader(tmp_path / "set", 6, seed=1))
    assert batch.conditioning.states.shape == (6, 3, 5)
    assert batch.conditioning.states.dtype == torch.float32
    for row_id, states, mask in zip(batch.row_ids, batch.conditioning.states, batch.conditioning.mask, strict=True):
        i = int(row_id[4:])
        assert mask.tolist() == [k <= i % 3 for k in range(3)]
        assert (states[mask] == 1.0 + i).all()
        assert (states[~mask] == 0.0).all()
    assert batch[1:3].conditioning.mask.shape == (2, 3)
    assert len(batch[1:3]) == 2


def several_captions(i: int) -> dict:
    """Row i with three captions; the states of caption k hold 10·i + k."""
    captions = {"captions": [f"caption {i}.{k}" for k in range(3)], "caption_ids": [f"row-{i:04d}/{k}" for k in "abc"]}
    return make_row(i, **captions, **states_columns([np.full((4, 5), 10 * i + k) for k in range(3)]))


def test_one_of_several_captions_is_drawn_by_position(tmp_path):
    assemble([TRAINING_SET.table([several_captions(i) for i in range(8)])], tmp_path / "set", seed=0, part_rows=3)
    loader = PartLoader(tmp_path / "set", 4, seed=5)
    stream, states, drawn = [], [loader.state()], Counter()
    for _ in range(150):
        batch = next(loader)
        stream.append(batch.captions)
        states.append(loader.state())
        for row_id, caption, own in zip(batch.row_ids, batch.captions, batch.conditioning.states, strict=True):
            i, k = map(int, caption.removeprefix("caption ").split("."))
            assert i == int(row_id[4:])
            assert (own == 10 * i + k).all(), "the states are those of the caption that is shown"
            drawn[k] += 1
    # 600 draws of three captions: 200 each, standard deviation 11.5.
    assert all(abs(n - 200) < 50 for n in drawn.values()), drawn
    three = [PartLoader(tmp_path / "set", 4, rank, 3, seed=5, state=states[7]) for rank in range(3)]
    for expected in stream[7:20]:
        assert [caption for worker in three for caption in next(worker).captions] == expected
    other = PartLoader(tmp_path / "set", 4, seed=6)
    assert [next(other).captions for _ in range(5)] != stream[:5]


def test_the_first_caption_stands_for_a_row(tmp_path):
    assemble([TRAINING_SET.table([several_captions(1)])], tmp_path / "set", seed=0)
    [table] = read_tables(tmp_path / "set", ["row_id", "caption"])
    assert table.to_pylist() == [{"row_id": "row-0001", "caption": "caption 1.0"}]
