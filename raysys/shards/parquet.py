"""Parquet files with image bytes or paths: rows by number, and a cursor over the images.

Keys are row numbers, because a range of rows does not show whether the values of a key column are unique.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysys.errors import InputError
from raysys.shards.columns import (
    DEFAULT_COLUMNS,
    ColumnsConfig,
    fact_columns,
    image_bytes,
    image_column,
    raw_item,
    refuse_web_addresses,
    values_of,
)
from raysys.shards.files import open_binary
from raysys.shards.raw import RawItem

BATCH_ROWS = 64
"""Rows in memory at a time: 64 photos of 5 MB are 320 MB."""


@contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    with open_binary(path) as file:
        yield pq.ParquetFile(file)


def count_items(path: str, columns: ColumnsConfig) -> int:
    """The number of rows, from the footer. Raises InputError if the file is not Parquet or has no image column."""
    try:
        with open_parquet(path) as file:
            image = image_column(path, file.schema_arrow, columns)
            if not image.holds_bytes:
                first = next(file.iter_batches(1, columns=[image.name]), None)
                refuse_web_addresses(path, first and values_of(first, 0)[image.name])
            return file.metadata.num_rows
    except pa.ArrowInvalid as exc:
        raise InputError(f"{path} is not a complete Parquet file: {exc}", "download or write it again") from None


def read_items(path: str, start: int, stop: int, columns: ColumnsConfig) -> Iterator[RawItem]:
    """Rows [start, stop). Reads only the row groups that contain them, a few rows at a time."""
    with open_parquet(path) as file:
        image = image_column(path, file.schema_arrow, columns)
        names = [image.name, *fact_columns(file.schema_arrow, image, columns)]
        for number, values in _rows(file, start, stop, names):
            yield raw_item(path, number, image, values, columns)


class ParquetCursor:
    """Image bytes by row number. Ascending access reads each row group once, with BATCH_ROWS rows in memory."""

    def __init__(self, path: str, column: str | None) -> None:
        """column: None = found by its name. Raises OSError, pa.ArrowInvalid or InputError if the file is not (or no
        longer) an image Parquet file."""
        with ExitStack() as stack:
            self._file = stack.enter_context(open_parquet(path))
            self._column = column or image_column(path, self._file.schema_arrow, DEFAULT_COLUMNS).name
            self._open = stack.pop_all()
        self._starts = _group_starts(self._file)
        self._group = -1
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._images: list[Any] = []
        self._first = 0  # row number of self._images[0]

    def get(self, number: int) -> bytes | None:
        """The image bytes of a row; None if the row has no image or does not exist."""
        if not 0 <= number < self._starts[-1]:
            return None
        group = bisect.bisect_right(self._starts, number) - 1
        if group != self._group or number < self._first:
            self._group, self._first, self._images = group, self._starts[group], []
            self._batches = self._file.iter_batches(BATCH_ROWS, row_groups=[group], columns=[self._column])
        while number >= self._first + len(self._images):
            self._first += len(self._images)
            self._images = next(self._batches).column(0).to_pylist()
        return image_bytes(self._images[number - self._first])

    def close(self) -> None:
        self._open.close()


def _group_starts(file: pq.ParquetFile) -> list[int]:
    """The first row number of each row group, and the number of rows at the end."""
    sizes = (file.metadata.row_group(g).num_rows for g in range(file.num_row_groups))
    return list(itertools.accumulate(sizes, initial=0))


def _rows(file: pq.ParquetFile, start: int, stop: int, columns: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number, values) of rows [start, stop), with text as bytes."""
    starts = _group_starts(file)
    for group, (first, last) in enumerate(itertools.pairwise(starts)):
        if max(first, start) >= min(last, stop):
            continue
        number = first
        for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
            for k in range(max(0, start - number), min(batch.num_rows, stop - number)):
                yield number + k, values_of(batch, k)
            number += batch.num_rows
            if number >= stop:
                break
