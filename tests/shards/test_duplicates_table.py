"""SAMPLES ⋈ FEATURES → DUPLICATES tables: features from disk, and licenses that hold for every copy of an image."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from raysys.errors import InputError
from raysys.outcomes import error, kept, rejected
from raysys.rows import DUPLICATES, FEATURES, SAMPLES
from raysys.scenes.drawing import draw
from raysys.scenes.planted import NEAR_KINDS, near_duplicate
from raysys.scenes.scene import sample_scene
from raysys.shards.decode import DecodeConfig
from raysys.shards.duplicates import DuplicatesConfig, find_clusters
from raysys.shards.duplicates_table import write_duplicates
from raysys.shards.same_picture import SamePicture
from raysys.similarity import make_descriptor
from raysys.tables import InputPart, TableView, commit_part, open_output, open_table
from tests.support.photos import photo_tiles, png_bytes

DESCRIPTOR = make_descriptor()


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    rng = np.random.default_rng(8)
    return [draw(sample_scene(rng), 64) for _ in range(20)]


def sample(i: int, pixels: np.ndarray, license: str = "CC-BY-4.0", fate: dict | None = None) -> dict:
    size = {"width": pixels.shape[1], "height": pixels.shape[0]} if fate is None else {}
    image = png_bytes(pixels)
    identity = {"row_id": f"a.tar/{i:02}", "sample_id": hashlib.sha256(image).hexdigest(), "image": image}
    return identity | {"license": license} | size | (fate or kept())


def write(path: Path, row_type, rows: list[dict], parts: list[InputPart], chunk_rows: int) -> TableView:
    output = open_output(str(path), row_type, "embedded-v2", {"v": 1}, parts, chunk_rows)
    for chunk in output.chunks:
        commit_part(output.folder, chunk.file, row_type.table(rows[chunk.start : chunk.stop]))
    return open_table(str(path))


def clusters_of(path: Path, images: list[np.ndarray], rows: list[dict], **settings) -> list[dict]:
    """The DUPLICATES rows of `rows`, whose images are `images`, through tables of several parts."""
    samples = write(path / "samples", SAMPLES, rows, [InputPart("a.tar", "/a.tar", len(rows), "s")], 8)
    described = [
        {"image_id": row["row_id"], "sample_id": row["sample_id"], "features": features.tobytes(), **kept()}
        for row, features in zip(rows, DESCRIPTOR(images), strict=True)
    ]
    features = path / "features"
    output = open_output(str(features), FEATURES, "embedded-v2", {}, samples.inputs(), 3)
    for chunk in output.chunks:
        start = 8 * [part.name for part in samples.parts].index(chunk.part.name)
        part = described[start + chunk.start : start + chunk.stop]
        commit_part(output.folder, chunk.file, FEATURES.table(part))
    config = DuplicatesConfig(**settings).of_descriptor(DESCRIPTOR)
    counts = write_duplicates(str(path / "duplicates"), samples, open_table(str(features)), config, DESCRIPTOR.views)
    view = open_table(str(path / "duplicates"), DUPLICATES)
    found = [row for table in view.rows(outcome=None) for row in table.to_pylist()]
    assert counts.as_dict() == view.counts().as_dict()
    return found


def test_the_table_holds_the_clusters_of_the_rows(tmp_path, scenes):
    images = [*scenes, *(near_duplicate(scenes[i], NEAR_KINDS[i % 4]) for i in range(6)), scenes[3]]
    rows = [sample(i, image) for i, image in enumerate(images)]
    rows[7] |= rejected("too_small")
    found = clusters_of(tmp_path, images, rows)
    keep = [i for i in range(len(rows)) if i != 7]
    expected = find_clusters(
        [rows[i] | {"url": None} for i in keep],
        DESCRIPTOR([images[i] for i in keep]),
        DuplicatesConfig().of_descriptor(DESCRIPTOR),
        DESCRIPTOR.views,
        SamePicture(open_table(str(tmp_path / "samples")), DecodeConfig()),
    )
    assert found == DUPLICATES.table(expected).to_pylist()
    assert sum(row["outcome"] == "kept" for row in found) == 19


@pytest.mark.parametrize("kind", [*NEAR_KINDS, "mirrored", "same bytes"])
@pytest.mark.parametrize("reason", ["license_not_allowed", "license_unknown"])
def test_a_copy_of_a_refused_image_is_refused_whatever_its_own_license(tmp_path, scenes, kind, reason):
    """The refused row comes in another encoding; its near-copy under CC-BY was trained on."""
    refused = scenes[2]
    copies = {"mirrored": np.ascontiguousarray(refused[:, ::-1]), "same bytes": refused}
    copy = copies[kind] if kind in copies else near_duplicate(refused, kind)
    images = [scenes[0], scenes[1], refused, scenes[3], copy]
    rows = [sample(i, image) for i, image in enumerate(images)]
    rows[2] = sample(2, refused, "CC-BY-NC-4.0", rejected(reason))
    found = {row["row_id"]: row for row in clusters_of(tmp_path, images, rows)}
    assert set(found) == {"a.tar/00", "a.tar/01", "a.tar/03", "a.tar/04"}
    assert found["a.tar/04"]["reason"] == "license_conflict:a.tar/02"
    assert [found[f"a.tar/0{i}"]["outcome"] for i in (0, 1, 3)] == ["kept"] * 3


def test_the_whole_cluster_of_a_refused_copy_is_refused(tmp_path, scenes):
    """The representative is larger and need not be the member that is like the refused image."""
    enlarged, cropped = near_duplicate(scenes[2], "resized"), near_duplicate(scenes[2], "cropped")
    images = [enlarged, scenes[5], cropped, near_duplicate(cropped, "recompressed")]
    rows = [sample(i, image) for i, image in enumerate(images)]
    rows[3] = sample(3, images[3], "all-rights-reserved", rejected("license_not_allowed"))
    found = {row["row_id"]: row for row in clusters_of(tmp_path, images, rows)}
    assert found["a.tar/00"]["reason"] == "license_conflict:a.tar/03"
    assert found["a.tar/02"]["reason"] == "duplicate_of:a.tar/00"
    assert found["a.tar/01"]["outcome"] == "kept"


def test_without_near_only_equal_bytes_count(tmp_path, scenes):
    images = [scenes[0], scenes[1], near_duplicate(scenes[0], "brighter"), scenes[1]]
    rows = [sample(i, image) for i, image in enumerate(images)]
    rows[2] = sample(2, images[2], "CC-BY-NC-4.0", rejected("license_not_allowed"))
    rows[3] = sample(3, images[3], "CC-BY-NC-4.0", rejected("license_not_allowed"))
    found = {row["row_id"]: row for row in clusters_of(tmp_path, images, rows, near=False)}
    assert found["a.tar/00"]["outcome"] == "kept"
    assert found["a.tar/01"]["reason"] == "license_conflict:a.tar/03"


def test_rows_that_were_refused_for_other_reasons_taint_nothing(tmp_path, scenes):
    images = [scenes[0], near_duplicate(scenes[0], "brighter")]
    rows = [sample(0, images[0]), sample(1, images[1], fate=rejected("empty_caption"))]
    assert [row["outcome"] for row in clusters_of(tmp_path, images, rows)] == ["kept"]


def test_what_could_not_be_described_keeps_its_fate(tmp_path, scenes):
    rows = [sample(i, scenes[i]) for i in range(4)]
    samples = write(tmp_path / "samples", SAMPLES, rows, [InputPart("a.tar", "/a.tar", 4, "s")], 4)
    described = [
        {"image_id": row["row_id"], "features": features.tobytes(), **kept()}
        for row, features in zip(rows, DESCRIPTOR(scenes[:4]), strict=True)
    ]
    described[1] |= {"features": None, **error("read", "FileNotFoundError", "gone")}
    features = write(tmp_path / "features", FEATURES, described[:3], samples.inputs(), 4)
    config = DuplicatesConfig().of_descriptor(DESCRIPTOR)
    write_duplicates(str(tmp_path / "duplicates"), samples, features, config, DESCRIPTOR.views)
    found = [row for table in open_table(str(tmp_path / "duplicates")).rows(outcome=None) for row in table.to_pylist()]
    assert [(row["outcome"], row["reason"]) for row in found] == [
        ("kept", None),
        ("error", "FileNotFoundError"),
        ("kept", None),
        ("rejected", "not_described"),
    ]


def test_blurred_photographs_are_not_merged_and_their_copies_are(tmp_path):
    """Every tenth tile is blurred, as a background out of focus is; four tiles have an altered copy."""
    tiles = photo_tiles(96)[::3][:120]
    images = [
        np.asarray(Image.fromarray(tile).filter(ImageFilter.GaussianBlur(10))) if i % 10 == 0 else tile
        for i, tile in enumerate(tiles)
    ]
    copied = {
        17: np.rot90(images[17]),
        33: images[33][:, ::-1],
        48: images[48][:88, :88],
        95: images[95][10:-10, 10:-10],
    }
    images += [np.ascontiguousarray(copy) for copy in copied.values()]
    rows = [sample(i, image) | {"row_id": f"a.tar/{i:03}"} for i, image in enumerate(images)]
    found = {row["row_id"]: row for row in clusters_of(tmp_path, images, rows)}
    merged = {name: row["reason"] for name, row in found.items() if row["outcome"] != "kept"}
    assert merged == {f"a.tar/{len(tiles) + k}": f"duplicate_of:a.tar/{i:03}" for k, i in enumerate(copied)}


def test_an_image_that_cannot_be_read_again_stops_with_its_name(tmp_path, scenes):
    images = [scenes[0], near_duplicate(scenes[0], "brighter")]
    rows = [sample(i, image) for i, image in enumerate(images)]
    rows[1] |= {"image": None, "shard": str(tmp_path / "gone.tar"), "member": "b.png", "offset": 0, "length": 9}
    with pytest.raises(InputError, match=r"the image of a\.tar/01 cannot be read again: FileNotFoundError"):
        clusters_of(tmp_path, images, rows)
