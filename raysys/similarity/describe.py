"""Images → FEATURES rows: one unit vector per image. The one place where images are described.

    items → loader → decoded images, one after the other → descriptor, in batches → FEATURES rows

The loader is given: this room does not know where images lie or how they are decoded (`raysys.shards.describe` does).
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
"""Images per call of the descriptor, at most."""
BATCH_BYTES = 256 * 2**20
"""Decoded pixels that wait for the descriptor: 64 camera pictures of 50 megapixels would be 10 GB."""


@dataclass(frozen=True)
class LoadedImage:
    """One decoded image, or why there is none."""

    image_id: str
    sample_id: str | None
    """sha256 of the encoded bytes; None when they could not be read."""
    pixels: np.ndarray | None
    """uint8 [H, W, 3] RGB, upright."""
    fate: Mapping[str, str | None] = field(default_factory=dict)
    """The fate columns of `raysys.outcomes`, where `pixels` is None."""


Loader = Callable[[Sequence[dict[str, Any]]], Iterable[LoadedImage]]
"""Items (dicts) → one LoadedImage per item, in order; lazily, so that few decoded images exist at a time."""


class Describe(Stage):
    """Items with `image_id` → FEATURES rows, one per item and in order."""

    name, heavy, carried = "describe", True, ("image_id",)

    def __init__(self, descriptor: DescriptorConfig, load: Loader) -> None:
        """Load the descriptor's weights, once per worker. InputError when they are missing or not the pinned ones."""
        self._descriptor, self._load = make_descriptor(descriptor), load

    def __call__(self, items: pa.Table) -> list[dict[str, Any]]:
        return list(describe(self._load(items.to_pylist()), self._descriptor))


def describe(
    images: Iterable[LoadedImage], descriptor: Descriptor, batch_images: int = BATCH_IMAGES
) -> Iterator[dict[str, Any]]:
    """FEATURES rows of `images`, in order.

    Memory: at most `batch_images` decoded images, and about BATCH_BYTES of pixels.
    """
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
    """float32 [N, D], little-endian. ValueError when the descriptor gives another shape."""
    if not pixels:
        return np.zeros((0, descriptor.dim), "<f4")
    features = np.ascontiguousarray(descriptor(pixels), "<f4")
    if features.shape != (len(pixels), descriptor.dim):
        raise ValueError(f"descriptor gave {features.shape}, [{len(pixels)}, {descriptor.dim}] expected")
    return features
