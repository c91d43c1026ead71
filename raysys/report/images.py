"""Pictures for a self-contained page: small PNG data URIs within a size budget, from bytes nobody vouches for."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from raysys.report.data import ImageOf

MAX_SOURCE_PIXELS = 64_000_000
"""Larger images are not decoded for a thumbnail: 64 MP of RGB is 192 MB, and the header alone can claim anything."""

THUMBNAIL_SIDES = (320, 256, 192, 144, 112, 80)
"""Longest side in pixels, tried in this order until the page fits its budget."""

PIXEL_ART_SIDE = 96
"""Images up to this side are drawn with hard pixels when enlarged; smoothing would hide what the model did."""


@dataclass(frozen=True)
class Picture:
    """A thumbnail (`src` is a data URI; None = not shown, `why` says the reason) with the size of its source."""

    src: str | None
    width: int = 0
    height: int = 0
    why: str = ""

    @property
    def pixelated(self) -> bool:
        return max(self.width, self.height) <= PIXEL_ART_SIDE


def load(image_of: ImageOf, name: str) -> Image.Image | str:
    """The decoded image as RGB, or the reason why there is none (the page must survive a missing or damaged file)."""
    try:
        data = image_of(name)
    except (OSError, KeyError, ValueError) as exc:
        return f"cannot be read ({type(exc).__name__})"
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_SOURCE_PIXELS:
                return f"too large ({image.width} × {image.height} pixels)"
            # JPEG can decode at a fraction of its size; other formats ignore this.
            image.draft("RGB", (2 * THUMBNAIL_SIDES[0], 2 * THUMBNAIL_SIDES[0]))
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        # SyntaxError is what Pillow raises on a broken PNG.
        return f"cannot be decoded ({type(exc).__name__})"


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with its longest side at most `side` pixels; the same object when it already is."""
    if max(image.size) <= side:
        return image
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    return small


def encode(image: Image.Image, side: int) -> str:
    """A PNG data URI with the longest side at most `side` pixels (never enlarged)."""
    buffer = io.BytesIO()
    shrink(image, side).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def pictures(requests: Sequence[tuple[ImageOf, str]], budget_bytes: int) -> list[Picture]:
    """One Picture per (source, id), all shrunk alike until their data URIs fit `budget_bytes` together.

    Each distinct (source, id) is read and encoded once, but counts as often as it is shown: the page repeats it.
    The smallest side is taken even when it does not fit; callers cap the number of images.
    """
    loaded: dict[tuple[int, str], Image.Image | str] = {}
    keys = [(id(image_of), name) for image_of, name in requests]
    for key, (image_of, name) in zip(keys, requests, strict=True):
        if key not in loaded:
            loaded[key] = load(image_of, name)
    # Shrink once to the largest size: the later, smaller tries then start from small images.
    images = {key: shrink(image, THUMBNAIL_SIDES[0]) for key, image in loaded.items() if not isinstance(image, str)}
    encoded: dict[tuple[int, str], str] = {}
    wanted = THUMBNAIL_SIDES[0]
    for side in THUMBNAIL_SIDES:
        if side > wanted and side != THUMBNAIL_SIDES[-1]:
            continue
        encoded = {key: encode(image, side) for key, image in images.items()}
        total = sum(len(encoded.get(key, "")) for key in keys)
        if total <= budget_bytes:
            break
        # Bytes grow about as the area: skip the sizes that cannot fit (10 % grace, the loop still checks).
        wanted = 1.1 * side * math.sqrt(budget_bytes / total)
    return [_picture(loaded[key], encoded.get(key)) for key in keys]


def _picture(image: Image.Image | str, src: str | None) -> Picture:
    if isinstance(image, str):
        return Picture(None, why=image)
    return Picture(src, *image.size)
