"""Pictures for a self-contained page: small PNG data URIs within a size budget, from untrusted bytes."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageOps

from raysys.report.data import ImageOf
from raysys.shards.decode import has_codec

MAX_SOURCE_PIXELS = 64_000_000
"""Images with more pixels, according to their header, are not decoded for a thumbnail: 64 MP of RGB are 192 MB."""

THUMBNAIL_SIDES = (320, 256, 192, 144, 112, 80)
"""Longest sides in pixels, tried in this order until the pictures fit the budget."""

PIXEL_ART_SIDE = 96
"""Images up to this side length (px) are enlarged without smoothing, which would hide details of the model's output."""


@dataclass(frozen=True)
class Picture:
    """A thumbnail. src: a data URI; None = not shown, for the reason `why`. width, height: of the source."""

    src: str | None
    width: int = 0
    height: int = 0
    why: str = ""

    @property
    def pixelated(self) -> bool:
        return max(self.width, self.height) <= PIXEL_ART_SIDE


def load(image_of: ImageOf, name: str) -> Image.Image | str:
    """The decoded image as RGB, or the reason why it cannot be shown, because the page must tolerate damaged files."""
    try:
        data = image_of(name)
    except (OSError, KeyError, ValueError) as exc:
        return f"cannot be read ({type(exc).__name__})"
    has_codec("HEIF")  # where the extra heif is installed, Pillow opens HEIF files from now on
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MAX_SOURCE_PIXELS:
                return f"too large ({image.width} × {image.height} pixels)"
            # JPEG can decode at a fraction of its size; other formats ignore this.
            image.draft("RGB", (2 * THUMBNAIL_SIDES[0], 2 * THUMBNAIL_SIDES[0]))
            return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, RuntimeError, Image.DecompressionBombError) as exc:
        # Pillow raises SyntaxError for a broken PNG, RuntimeError for a broken AVIF.
        return f"cannot be decoded ({type(exc).__name__})"


def shrink(image: Image.Image, side: int) -> Image.Image:
    """The image with its longest side at most `side` pixels; the same object if it is small enough."""
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
    """One Picture per (source, id), all shrunk to the same side until their data URIs fit `budget_bytes` in total.

    Each distinct (source, id) is read and encoded once, but its bytes count as often as it is shown. The smallest side
    is used even if it does not fit; callers limit the number of images.
    """
    loaded: dict[tuple[int, str], Image.Image | str] = {}
    keys = [(id(image_of), name) for image_of, name in requests]
    for key, (image_of, name) in zip(keys, requests, strict=True):
        if key not in loaded:
            loaded[key] = load(image_of, name)
    # Shrink once to the largest size, so that later attempts start from small images.
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
        # Bytes are roughly proportional to the area: skip sizes that cannot fit (with a margin of 10 %).
        wanted = 1.1 * side * math.sqrt(budget_bytes / total)
    return [_picture(loaded[key], encoded.get(key)) for key in keys]


def _picture(image: Image.Image | str, src: str | None) -> Picture:
    if isinstance(image, str):
        return Picture(None, why=image)
    return Picture(src, *image.size)
