"""SAMPLES → DESCRIPTORS: one unit vector per image, the input of near-duplicate search."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from raysys.outcomes import kept
from raysys.shards.decode import DecodeConfig, Rejection
from raysys.shards.images import read_images
from raysys.similarity import DescriptorConfig, make_descriptor


class Describe:
    """Callable over kept SAMPLES rows; one DESCRIPTORS row per row, in order."""

    def __init__(self, descriptor: DescriptorConfig, limits: DecodeConfig) -> None:
        self._descriptor = make_descriptor(descriptor)
        self._limits = limits

    def __call__(self, rows: pa.Table) -> list[dict[str, Any]]:
        samples = rows.to_pylist()
        images = read_images(samples, self._limits)
        good = [i for i, image in enumerate(images) if not isinstance(image, Rejection)]
        vectors = self._descriptor([images[i] for i in good]) if good else []
        found = dict(zip(good, vectors, strict=True))
        return [self._row(sample, images[i], found.get(i)) for i, sample in enumerate(samples)]

    def _row(self, sample: dict[str, Any], image: Any, vector: Any) -> dict[str, Any]:
        row = {"row_id": sample["row_id"], "sample_id": sample["sample_id"]}
        if vector is None:
            return {**row, **image.fate()}
        return {**row, "descriptor": vector.astype("<f4").tobytes(), **kept()}
