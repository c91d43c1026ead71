"""The images of a chunk, decoded and shrunk, which captioners' workers get instead of whole files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from raysys.outcomes import KEPT, kept
from raysys.rows import FATE
from raysys.shards.decode import DecodeConfig, Rejection
from raysys.shards.images import read_images
from raysys.tables import Chunk

IMAGES = pa.schema(
    [
        pa.field("row_id", pa.string()),
        pa.field("sample_id", pa.string()),
        pa.field("pixels", pa.large_binary()),  # uint8 RGB, height × width × 3; null when there is no image
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        *FATE,
    ]
)

SOURCE_COLUMNS = ("row_id", "sample_id", "shard", "member", "offset", "length", "image")
"""The columns of SAMPLES that are needed to read the bytes."""


@dataclass(frozen=True)
class Images:
    """Chunk → IMAGES. Runs in CPU tasks, each of which returns at most chunk_rows · image_size² · 3 bytes.

    rows: chunk → SAMPLES rows with `SOURCE_COLUMNS`. image_size: longest side in pixels; images are never enlarged.
    """

    rows: Callable[[Chunk], pa.Table]
    image_size: int
    limits: DecodeConfig

    def __call__(self, chunk: Chunk) -> pa.Table:
        records = self.rows(chunk).to_pylist()
        found = read_images(records, self.limits)
        return pa.Table.from_pylist(
            [self._row(record, image) for record, image in zip(records, found, strict=True)], schema=IMAGES
        )

    def _row(self, record: dict[str, Any], image: np.ndarray | Rejection) -> dict[str, Any]:
        row = {"row_id": record["row_id"], "sample_id": record["sample_id"]}
        if isinstance(image, Rejection):
            return row | image.fate()
        pixels = shrink(image, self.image_size)
        return row | {"pixels": pixels.tobytes(), "height": pixels.shape[0], "width": pixels.shape[1]} | kept()


def shrink(image: np.ndarray, longest_side: int) -> np.ndarray:
    """uint8 [H, W, 3] with its longest side at most `longest_side`: bicubic, antialiased, never enlarged."""
    height, width = image.shape[:2]
    scale = longest_side / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC, reducing_gap=3.0))


def pixels_of(row: dict[str, Any]) -> np.ndarray | None:
    """uint8 [H, W, 3] of an IMAGES row; None if it has no image, for the reason in its fate."""
    if row["outcome"] != KEPT:
        return None
    return np.frombuffer(row["pixels"], np.uint8).reshape(row["height"], row["width"], 3)
