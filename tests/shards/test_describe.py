"""Which images of a table or folder are described, chunk by chunk, and what becomes of those that cannot be read."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest

from raysys.errors import InputError
from raysys.outcomes import kept, rejected
from raysys.rows import CAPTIONS, FEATURES, GENERATIONS, SAMPLES
from raysys.shards.decode import DecodeConfig
from raysys.shards.describe import ImageLoader, described_by, features_of, image_source, stated
from raysys.similarity import DescriptorConfig, descriptor_facts, make_descriptor
from raysys.similarity.describe import Describe
from raysys.tables import InputPart, commit_part, open_output
from tests.support.photos import photo_tiles, png_bytes

N = 8


@pytest.fixture(scope="module")
def tiles() -> list[np.ndarray]:
    return photo_tiles(64)[: 40 : 40 // N]


def rows_of(path: Path, chunk_rows: int = 3) -> list[dict]:
    """FEATURES rows of everything at `path`, through a pickled stage input, as workers get it."""
    source, parts, _ = image_source(str(path))
    load, loader = pickle.loads(pickle.dumps((source, ImageLoader(DecodeConfig()))))
    stage = Describe(DescriptorConfig(), loader)
    chunks = open_output("unused", FEATURES, "toy", {}, parts, chunk_rows, dry_run=True).chunks
    return [row for chunk in chunks for row in stage(load(chunk))]


def write(path: Path, row_type, rows: list[dict], chunk_rows: int = 5) -> Path:
    output = open_output(str(path), row_type, "test", {"v": 1}, [InputPart("in", "/in", len(rows), "s")], chunk_rows)
    for chunk in output.chunks:
        commit_part(output.folder, chunk.file, row_type.table(rows[chunk.start : chunk.stop]))
    return path


def sample_rows(tiles) -> list[dict]:
    rows = []
    for i, tile in enumerate(tiles):
        data = png_bytes(tile)
        facts = {"sample_id": hashlib.sha256(data).hexdigest(), "image": data, "length": len(data)}
        rows.append({"row_id": f"a.tar/{i}", **facts, **kept()})
    return rows


def features(tile: np.ndarray) -> bytes:
    return make_descriptor()([tile])[0].tobytes()


def test_of_samples_the_kept_and_those_refused_for_their_license(tmp_path, tiles):
    rows = sample_rows(tiles)
    rows[1] |= rejected("license_not_allowed")
    rows[2] |= rejected("license_unknown")
    rows[3] |= rejected("empty_caption")
    rows[4] |= {"sample_id": None, "image": None} | rejected("license_unknown")  # no image came with it
    rows[5] |= {"image": rows[5]["image"][:200]} | rejected("license_unknown")
    found = rows_of(write(tmp_path / "samples", SAMPLES, rows))
    assert [row["image_id"] for row in found] == [f"a.tar/{i}" for i in (0, 1, 2, 5, 6, 7)]
    assert [row["reason"] for row in found] == [None, None, None, "truncated", None, None]
    for row in found:
        i = int(row["image_id"][-1])
        assert row["sample_id"] == rows[i]["sample_id"]
        assert row["features"] == (None if i == 5 else features(tiles[i]))


def test_generations_and_folders_give_the_same_features_as_samples(tmp_path, tiles):
    expected = {row["sample_id"]: features(tile) for row, tile in zip(sample_rows(tiles), tiles, strict=True)}
    generations = [{"gen_id": f"p{i}-0", "image": png_bytes(tile), **kept()} for i, tile in enumerate(tiles)]
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for i, tile in enumerate(tiles):
        (folder / ("sub" if i % 2 else ".") / f"{i}.png").write_bytes(png_bytes(tile))
    (folder / "note.txt").write_text("not an image")
    for path in (write(tmp_path / "generations", GENERATIONS, generations), folder):
        found = rows_of(path)
        assert len({row["image_id"] for row in found}) == N
        assert {row["sample_id"]: row["features"] for row in found} == expected


def test_files_with_names_that_are_not_utf8_and_files_that_go_away(tmp_path, tiles):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.png").write_bytes(png_bytes(tiles[0]))
    (folder / "gone.png").write_bytes(b"")
    Path(f"{folder}/caf\udce9.png").write_bytes(png_bytes(tiles[1]))
    source, parts, _ = image_source(str(folder))
    items = source(open_output("unused", FEATURES, "toy", {}, parts, 9, dry_run=True).chunks[0]).to_pylist()
    (folder / "gone.png").unlink()
    found = {image.image_id: image for image in ImageLoader(DecodeConfig())(items)}
    assert (found["a.png"].pixels == tiles[0]).all()
    assert (found["caf\\udce9.png"].pixels == tiles[1]).all()
    assert (found["gone.png"].fate["outcome"], found["gone.png"].fate["reason"]) == ("error", "FileNotFoundError")


def test_other_tables_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds captions rows"):
        image_source(str(write(tmp_path / "captions", CAPTIONS, [{"caption_id": "a", **kept()}])))
    with pytest.raises(InputError, match="does not exist"):
        image_source(str(tmp_path / "nothing"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no images in"):
        image_source(str(tmp_path / "empty"))


def test_a_features_table_serves_as_long_as_it_is_whole_and_of_the_same_images(tmp_path, tiles):
    samples, facts = write(tmp_path / "samples", SAMPLES, sample_rows(tiles)), descriptor_facts()
    place = str(tmp_path / "features")
    assert described_by(facts, place, str(samples)) is None
    _, parts, identity = image_source(str(samples))
    fields = {"images": identity, **stated(facts), "decode": "any limits"}
    output = open_output(place, FEATURES, facts.preset, fields, parts, 4)
    rows = rows_of(samples, 4)
    done = 0
    for chunk in output.chunks:
        assert described_by(facts, place, str(samples)) is None  # not whole yet
        n = chunk.stop - chunk.start
        commit_part(output.folder, chunk.file, FEATURES.table(rows[done : done + n]))
        done += n
    assert described_by(facts, place, str(samples)).counts().kept == N
    assert features_of(place, facts).counts().kept == N

    more = write(tmp_path / "other", SAMPLES, sample_rows(tiles[1:]))
    assert described_by(facts, place, str(more)) is None
    write(samples, SAMPLES, sample_rows(tiles[::-1]))  # the same parts hold other images now
    assert described_by(facts, place, str(samples)) is None
    with pytest.raises(InputError, match="has no features by clip"):
        features_of(place, type("Clip", (), {"preset": "clip"})())
