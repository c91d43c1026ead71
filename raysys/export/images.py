"""Read the original image bytes of export rows, and count the images that cannot be read any more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raysys.errors import RunFailed
from raysys.export.files import EXTENSIONS
from raysys.export.join import ExportJoin
from raysys.outcomes import ERROR, KEPT, error_from
from raysys.progress import Progress
from raysys.shards.references import ImageReader

ERRORS_BEFORE_STOP = 20
"""Fewer unreadable images than this never stop a run, as in row jobs."""


class ImageBytes:
    """Adds image bytes to export rows, and counts rows whose image cannot be read any more, with their ids."""

    def __init__(self, join: ExportJoin, max_error_fraction: float) -> None:
        self._join, self._max_fraction = join, max_error_fraction
        self._reader = ImageReader()
        self._n_samples = join.n_samples
        self.errors: list[dict[str, str]] = []

    def rows(self, progress: Progress) -> Iterator[dict[str, Any]]:
        counts = self._join.counts
        for sample, row in self._join.rows():
            data = self._read(sample)
            if data is not None:
                # The number makes keys unique and sorted; the hash identifies the image.
                key = f"{counts.kept:09d}-{sample['sample_id'][:12]}"
                counts.add(KEPT)
                yield row | {"image": {"bytes": data, "path": f"{key}.{EXTENSIONS[sample['format']]}"}}
            progress.update(self._join.n_seen, counts)
        progress.update(self._join.n_seen, counts)

    def _read(self, sample: dict[str, Any]) -> bytes | None:
        try:
            return self._reader.read(sample)
        except (OSError, ValueError) as exc:  # missing, or not the image that was ingested
            fate = error_from("read", exc)
            self._join.counts.add(ERROR, fate["reason"])
            self.errors.append({"row_id": sample["row_id"], "reason": fate["reason"], "detail": fate["detail"]})
            self.check_errors(self._n_samples)
            return None

    def check_errors(self, of: int) -> None:
        """Raise RunFailed if more than the allowed share of `of` images could not be read."""
        n = len(self.errors)
        if n >= ERRORS_BEFORE_STOP and n > self._max_fraction * of:
            first = self.errors[0]
            raise RunFailed(
                f"the images of {n} samples cannot be read, more than max_error_fraction = {self._max_fraction:g} of "
                f"{of}; the first: {first['row_id']}: {first['detail']}\n"
                "  fix: restore the ingested files, or ingest again; nothing was exported"
            )

    def close(self) -> None:
        self._reader.close()
