"""The image types that descriptors accept."""

from __future__ import annotations

import numpy as np
from PIL import Image

ImageLike = np.ndarray | Image.Image
"""uint8 [H, W, 3] RGB, or a Pillow image."""


def as_pil(image: ImageLike) -> Image.Image:
    """`image` as an RGB Pillow image. Raises ValueError for arrays of another type or shape.

    Float arrays are not accepted, because it is ambiguous whether 1.0 is white or almost black.
    """
    if isinstance(image, Image.Image):
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"an image must be uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    return Image.fromarray(image)
