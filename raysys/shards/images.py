"""The images of SAMPLES rows as pixels, for later stages: read from their source, verified and decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from raysys import outcomes
from raysys.shards.decode import DecodeConfig, Rejection, decode_image
from raysys.shards.references import ImageReader


class ReadFailure(Rejection):
    """The image of a kept row could not be read again: an error, which can be retried."""

    def fate(self) -> dict[str, str | None]:
        return outcomes.error("read", self.reason, self.detail)


def read_images(rows: Sequence[Mapping[str, Any]], limits: DecodeConfig) -> list[np.ndarray | Rejection]:
    """For each SAMPLES row, in order: upright RGB pixels, uint8 [height, width, 3], or a Rejection.

    `.fate()` of a Rejection returns the fate columns: an error for a ReadFailure, else a rejection.
    """
    return [_pixels(data, limits) for data in image_reader().read_many(rows)]


def _pixels(data: bytes | Exception, limits: DecodeConfig) -> np.ndarray | Rejection:
    if isinstance(data, Exception):
        return ReadFailure(type(data).__name__, str(data))
    decoded = decode_image(data, limits)
    return decoded if isinstance(decoded, Rejection) else decoded.pixels


@lru_cache(maxsize=1)
def image_reader() -> ImageReader:
    """One cache of open files per process."""
    return ImageReader()
