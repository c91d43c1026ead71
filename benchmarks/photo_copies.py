"""Tiles of photographs, split by photograph into a calibration and an evaluation half, and altered copies of them.

Photographs: those of scikit-image and scikit-learn, and, where `make photos` installed them, those of Debian's packages
mate-backgrounds and opencv-doc. Near-duplicates among the photographs (stereo pairs, series), drawings and test
patterns are left out. Calibration: every second photograph, by name within its source. No constant of the package was
chosen with the other half.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage
import sklearn
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps

Rng = np.random.Generator

_SKIMAGE = Path(skimage.__file__).parent / "data"
_SKLEARN = Path(sklearn.__file__).parent / "datasets" / "images"
# fmt: off
_SKIMAGE_PHOTOS = [
    "astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png", "coffee.png",
    "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png",
    "page.png", "retina.jpg", "rocket.jpg", "text.png",
]
_MATE = [
    "Aqua.jpg", "Blinds.jpg", "Dune.jpg", "FreshFlower.jpg", "Garden.jpg", "GreenMeadow.jpg", "LadyBird.jpg",
    "RainDrops.jpg", "Storm.jpg", "TwoWings.jpg", "Wood.jpg", "YellowFlower.jpg",
]
_OPENCV = [
    "data/aero1.jpg", "data/aloeL.jpg", "data/apple.jpg", "data/baboon.jpg", "data/basketball1.png", "data/board.jpg",
    "data/box_in_scene.png", "data/building.jpg", "data/butterfly.jpg", "data/chicky_512.png", "data/fruits.jpg",
    "data/graf1.png", "data/home.jpg", "data/left.jpg", "data/leuvenA.jpg", "data/messi5.jpg", "data/orange.jpg",
    "data/rubberwhale1.png", "data/squirrel_cls.jpg", "data/stuff.jpg", "data/sudoku.png", "hfs/data/000.jpg",
    "hfs/data/001.jpg", "hfs/data/002.jpg",
]
# fmt: on

LONG_SIDE = 1024
"""Larger photographs are shrunk, so that a tile shows something."""
PER_PHOTO = 24
"""At most this many tiles of one photograph, evenly spread over it, so that no photograph dominates."""
BLURRED_SHARE = 0.1
"""Share of the tiles that are replaced by a blurred version: nothing but a soft gradient of light."""


def photographs(share: Path) -> tuple[list[Path], list[Path]]:
    """(calibration half, evaluation half). share: the root of Debian's data files, /usr/share."""
    sources = [
        [*(_SKIMAGE / name for name in _SKIMAGE_PHOTOS), _SKLEARN / "china.jpg", _SKLEARN / "flower.jpg"],
        [share / "backgrounds/mate/nature" / name for name in _MATE],
        [share / "doc/opencv-doc/examples" / name for name in _OPENCV],
    ]
    present = [[path for path in source if path.is_file()] for source in sources]
    return [p for s in present for p in s[::2]], [p for s in present for p in s[1::2]]


@dataclass(frozen=True)
class Tiles:
    """pixels: uint8 [side, side, 3] each; photo: the index of its photograph, -1 for adversaries without one."""

    pixels: list[np.ndarray]
    photo: np.ndarray


def tiles_of(photos: Sequence[Path], side: int, rng: Rng) -> Tiles:
    """Non-overlapping tiles, some of them blurred, and at the end 4 flat colors and 4 images of pure noise.

    Nothing is left out for showing little: sky and out-of-focus backgrounds are part of photographs.
    """
    pixels, photo = [], []
    for number, path in enumerate(photos):
        image = Image.open(path).convert("RGB")
        image.thumbnail((LONG_SIDE, LONG_SIDE))
        whole = np.asarray(image)
        rows, columns = whole.shape[0] // side, whole.shape[1] // side
        spots = [(y * side, x * side) for y in range(rows) for x in range(columns)]
        chosen = np.unique(np.linspace(0, len(spots) - 1, min(PER_PHOTO, len(spots))).astype(int)) if spots else []
        for y, x in (spots[i] for i in chosen):
            tile = Image.fromarray(whole[y : y + side, x : x + side])
            if rng.random() < BLURRED_SHARE:
                tile = tile.filter(ImageFilter.GaussianBlur(side / 10))
            pixels.append(np.asarray(tile))
            photo.append(number)
    for value in ((0, 0, 0), (255, 255, 255), (120, 130, 128), (90, 140, 210)):
        pixels.append(np.full((side, side, 3), value, np.uint8))
    pixels += [rng.integers(0, 256, (side, side, 3), np.uint8) for _ in range(4)]
    return Tiles(pixels, np.array(photo + [-1] * 8))


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def _central(image: Image.Image, cut: float) -> Image.Image:
    """`cut` of the width and of the height removed, half on each side."""
    dx, dy = round(image.width * cut / 2), round(image.height * cut / 2)
    return image.crop((dx, dy, image.width - dx, image.height - dy))


