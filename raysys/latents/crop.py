"""Resize and crop images of any size to the size at which they are encoded."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""(height, width) in pixels."""


def nearest_size(width: int, height: int, sizes: Sequence[Size]) -> Size:
    """The size with the nearest aspect ratio to the image's, by |log ratio|; on ties, the first."""
    ratio = math.log(width / height)
    return min(sizes, key=lambda size: abs(ratio - math.log(size[1] / size[0])))


def cover_box(width: int, height: int, size: Size) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest centered box of a width×height image with the aspect ratio of `size`.

    In source pixels. Resizing this box to `size` equals resizing the image to cover `size` and cropping the center, but
    in one interpolation and without rounding the box to whole pixels.
    """
    target_height, target_width = size
    if min(width, height, target_height, target_width) < 1:
        raise ValueError(f"no crop of {width}x{height} px to {target_width}x{target_height} px")
    if width * target_height <= height * target_width:
        box_width, box_height = float(width), width * target_height / target_width
    else:
        box_width, box_height = height * target_width / target_height, float(height)
    left, top = (width - box_width) / 2, (height - box_height) / 2
    return left, top, left + box_width, top + box_height


def resize_cover(image: np.ndarray, size: Size) -> np.ndarray:
    """uint8 [H, W, 3] → uint8 [*size, 3]: the box of `cover_box`, bicubic and antialiased."""
    height, width = image.shape[:2]
    if (height, width) == size:
        return image
    resized = Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC, box=cover_box(width, height, size))
    return np.asarray(resized)
