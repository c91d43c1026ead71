"""`score` on folders and tables, through its public entry point, against a brute-force reference."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raysys.errors import InputError
from raysys.outcomes import kept, rejected
from raysys.replication import ReplicationConfig, open_images, score, terminal_progress
from raysys.rows import GENERATIONS, MATCHES, SAMPLES, RowType
from raysys.similarity import make_descriptor
from raysys.tables import InputPart, commit_part, open_output
from tests.support.photos import ALTERATIONS, photo_tiles, png_bytes

N_TRAINING, N_COPIES, N_OTHERS = 150, 40, 80


@pytest.fixture(scope="module")
def tiles() -> list[np.ndarray]:
    """Different tiles in a random order: the first 150 are the training set, the last 80 were never trained on."""
    found = photo_tiles(96)
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[: N_TRAINING + N_OTHERS]]


@pytest.fixture(scope="module")
def copies(tiles) -> list[np.ndarray]:
    """Copy i is an altered tile i."""
    rng, alter = np.random.default_rng(1), list(ALTERATIONS.values())
    return [np.asarray(alter[i % len(alter)](tiles[i], rng)) for i in range(N_COPIES)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory, tiles, copies) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sets")
    names = {"generated": {}, "training": {}, "held_out": {}}
    names["training"] = {f"part{i % 2}/t{i:03}": tiles[i] for i in range(N_TRAINING)}
    names["generated"] = {f"g{i:03}": image for i, image in enumerate([*copies, *tiles[N_TRAINING:]])}
    names["held_out"] = {f"h{i:03}": image for i, image in enumerate(tiles[N_TRAINING:])}
    for folder, images in names.items():
        for name, image in images.items():
            path = root / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(png_bytes(image))
    (root / "training" / "part0" / "t000.txt").write_text("a tile with caption\n")
    metadata = {"caption": "one", "license": "CC BY 4.0", "url": "https://example.org/1"}
    (root / "training" / "part1" / "t001.json").write_text(json.dumps(metadata))
    (root / "training" / "part0" / "t002.json").write_text("{broken")
    (root / "generated" / "g001.txt").write_text("the prompt")
    return {name: root / name for name in names}


def brute_force(generated, training) -> tuple[np.ndarray, np.ndarray]:
    """s(g) and the nearest index from the whole matrix."""
    d = make_descriptor()
    g, x = d(generated), d(training)
    matrix = np.max([view @ x.T for view in np.moveaxis(d.views(g), 1, 0)], axis=0)
    return matrix.max(1), matrix.argmax(1)


def test_score_of_two_folders_equals_the_full_matrix(folders, tiles, copies):
    result = score(folders["generated"], folders["training"], held_out=folders["held_out"])
    s, nearest = brute_force([*copies, *tiles[N_TRAINING:]], tiles[:N_TRAINING])
    np.testing.assert_allclose(result.similarities, s, atol=3e-6)
    assert pytest.approx(np.percentile(s, 95), abs=1e-6) == result.R
    assert (result.n_generated, result.n_training) == (N_COPIES + N_OTHERS, N_TRAINING)
    assert (result.descriptor, result.preset) == ("embedded", "embedded-v2")
    assert result.R_ci[0] <= result.R <= result.R_ci[1]

    by_name = {m["generated"]: m for m in result.matches}
    assert len(result.matches) == len(by_name) == N_COPIES + N_OTHERS
    right = [by_name[f"g{i:03}.png"]["training"] == f"part{i % 2}/t{i:03}.png" for i in range(N_COPIES)]
    assert sum(right) >= 0.95 * N_COPIES
    assert all(by_name[f"g{i:03}.png"]["training"] == f"part{n % 2}/t{n:03}.png" for i, n in enumerate(nearest))
    similarities = [m["similarity"] for m in result.matches]
    assert similarities == sorted(similarities, reverse=True)

    background = brute_force(tiles[:N_TRAINING], tiles[:N_TRAINING])[0]
    assert (background > 0.999).all()  # with itself; the reported one leaves it out
    assert result.background.n == N_TRAINING
    assert result.background.percentiles["95"] < 0.9 < result.R
    assert result.R_background_percentile == pytest.approx(100 * np.mean(result.background.similarities <= result.R))
    assert result.held_out_left_out.n == 0
    np.testing.assert_allclose(result.held_out.similarities, result.similarities[N_COPIES:], atol=3e-6)
    assert result.held_out.R < result.R
    assert result.held_out.R_ci is None
    assert "80 generated images" in result.held_out.R_ci_reason


def test_captions_licenses_and_urls_come_from_sidecars(folders):
    matches = {m["generated"]: m for m in score(folders["generated"], folders["training"]).matches}
    assert matches["g000.png"]["caption"] == "a tile with caption"
    assert matches["g000.png"]["license"] is None
    one = matches["g001.png"]
    assert (one["caption"], one["license"], one["url"]) == ("one", "CC-BY-4.0", "https://example.org/1")
    assert one["prompt"] == "the prompt"
    assert matches["g002.png"]["caption"] is None


def test_the_json_has_the_promised_fields_and_plain_types(folders):
    config = ReplicationConfig(top=3, background_images=20)
    result = score(folders["generated"], folders["training"], held_out=folders["held_out"], config=config)
    data = json.loads(json.dumps(result.to_dict()))
    assert {"R", "R_ci", "R_ci_reason", "mean", "percentiles", "fraction_above", "n_generated", "n_training"} <= set(
        data
    )
    assert {"descriptor", "preset", "weights_sha256", "background", "held_out", "unreadable", "seconds"} <= set(data)
    assert set(data["percentiles"]) == {"50", "75", "90", "95", "99"}
    assert set(data["fraction_above"]) == {"0.5", "0.75", "0.9", "0.92"}
    assert data["percentiles"]["95"] == data["R"]
    assert data["background"]["n"] == 20
    assert sum(data["background"]["histogram"]["counts"]) == 20
    assert len(data["matches"]) == N_COPIES + N_OTHERS
    assert {"generated", "training", "similarity"} <= set(data["matches"][0])
    rows = MATCHES.table(result.neighbors)
    assert rows.num_rows == 3 * (N_COPIES + N_OTHERS)
    assert len({(r["generated"], r["rank"]) for r in rows.to_pylist()}) == rows.num_rows


def test_block_and_batch_sizes_do_not_change_the_result(folders):
    small = ReplicationConfig(block_rows=7, batch_images=5, workers=1, threads=1, top=2)
    a = score(folders["generated"], folders["training"], config=small)
    b = score(folders["generated"], folders["training"], config=ReplicationConfig(top=2))
    assert a.matches == b.matches
    assert (a.R, a.R_ci, a.background.percentiles) == (b.R, b.R_ci, b.background.percentiles)


def test_unreadable_files_are_listed_and_not_counted(tmp_path, tiles):
    good = [png_bytes(t) for t in tiles[:6]]
    generated = folder_of(
        tmp_path / "g", {"a.png": good[0], "cut.png": good[1][: len(good[1]) // 2], "x.heic": b"?" * 40}
    )
    training = folder_of(tmp_path / "t", {"a.png": good[2], "b.jpg": b"<html>", "c.png": good[3], "sub/d.png": good[4]})
    result = score(generated, training)
    assert (result.n_generated, result.n_training) == (1, 3)
    assert {(u.role, u.id, u.outcome, u.reason) for u in result.unreadable} == {
        ("generated", "cut.png", "rejected", "truncated"),
        ("generated", "x.heic", "rejected", "not_image"),
        ("training", "b.jpg", "rejected", "not_image"),
    }
    assert str(result.unreadable[0]).startswith("generated cut.png: truncated")
    assert result.R_ci is None
    assert result.to_dict()["unreadable"][0]["reason"] == "truncated"


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def test_mistakes_are_named_before_any_work(tmp_path, tiles):
    data = png_bytes(tiles[0])
    good = folder_of(tmp_path / "good", {"a.png": data, "sub/b.png": data})
    bad = folder_of(tmp_path / "bad", {"a.png": data[:100], "b.png": b""})
    shards = folder_of(tmp_path / "shards", {"0.tar": b"", "1.tar": b""})
    (tmp_path / "empty").mkdir()
    mistakes = [
        (good, tmp_path / "none", "training: .*none does not exist"),
        (good / "a.png", bad, "generated: .* is a file"),
        (tmp_path / "empty", good, r"generated: no images in .*empty \(the folder is empty\)"),
        (good, shards, r"training: no images in .*shards \(found 2 .tar\)\n.*ingest"),
        (good, good / "." / "sub" / "..", "are both .*would match itself"),
        (good, good / "sub", "one contains the other"),
        (good, bad, "training: none of the 2 images"),
    ]
    for generated, training, message in mistakes:
        with pytest.raises(InputError, match=message):
            score(generated, training)
    with pytest.raises(InputError, match="held_out and training are both"):
        score(bad, good, held_out=good)


def test_one_training_image_has_no_background(tmp_path, tiles):
    generated = folder_of(tmp_path / "g", {"a.png": png_bytes(tiles[0])})
    training = folder_of(tmp_path / "t", {"a.png": png_bytes(tiles[0])})
    result = score(generated, training, config=ReplicationConfig(top=5))
    assert result.background is None
    assert result.R_background_percentile is None
    assert pytest.approx(1, abs=1e-6) == result.R
    assert len(result.neighbors) == 1


def test_progress_reaches_the_total_of_every_stage(folders, capsys):
    seen: dict[str, list[tuple[int, int]]] = {}
    with terminal_progress() as show:

        def both(stage: str, done: int, total: int) -> None:
            seen.setdefault(stage, []).append((done, total))
            show(stage, done, total)

        score(folders["generated"], folders["training"], progress=both)
    assert list(seen) == ["describe generated", "describe training", "search generated", "background"]
    for steps in seen.values():
        assert steps == sorted(steps)
        assert steps[-1][0] == steps[-1][1] > 0
    assert "describe training  150/150 images" in capsys.readouterr().err


def write_table(path: Path, row_type: RowType, rows: list[dict], chunk_rows: int = 16) -> Path:
    part = InputPart("input", "file:///input", len(rows), "signature")
    output = open_output(str(path), row_type, "test", {"v": 1}, [part], chunk_rows)
    for chunk in output.chunks:
        commit_part(output.folder, chunk.file, row_type.table(rows[chunk.start : chunk.stop]))
    return path


@pytest.fixture
def tables(tmp_path, tiles, copies) -> dict[str, Path]:
    """Generations with their PNG bytes; samples that refer to members of a tar, one of them to other bytes."""
    generations = [
        {"gen_id": f"p{i}-0", "prompt_id": f"p{i}", "prompt": f"prompt {i}", "image": png_bytes(c), **kept()}
        for i, c in enumerate(copies)
    ]
    generations[3] |= {"image": None, **rejected("filtered")}
    tar_path, samples = tmp_path / "a.tar", []
    with tarfile.open(tar_path, "w") as tar:
        for i, tile in enumerate(tiles[:N_TRAINING]):
            data = png_bytes(tile)
            info = tarfile.TarInfo(f"{i:04}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
            samples.append({"member": info.name, "length": len(data), "sample_id": hashlib.sha256(data).hexdigest()})
    with tarfile.open(tar_path) as tar:
        for i, row in enumerate(samples):
            row |= {
                "row_id": f"a.tar/{i:04}",
                "shard": str(tar_path),
                "offset": tar.getmember(row["member"]).offset_data,
            }
            row |= {"caption": f"caption {i}", "license": "CC0-1.0", "url": f"https://example.org/{i}", **kept()}
    samples[7]["sample_id"] = "0" * 64  # the shard was replaced after ingest
    return {
        "generations": write_table(tmp_path / "generations", GENERATIONS, generations),
        "samples": write_table(tmp_path / "samples", SAMPLES, samples, chunk_rows=64),
        "matches": write_table(tmp_path / "matches", MATCHES, [{"generated": "g", "rank": 0, **kept()}]),
    }


def test_score_of_two_tables_reads_embedded_and_referenced_images(tables, tiles, copies):
    result = score(tables["generations"], tables["samples"])
    assert (result.n_generated, result.n_training) == (N_COPIES - 1, N_TRAINING - 1)
    assert [(u.role, u.id, u.outcome, u.reason) for u in result.unreadable] == [
        ("training", "a.tar/0007", "error", "ValueError")
    ]
    by_name = {m["generated"]: m for m in result.matches}
    assert "p3-0" not in by_name
    match = by_name["p0-0"]
    assert (match["training"], match["prompt"], match["caption"]) == ("a.tar/0000", "prompt 0", "caption 0")
    assert (match["license"], match["url"]) == ("CC0-1.0", "https://example.org/0")
    expected = brute_force(
        [c for i, c in enumerate(copies) if i != 3], [t for i, t in enumerate(tiles[:N_TRAINING]) if i != 7]
    )[0]
    np.testing.assert_allclose(result.similarities, expected, atol=3e-6)


def test_a_table_gives_the_bytes_and_facts_of_single_images(tables, tiles, copies):
    samples, generations = open_images(tables["samples"]), open_images(tables["generations"])
    assert (np.asarray(Image.open(io.BytesIO(samples.bytes_of("a.tar/0100")))) == tiles[100]).all()
    assert (np.asarray(Image.open(io.BytesIO(generations.bytes_of("p5-0")))) == copies[5]).all()
    assert samples.facts_of(["a.tar/0002"]) == {
        "a.tar/0002": {"caption": "caption 2", "license": "CC0-1.0", "url": "https://example.org/2"}
    }
    for missing in ("p3-0", "nothing"):
        with pytest.raises(KeyError):
            generations.bytes_of(missing)
    with pytest.raises(ValueError, match="changed since it was ingested"):
        samples.bytes_of("a.tar/0007")


def test_a_table_of_other_rows_is_refused(tables):
    with pytest.raises(InputError, match=r"generated: .* holds matches rows"):
        score(tables["matches"], tables["samples"])


def test_a_folder_gives_the_bytes_of_single_images(folders):
    images = open_images(folders["training"])
    assert len(images) == N_TRAINING
    assert images.bytes_of("part0/t000.png") == (folders["training"] / "part0" / "t000.png").read_bytes()
    for outside in ("../generated/g000.png", "part0/t000.txt", "nothing.png"):
        with pytest.raises(KeyError):
            images.bytes_of(outside)


def test_large_pictures_are_described_in_small_batches(tmp_path, tiles, monkeypatch):
    """Memory is bounded by bytes, not by a number of images: the same features come out, a few images at a time."""
    from raysys.similarity import describe

    generated = folder_of(tmp_path / "g", {f"{i}.png": png_bytes(t) for i, t in enumerate(tiles[:5])})
    training = folder_of(tmp_path / "t", {f"{i}.png": png_bytes(t) for i, t in enumerate(tiles[5:30])})
    expected = score(generated, training)
    sizes = []

    class Spy(type(make_descriptor())):
        def __call__(self, images):
            sizes.append(len(images))
            return super().__call__(images)

    monkeypatch.setattr(describe, "BATCH_BYTES", 2 * tiles[0].nbytes)
    found = score(generated, training, descriptor=Spy())
    assert found.matches == expected.matches
    assert max(sizes) == 2
    assert sum(sizes) == 30
