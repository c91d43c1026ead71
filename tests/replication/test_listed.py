"""`raysys.score` of lists: paths, Pillow images and arrays, without a folder for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import raysys
from raysys.errors import InputError
from tests.support.photos import photo_tiles


@pytest.fixture(scope="module")
def tiles() -> list[np.ndarray]:
    return photo_tiles(64)[:60:5]


@pytest.fixture
def training(tmp_path: Path, tiles: list[np.ndarray]) -> Path:
    folder = tmp_path / "training"
    folder.mkdir()
    for i, tile in enumerate(tiles):
        Image.fromarray(tile).save(folder / f"t{i:02}.png")
        (folder / f"t{i:02}.txt").write_text(f"tile {i}")
    return folder


def test_pillow_images_and_arrays_against_a_folder(training, tiles):
    result = raysys.score([Image.fromarray(tiles[3]), np.ascontiguousarray(tiles[5][:, ::-1])], training)
    assert result.generated_ids == ("image 0", "image 1")
    found = {m["generated"]: (m["training"], m["caption"]) for m in result.matches}
    assert found == {"image 0": ("t03.png", "tile 3"), "image 1": ("t05.png", "tile 5")}
    assert result.R > 0.99


def test_a_list_of_paths_gives_what_the_folder_gives(training, tiles):
    paths = sorted(training.glob("*.png"))
    generated = [Image.fromarray(tile).resize((48, 48)) for tile in tiles[:4]]
    listed, folder = raysys.score(generated, paths), raysys.score(generated, str(training))
    np.testing.assert_array_equal(listed.similarities, folder.similarities)
    assert [m["caption"] for m in listed.matches] == [m["caption"] for m in folder.matches]
    assert {m["training"] for m in listed.matches} == {str(paths[i]) for i in range(4)}


def test_what_cannot_be_read_or_repeats_is_said(training, tiles):
    path = training / "t00.png"
    result = raysys.score([path, path, training / "gone.png"], [Image.fromarray(tiles[0])])
    assert result.generated_ids == (f"{path} (0)", f"{path} (1)")
    assert [(u.id, u.reason) for u in result.unreadable] == [(str(training / "gone.png"), "FileNotFoundError")]


@pytest.mark.parametrize(
    ("generated", "words"),
    [([], "generated: the list is empty"), ([np.zeros((8, 8, 3))], "generated: item 0 is not an image"), ([3], "int")],
)
def test_lists_that_are_none(training, generated, words):
    with pytest.raises(InputError, match=words):
        raysys.score(generated, training)


def test_the_same_list_twice_is_refused(training):
    paths = sorted(training.glob("*.png"))
    with pytest.raises(InputError, match="every image would match itself"):
        raysys.score(paths, paths)
