"""Images → FEATURES rows: one unit vector per image.

    items → loader → decoded images, one at a time → descriptor, in batches → FEATURES rows

The loader is a parameter: `raysys.shards.describe` knows where images are stored and how they are decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from raysys.outcomes import error, kept
from raysys.similarity.descriptors import Descriptor, DescriptorConfig, make_descriptor
from raysys.tables.stage import Stage

BATCH_IMAGES = 64
"""Maximum number of images per call of the descriptor."""
BATCH_BYTES = 256 * 2**20
"""Limit of a batch's decoded pixels; 64 photos of 50 megapixels would be 10 GB."""


@dataclass(frozen=True)
class LoadedImage:
    """One decoded image, or the reason why it could not be decoded."""

    image_id: str
    sample_id: str | None
    """SHA-256 of the encoded bytes; None if they could not be read."""
    pixels: np.ndarray | None
    """uint8 [H, W, 3] RGB, with EXIF orientation applied."""
    fate: Mapping[str, str | None] = field(default_factory=dict)
    """The fate columns of `raysys.outcomes` if `pixels` is None."""


Loader = Callable[[Sequence[dict[str, Any]]], Iterable[LoadedImage]]
"""Items (dicts) → one LoadedImage per item, in order; lazily, so that few decoded images are in memory."""


class Describe(Stage):
    """Items with `image_id` → FEATURES rows, one per item, in order."""

    name, heavy, carried = "describe", True, ("image_id",)

    def __init__(self, descriptor: DescriptorConfig, load: Loader) -> None:
        """Load the descriptor. Raises InputError if its weights are missing or do not have the pinned hash."""
        self._descriptor, self._load = make_descriptor(descriptor), load

    def __call__(self, items: pa.Table) -> list[dict[str, Any]]:
        return list(describe(self._load(items.to_pylist()), self._descriptor))


def describe(
    images: Iterable[LoadedImage], descriptor: Descriptor, batch_images: int = BATCH_IMAGES
) -> Iterator[dict[str, Any]]:
    """FEATURES rows of `images`, in order. Holds at most `batch_images` images and about BATCH_BYTES of pixels."""
    batch: list[LoadedImage] = []
    n_pixels = n_bytes = 0
    for image in images:
        batch.append(image)
        if image.pixels is not None:
            n_pixels, n_bytes = n_pixels + 1, n_bytes + image.pixels.nbytes
        if n_pixels == 0 or n_pixels == batch_images or n_bytes >= BATCH_BYTES:
            yield from _rows(batch, descriptor)
            batch, n_pixels, n_bytes = [], 0, 0
    yield from _rows(batch, descriptor)


def _rows(batch: Sequence[LoadedImage], descriptor: Descriptor) -> Iterator[dict[str, Any]]:
    pixels = [image.pixels for image in batch if image.pixels is not None]
    vectors = iter(_described(pixels, descriptor))
    for image in batch:
        row: dict[str, Any] = {"image_id": image.image_id, "sample_id": image.sample_id, "features": None}
        if image.pixels is None:
            yield row | image.fate
            continue
        vector = next(vectors)
        if np.isfinite(vector).all():
            yield row | {"features": vector.tobytes()} | kept()
        else:
            yield row | error("describe", "not_finite", f"descriptor {descriptor.name} gave NaN or infinity")


def _described(pixels: list[np.ndarray], descriptor: Descriptor) -> np.ndarray:
    """Features as little-endian float32 [N, D]. Raises ValueError if the descriptor returns another shape."""
    if not pixels:
        return np.zeros((0, descriptor.dim), "<f4")
    features = np.ascontiguousarray(descriptor(pixels), "<f4")
    if features.shape != (len(pixels), descriptor.dim):
        raise ValueError(f"descriptor gave {features.shape}, [{len(pixels)}, {descriptor.dim}] expected")
    return features
