"""Features in a memory-mapped file, because they may not fit into memory: 25M × 1024 float32 are 100 GB."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.outcomes import KEPT


class FeatureFile:
    """L2-normalized features [N, D] of images in a temporary file, in the order of `ids`. A context manager.

    The file takes 4·N·D bytes in Python's temporary folder (set by TMPDIR). `ids` and `sample_ids` stay in memory.
    """

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.sample_ids: list[str | None] = []
        self.dim: int | None = None
        # An anonymous file, which disappears with the process, however it ends.
        self._file = tempfile.TemporaryFile(prefix="raysys-features-")  # noqa: SIM115 - closed by __exit__

    def __len__(self) -> int:
        return len(self.ids)

    def append(self, image_id: str, sample_id: str | None, features: bytes) -> None:
        """Add one image. Raises ValueError if its features do not have the same dimension as the previous ones."""
        dim = len(features) // 4
        if self.dim not in (None, dim) or len(features) % 4:
            raise ValueError(f"{image_id} has features of {len(features)} bytes, {4 * (self.dim or dim)} expected")
        self.dim = dim
        self.ids.append(image_id)
        self.sample_ids.append(sample_id)
        self._file.write(features)

    def extend(self, tables: Iterable[pa.Table]) -> None:
        """Add the kept rows of tables of FEATURES rows."""
        for table in tables:
            kept = table.filter(pc.equal(table["outcome"], KEPT))
            columns = (kept[name].to_pylist() for name in ("image_id", "sample_id", "features"))
            for row in zip(*columns, strict=True):
                self.append(*row)

    def array(self) -> np.ndarray:
        """Features as float32 [N, D]: a read-only memory map, or an empty array if N = 0."""
        self._file.flush()
        if not self.ids:
            return np.zeros((0, self.dim or 1), np.float32)
        return np.memmap(self._file, "<f4", "r", shape=(len(self.ids), self.dim))

    def __enter__(self) -> FeatureFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