def _corner(image: Image.Image, cut: float) -> Image.Image:
    """`cut` of the width and of the height removed at the right and at the bottom."""
    return image.crop((0, 0, round(image.width * (1 - cut)), round(image.height * (1 - cut))))


def _rotated(image: Image.Image, degrees: float) -> Image.Image:
    """Rotated, and cropped to the largest centered square without empty corners."""
    angle = np.deg2rad(degrees)
    inner = image.width / (np.cos(angle) + np.sin(angle))
    cut = (image.width - inner) / 2
    turned = image.rotate(degrees, Image.Resampling.BICUBIC)
    return turned.crop((round(cut), round(cut), round(image.width - cut), round(image.height - cut)))


def _text(image: Image.Image) -> Image.Image:
    image = image.copy()
    draw, height = ImageDraw.Draw(image), image.height // 6
    draw.rectangle((0, image.height - height, image.width, image.height), fill=(0, 0, 0))
    draw.text((4, image.height - height), "BEST OFFER", fill=(255, 255, 0), font_size=height * 0.8)
    draw.text((image.width // 8, image.height // 3), "SAMPLE", fill=(255, 255, 255), font_size=height)
    return image


def _jitter(image: Image.Image, rng: Rng) -> Image.Image:
    """Brightness, contrast, saturation and hue."""
    for enhance in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
        image = enhance(image).enhance(float(rng.uniform(0.6, 1.4)))
    hsv = np.asarray(image.convert("HSV")).copy()
    hsv[..., 0] += np.uint8(rng.integers(0, 256) if rng.random() < 0.25 else rng.integers(0, 20))
    return Image.fromarray(hsv, "HSV").convert("RGB")


def _noisy(image: Image.Image, rng: Rng, sigma: float) -> Image.Image:
    values = np.asarray(image) + rng.normal(0, sigma, (image.height, image.width, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def _half(image: Image.Image, other: Image.Image) -> Image.Image:
    """The left half of the image beside the right half of another one."""
    image = image.copy()
    image.paste(other.crop((other.width // 2, 0, other.width, other.height)), (image.width // 2, 0))
    return image


Alteration = Callable[[Image.Image, Rng, Image.Image], Image.Image]
"""(image, rng, an image of a photograph that is in neither set) → altered copy."""

ALTERATIONS: dict[str, Alteration] = {
    "resize 0.5": lambda i, r, o: i.resize((i.width // 2, i.height // 2), Image.Resampling.BICUBIC),
    "aspect 4:3": lambda i, r, o: i.resize((i.width, i.height * 3 // 4), Image.Resampling.BICUBIC),
    "JPEG 35": lambda i, r, o: _jpeg(i, 35),
    "JPEG 10": lambda i, r, o: _jpeg(i, 10),
    "crop 5 %": lambda i, r, o: _central(i, 0.05),
    "crop 10 %": lambda i, r, o: _central(i, 0.10),
    "crop 20 %": lambda i, r, o: _central(i, 0.20),
    "corner 20 %": lambda i, r, o: _corner(i, 0.20),
    "mirror": lambda i, r, o: ImageOps.mirror(i),
    "rotation 5°": lambda i, r, o: _rotated(i, 5),
    "rotation 90°": lambda i, r, o: i.transpose(Image.Transpose.ROTATE_90),
    "brightness": lambda i, r, o: ImageEnhance.Brightness(i).enhance(float(r.choice([0.6, 1.4]))),
    "blur": lambda i, r, o: i.filter(ImageFilter.GaussianBlur(i.width / 64)),
    "text": lambda i, r, o: _text(i),
    "jitter": lambda i, r, o: _jitter(i, r),
    "grayscale": lambda i, r, o: i.convert("L").convert("RGB"),
    "half composite": lambda i, r, o: _half(i, o),
    "noise": lambda i, r, o: _noisy(i, r, 20.0),
}
