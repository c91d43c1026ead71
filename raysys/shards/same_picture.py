"""Whether the images of two SAMPLES rows agree in their pixels: reads them from their source, a few kept in memory."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from raysys.errors import InputError
from raysys.shards.decode import DecodeConfig, Rejection
from raysys.shards.images import read_images
from raysys.similarity.verify import VERIFIED, Prepared, verification_score
from raysys.tables import TableView

_REFERENCE = ("row_id", "sample_id", "image", "shard", "member", "offset", "length")
PREPARED_IMAGES = 512
"""Images kept in memory, about 0.4 MB each."""
OPEN_PARTS = 4
"""Parts of the table kept in memory, with the images of materialized tables."""


class SamePicture:
    """Compares rows of a table of samples by row_id, pair by pair."""

    def __init__(self, samples: TableView, limits: DecodeConfig) -> None:
        self._parts, self._limits = samples.parts, limits
        self._part_of: dict[str, int] = {}
        self._rows = lru_cache(OPEN_PARTS)(self._read_part)
        self._prepared = lru_cache(PREPARED_IMAGES)(self._prepare)

    def __call__(self, first: str, second: str, similarity: float) -> bool:
        """similarity: of their features. Raises InputError if an image that ingest could read cannot be read again."""
        return verification_score(self._prepared(first), self._prepared(second), similarity) >= VERIFIED

    def _prepare(self, row_id: str) -> Prepared:
        if not self._part_of:
            for number, part in enumerate(self._parts):
                self._part_of.update(dict.fromkeys(part.read(["row_id"])["row_id"].to_pylist(), number))
        pixels = read_images([self._rows(self._part_of[row_id])[row_id]], self._limits)[0]
        if isinstance(pixels, Rejection):
            raise InputError(
                f"the image of {row_id} cannot be read again: {pixels.reason} ({pixels.detail})",
                "make its shard readable, or ingest it again; duplicates.verify=false compares features only",
            )
        return Prepared(pixels)

    def _read_part(self, number: int) -> dict[str, dict[str, Any]]:
        return {row["row_id"]: row for row in self._parts[number].read(_REFERENCE).to_pylist()}
