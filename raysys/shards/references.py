"""Read the original image bytes of a SAMPLES row: from the row itself or from the file that it references."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from raysys.shards.arrow import ArrowCursor
from raysys.shards.files import OpenFiles, open_source
from raysys.shards.parquet import ParquetCursor

Failure = OSError | ValueError
"""OSError: the source cannot be read. ValueError: the source has changed since it was ingested."""


class ImageReader:
    """Reads referenced images. Keeps the most recently used files open, so rows should be read in table order."""

    def __init__(self) -> None:
        self._sources = OpenFiles(open_source, max_open=16)
        # A cursor holds a batch of decoded rows: few of them.
        self._cursors = OpenFiles(_cursor, max_open=2)

    def read(self, row: Mapping[str, Any]) -> bytes:
        """The original bytes of one row (columns shard, member, offset, length; image and sample_id if present).

        Raises OSError if the source cannot be read, ValueError if its bytes are not the ingested ones.
        """
        if row.get("image") is not None:
            return row["image"]
        if is_table_source(row["shard"]):
            data = self._cursors.get((row["shard"], row["member"])).get(row["offset"])
        else:
            data = self._sources.get(row["shard"]).read(row["offset"], row["length"])
        if data is None or len(data) != row["length"] or not _is_ingested(row, data):
            raise ValueError(f"{row['shard']} changed since it was ingested: other bytes at {_place(row)}")
        return data

    def read_many(self, rows: Sequence[Mapping[str, Any]]) -> list[bytes | Failure]:
        """The bytes or the exception for each row, in order; the rows of each file are read in file order."""
        found: dict[int, bytes | Failure] = {}
        for i in sorted(range(len(rows)), key=lambda i: (rows[i]["shard"] or "", rows[i]["offset"] or 0)):
            try:
                found[i] = self.read(rows[i])
            except (OSError, ValueError) as exc:  # pyarrow's ArrowInvalid is a ValueError
                found[i] = exc
        return [found[i] for i in range(len(rows))]

    def close(self) -> None:
        self._sources.close()
        self._cursors.close()


def is_table_source(shard: str) -> bool:
    """Whether `shard` holds images as values of a column, which the row's `member` names (null = found by its name)."""
    return shard.lower().endswith((".parquet", ".pq", ".arrow"))


def _cursor(place: tuple[str, str | None]) -> ParquetCursor | ArrowCursor:
    path, column = place
    return ArrowCursor(path, column) if path.lower().endswith(".arrow") else ParquetCursor(path, column)


def _is_ingested(row: Mapping[str, Any], data: bytes) -> bool:
    """Whether the bytes have the hash in the row's sample_id, i.e. the shard was not replaced since ingest."""
    expected = row.get("sample_id")
    return expected is None or hashlib.sha256(data).hexdigest() == expected


def _place(row: Mapping[str, Any]) -> str:
    return f"row {row['offset']}" if is_table_source(row["shard"]) else str(row["member"])
