"""The second look at the pixels: copies of photographs pass, and what only looks alike does not."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from raysys.similarity import make_descriptor
from raysys.similarity.verify import VERIFIED, Prepared, verification_score
from tests.support.photos import PHOTOS

NAMES = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png", "rocket.jpg")


def photo(name: str) -> Image.Image:
    return Image.open(next(path for path in PHOTOS if path.name == name)).convert("RGB")


def tiles_of(image: Image.Image, side: int) -> list[Image.Image]:
    """A row of tiles side by side, which share no pixel."""
    return [image.crop((x, 0, x + side, side)) for x in range(0, image.width - side + 1, side)]


def is_verified(first: Image.Image, second: Image.Image, similarity: float | None = None) -> bool:
    if similarity is None:
        descriptor = make_descriptor()
        a, b = descriptor([first, second])
        similarity = float((descriptor.views(a[None])[0] @ b).max())
    return verification_score(Prepared(first), Prepared(second), similarity) >= VERIFIED


@pytest.fixture(scope="module")
def tiles() -> list[Image.Image]:
    return [photo(name).crop((100, 60, 260, 220)) for name in NAMES]


def half(image: Image.Image, other: Image.Image) -> Image.Image:
    image = image.copy()
    image.paste(other.crop((80, 0, 160, 160)), (80, 0))
    return image


def jpeg(image: Image.Image) -> Image.Image:
    out = io.BytesIO()
    image.save(out, "JPEG", quality=30)
    return Image.open(out)


@pytest.mark.parametrize(
    "alter",
    [
        lambda i, o: i.resize((70, 90)),
        lambda i, o: jpeg(i),
        lambda i, o: i.crop((0, 0, 128, 128)),
        lambda i, o: i.rotate(5).crop((12, 12, 148, 148)),
        lambda i, o: i.transpose(Image.Transpose.ROTATE_90),
        lambda i, o: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT).convert("L"),
        half,
    ],
    ids=["resize", "jpeg", "corner", "rotation", "turn", "mirror", "half"],
)
def test_altered_copies_are_verified_and_their_neighbors_are_not(tiles, alter):
    copies = [alter(tile, tiles[i - 1]) for i, tile in enumerate(tiles)]
    assert sum(is_verified(tile, copy) for tile, copy in zip(tiles, copies, strict=True)) >= len(tiles) - 1
    others = [is_verified(tiles[i], copies[i - 2]) for i in range(len(tiles))]
    assert not any(others)


@pytest.mark.parametrize("name", ["brick.png", "grass.png", "gravel.png"])
def test_neighboring_tiles_of_one_texture_are_not_verified(name):
    tiles = tiles_of(photo(name), 128)
    assert len(tiles) == 4
    # Even if the features called them near-duplicates.
    found = [is_verified(a, b, 0.9) for i, a in enumerate(tiles) for b in tiles[:i]]
    assert not any(found)


def test_two_soft_gradients_prove_nothing_and_a_copy_of_one_often_does(tiles):
    soft = [tile.filter(ImageFilter.GaussianBlur(20)) for tile in tiles]
    pairs = [is_verified(a, b, 0.9) for i, a in enumerate(soft) for b in soft[:i]]
    assert not any(pairs)
    assert sum(is_verified(image, image.resize((120, 120)), 0.95) for image in soft) >= len(soft) // 2


@pytest.mark.parametrize("side", [1, 2, 32, 64])
def test_small_and_flat_images_do_not_fail(tiles, side):
    small = [tile.resize((side, side)) for tile in tiles[:3]]
    flat = [Image.new("RGB", (side, side), color) for color in ("black", "white")]
    scores = [verification_score(Prepared(a), Prepared(b), 0.9) for a in small + flat for b in small + flat]
    assert np.isfinite(scores).all()
    assert not is_verified(flat[0], flat[1], 0.9)
    if side >= 32:
        assert is_verified(small[0], tiles[0])
        assert not is_verified(small[0], small[1])
