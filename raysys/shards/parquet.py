"""Parquet files with image bytes: a binary column, or the struct<bytes, path> of Hugging Face datasets.

Captions, urls and licenses are found by column name. Keys are row numbers, because a range of rows does not show
whether the values of a key column are unique.
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
from raysys.shards.files import open_binary
from raysys.shards.licenses import is_license_field
from raysys.shards.raw import RawItem, facts_as_json, first_of

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "image_bytes", "img", "bytes", "picture")
KEY_COLUMNS = ("__key__", "key", "id", "image_id", "photo_id", "file_name", "filename")
BATCH_ROWS = 64
"""Rows in memory at a time: 64 photos of 5 MB are 320 MB."""


@contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    with open_binary(path) as file:
        yield pq.ParquetFile(file)


def count_items(path: str) -> int:
    """The number of rows, from the footer. Raises InputError if the file is not Parquet or has no image column."""
    try:
        with open_parquet(path) as file:
            image_column(path, file.schema_arrow)
            return file.metadata.num_rows
    except pa.ArrowInvalid as exc:
        raise InputError(f"{path} is not a complete Parquet file: {exc}", "download or write it again") from None


def image_column(path: str, schema: pa.Schema) -> str:
    """The name of the column with image bytes. Raises InputError if there is none."""
    by_name = {f.name.lower(): f for f in schema}
    for name in IMAGE_COLUMNS:
        if name in by_name and _holds_bytes(by_name[name].type):
            return by_name[name].name
    raise InputError(
        f"{path} has no column of image bytes; its columns: {', '.join(f'{f.name} ({f.type})' for f in schema)}",
        f"name a binary or struct<bytes, path> column one of {', '.join(IMAGE_COLUMNS)}",
    )


def read_items(path: str, start: int, stop: int) -> Iterator[RawItem]:
    """Rows [start, stop). Reads only the row groups that contain them, a few rows at a time."""
    with open_parquet(path) as file:
        schema = file.schema_arrow
        image = image_column(path, schema)
        facts = [f.name for f in schema if f.name != image and (_is_scalar(f.type) or is_license_field(f.name))]
        for number, values in _rows(file, start, stop, [image, *facts]):
            yield _raw(path, number, image, values)


class ImageCursor:
    """Image bytes by row number. Ascending access reads each row group once, with BATCH_ROWS rows in memory."""

    def __init__(self, path: str) -> None:
        """Raises OSError, pa.ArrowInvalid or InputError if the file is not (or no longer) an image Parquet file."""
        with ExitStack() as stack:
            self._file = stack.enter_context(open_parquet(path))
            self._column = image_column(path, self._file.schema_arrow)
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
        return _image_bytes(self._images[number - self._first])

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
                yield number + k, _values(batch, k)
            number += batch.num_rows
            if number >= stop:
                break


def _values(batch: pa.RecordBatch, k: int) -> dict[str, Any]:
    values = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            # Parquet does not check that text is UTF-8. Read as bytes, a bad value rejects one row and does not raise.
            column = column.slice(k, 1).cast(
                pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
            )
            values[name] = column[0].as_py()
        else:
            try:
                values[name] = column[k].as_py()
            except UnicodeDecodeError:  # text inside a license's struct or list
                values[name] = "not UTF-8"
    return values


def _raw(path: str, number: int, image: str, values: dict[str, Any]) -> RawItem:
    data = _image_bytes(values.pop(image))
    captions = {k: v for k, v in values.items() if k.lower() in ("caption", "text", "prompt", "txt")}
    caption = first_of(captions, ("caption", "text", "txt", "prompt"))
    facts = {k: v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for k, v in values.items()}
    key = first_of(facts, KEY_COLUMNS)
    raw = RawItem(f"{number:09d}", None if key is None else str(key), shard=path, offset=number, facts=facts)
    raw.caption, raw.metadata = caption, facts_as_json(facts)
    if data is None:
        raw.missing = f"row {number}: no bytes in column {image}"
    else:
        raw.length, raw.read_image = len(data), lambda: data
    return raw


def _image_bytes(value: Any) -> bytes | None:
    """The bytes of a binary or struct<bytes, path> value; None for null and empty values."""
    data = value.get("bytes") if isinstance(value, dict) else value
    return data or None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_scalar(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_temporal(kind)
    )
