"""Tiles of the photographs that scikit-image and scikit-learn ship inside their packages, and altered copies."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import skimage
import sklearn
from PIL import Image, ImageEnhance, ImageFilter

_SKIMAGE = Path(skimage.__file__).parent / "data"
_SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
# Left out: the second picture of the stereo pair (a near-duplicate of the first), drawings and test patterns.
# fmt: off
_SKIMAGE_PHOTOS = [
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
    "page.png", "retina.jpg", "rocket.jpg", "text.png",
]
# fmt: on
PHOTOS = [*(_SKIMAGE / name for name in _SKIMAGE_PHOTOS), _SKLEARN / "china.jpg", _SKLEARN / "flower.jpg"]

MIN_CONTRAST = 8.0
"""Tiles whose standard deviation is below this (of 255) show nothing: empty sky is the same on any photograph."""

Rng = np.random.Generator


def photo_tiles(side: int) -> list[np.ndarray]:
    """All non-overlapping square tiles with contents, uint8 [side, side, 3]."""
    tiles = []
    for path in PHOTOS:
        pixels = np.asarray(Image.open(path).convert("RGB"))
        for y in range(0, pixels.shape[0] - side + 1, side):
            for x in range(0, pixels.shape[1] - side + 1, side):
                tile = pixels[y : y + side, x : x + side]
                if tile.std(axis=(0, 1)).max() >= MIN_CONTRAST:
                    tiles.append(tile)
    return tiles


def resized(tile: np.ndarray, rng: Rng) -> Image.Image:
    image, factor = Image.fromarray(tile), rng.choice([0.5, 0.75, 1.5, 2.0])
    return image.resize((int(image.width * factor), int(image.height * factor)), Image.Resampling.BICUBIC)


def jpeg(tile: np.ndarray, rng: Rng) -> Image.Image:
    buffer = io.BytesIO()
    Image.fromarray(tile).save(buffer, "JPEG", quality=int(rng.choice([30, 50, 70])))
    return Image.open(buffer).convert("RGB")


def cropped(tile: np.ndarray, rng: Rng) -> Image.Image:
    """10 % of the width and of the height cut off, at random sides."""
    height, width = tile.shape[:2]
    cut = round(0.1 * width)
    x, y = (int(v) for v in rng.integers(0, cut + 1, 2))
    return Image.fromarray(tile[y : height - cut + y, x : width - cut + x])


def mirrored(tile: np.ndarray, rng: Rng) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(tile[:, ::-1]))


def brightened(tile: np.ndarray, rng: Rng) -> Image.Image:
    return ImageEnhance.Brightness(Image.fromarray(tile)).enhance(float(rng.choice([0.6, 0.75, 1.25, 1.4])))


def blurred(tile: np.ndarray, rng: Rng) -> Image.Image:
    return Image.fromarray(tile).filter(ImageFilter.GaussianBlur(float(rng.choice([1.0, 1.5, 2.0]))))


ALTERATIONS: dict[str, Callable[[np.ndarray, Rng], Image.Image]] = {
    "resize": resized,
    "jpeg": jpeg,
    "crop": cropped,
    "mirror": mirrored,
    "brightness": brightened,
    "blur": blurred,
}


def png_bytes(image: np.ndarray | Image.Image) -> bytes:
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
