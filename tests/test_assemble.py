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
from raysys.latents.parts import LoaderState, PartLoader, read_manifest, read_tables
from raysys.outcomes import kept, rejected
from raysys.rows import TRAINING_SET, array_to_bytes


def make_row(i: int, height: int = 2, width: int = 2, copy: int = 0, **columns) -> dict:
    """Row i: every latent value is i, every text-state value is −i, so a mixed-up join is visible."""
    latents, latents_shape = array_to_bytes(np.full((3, height, width), i))
    embeds, embeds_shape = array_to_bytes(np.full((4, 5), -i))
    return {
        "row_id": f"row-{i:04d}",
        "copy": copy,
        "sample_id": f"sample-{i}",
        "caption": f"caption {i}",
        "licence": ("CC0-1.0", "CC-BY-4.0")[i % 2],
        "bucket": f"{height}x{width}",
        "latents": latents,
        "latents_shape": latents_shape,
        "prompt_embeds": embeds,
        "prompt_embeds_shape": embeds_shape,
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
    manifest = assemble([TRAINING_SET.table(rows)], tmp_path / "set", seed=1, part_rows=4, notes={"fingerprint": "f"})
    assert manifest == read_manifest(tmp_path / "set") == json.loads((tmp_path / "set/manifest.json").read_text())
    assert manifest["rows"] == {"in": 22, "kept": 21, "rejected": {"too_large": 1}, "error": {}}
    assert manifest["buckets"] == {"2x2": 11, "2x3": 10}
    assert manifest["licences"] == {"CC-BY-4.0": 10, "CC0-1.0": 11}
    assert manifest["seed"] == 1
    assert manifest["notes"] == {"fingerprint": "f"}
    assert [part["rows"] for part in manifest["parts"]] == [4, 4, 3, 4, 4, 2]
    for part in manifest["parts"]:
        table = pq.read_table(tmp_path / "set" / part["name"])
        assert table.schema.equals(TRAINING_SET.schema)
        assert set(table["bucket"].to_pylist()) == {part["bucket"]}
        assert table.num_rows == part["rows"]
    assert sorted(order_of(tmp_path / "set")) == [f"row-{i:04d}" for i in range(21)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["set"], "staging folders must not stay"


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
    with pytest.raises(InputError, match=r"'row-0001' copy 0 comes twice"):
        assemble([TRAINING_SET.table([make_row(1)]), TRAINING_SET.table([make_row(1)])], tmp_path / "x", seed=0)


def test_bad_input_is_refused_and_keeps_the_old_set(tmp_path):
    make_set(tmp_path / "set", 5)
    before = order_of(tmp_path / "set")
    with pytest.raises(InputError, match="no kept row"):
        assemble([TRAINING_SET.table([make_row(0, **rejected("x"))])], tmp_path / "set", seed=0)
    with pytest.raises(InputError, match="columns"):
        assemble([TRAINING_SET.table([make_row(0)]).drop_columns(["url"])], tmp_path / "set", seed=0)
    short = array_to_bytes(np.zeros((3, 5)))
    odd = make_row(1, prompt_embeds=short[0], prompt_embeds_shape=short[1])
    with pytest.raises(InputError, match="text states have shapes"):
        assemble([TRAINING_SET.table([make_row(0), odd])], tmp_path / "set", seed=0)
    assert order_of(tmp_path / "set") == before
    make_set(tmp_path / "set", 6)
    assert len(order_of(tmp_path / "set")) == 6, "a new set replaces the old one"


def test_unfinished_set_is_refused(tmp_path):
    make_set(tmp_path / "set", 5)
    (tmp_path / "set/manifest.json").unlink()
    with pytest.raises(InputError, match="no assembled training set"):
        PartLoader(tmp_path / "set", 4)


def take(loader: PartLoader, n: int) -> list[dict]:
    return [next(loader) for _ in range(n)]


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_every_row_once_per_epoch_over_all_ranks(tmp_path, world_size):
    make_set(tmp_path / "set", 24)
    loaders = [PartLoader(tmp_path / "set", 4, rank, world_size, seed=5) for rank in range(world_size)]
    epochs = []
    for _ in range(3):
        rows = [row for loader in loaders for batch in take(loader, 6) for row in batch["row_ids"]]
        assert Counter(rows) == {f"row-{i:04d}": 1 for i in range(24)}
        epochs.append(rows)
    assert epochs[0] != epochs[1] != epochs[2], "each epoch has its own order"


def test_values_follow_their_row(tmp_path):
    make_set(tmp_path / "set", 10)
    batch = next(PartLoader(tmp_path / "set", 10, seed=1))
    assert batch["latents"].shape == (10, 3, 2, 2)
    assert batch["latents"].dtype == torch.float32
    for k, row_id in enumerate(batch["row_ids"]):
        i = int(row_id[4:])
        assert batch["captions"][k] == f"caption {i}"
        assert (batch["latents"][k] == i).all()
        assert (batch["prompt_embeds"][k] == -i).all()


def test_ranks_split_the_same_global_batches(tmp_path):
    make_set(tmp_path / "set", 26, wide_from=14)
    one = PartLoader(tmp_path / "set", 4, seed=5)
    two = [PartLoader(tmp_path / "set", 4, rank, 2, seed=5) for rank in range(2)]
    for _ in range(20):
        whole, shares = next(one), [next(loader) for loader in two]
        assert whole["row_ids"] == shares[0]["row_ids"] + shares[1]["row_ids"]
        torch.testing.assert_close(whole["latents"], torch.cat([s["latents"] for s in shares]), rtol=0, atol=0)


def test_buckets_are_not_mixed_and_remainders_wait_for_the_next_epoch(tmp_path):
    n, n_batches = 23, 23  # 14 rows of 2x2 and 9 of 2x3 in batches of 4: neither divides
    make_set(tmp_path / "set", n, wide_from=14)
    loader = PartLoader(tmp_path / "set", 4, seed=5)
    seen = Counter()
    for batch in take(loader, n_batches):
        assert batch["latents"].shape == (4, 3, 2, int(batch["bucket"][-1]))
        seen.update(batch["row_ids"])
    assert sum(seen.values()) == 4 * n_batches
    # 4 epochs of 23 rows were walked: no row is behind or ahead by more than what still waits.
    assert set(seen.values()) <= {3, 4, 5}
    assert loader.state().epoch in (3, 4)


def test_a_set_smaller_than_a_batch_wraps_over_epochs(tmp_path):
    make_set(tmp_path / "set", 3, part_rows=2)
    batch = next(PartLoader(tmp_path / "set", 8, seed=0))
    counts = Counter(batch["row_ids"])
    assert sorted(counts.values()) == [2, 3, 3]


def test_resume_at_every_position_continues_the_same_stream(tmp_path):
    make_set(tmp_path / "set", 23, wide_from=14)
    loader = PartLoader(tmp_path / "set", 4, seed=5)
    states, stream = [loader.state()], []
    for _ in range(15):
        stream.append(next(loader)["row_ids"])
        states.append(loader.state())
    for position, state in enumerate(states):
        saved = LoaderState.from_dict(json.loads(json.dumps(state.as_dict())))
        assert saved == state
        assert saved.batches == position
        resumed = PartLoader(tmp_path / "set", 4, seed=5, state=saved)
        assert [next(resumed)["row_ids"] for _ in range(15 - position)] == stream[position:]


def test_small_cache_gives_the_same_stream(tmp_path):
    make_set(tmp_path / "set", 30, part_rows=1)
    wide = PartLoader(tmp_path / "set", 8, seed=5, cached_parts=30)
    narrow = PartLoader(tmp_path / "set", 8, seed=5, cached_parts=2)
    for _ in range(10):
        assert next(wide)["row_ids"] == next(narrow)["row_ids"]


def test_batch_must_divide_over_workers(tmp_path):
    make_set(tmp_path / "set", 5)
    with pytest.raises(InputError, match="batch_size = 5 does not divide over 2"):
        PartLoader(tmp_path / "set", 5, 0, 2)
