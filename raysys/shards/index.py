"""A CSV, TSV or JSONL list of images: columns for the image path, caption, url and license. One input, in file order.

Image paths are relative to the folder of the index. Rows with bytes that are not UTF-8 are rejected.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import fsspec

from raysys import outcomes
from raysys.errors import InputError
from raysys.shards.files import is_url, join, open_binary
from raysys.shards.folder import read_file
from raysys.shards.raw import RawItem, facts_as_json, facts_from_json, first_of, is_utf8, printable

IMAGE_FIELDS = ("image", "image_path", "path", "file", "file_name", "filename", "filepath", "img")
INDEX_EXTENSIONS = ("csv", "tsv", "jsonl", "ndjson")

Row = dict[str, Any] | str
"""The fields of a row, or the reason why it cannot be parsed."""


def count_items(path: str) -> int:
    """The number of rows. Raises InputError if the index has no column for the image."""
    count = 0
    for row in _rows(path):
        if count == 0:
            _require_image_field(path, row)
        count += 1
    return count


def read_items(path: str, start: int, stop: int) -> Iterator[RawItem]:
    """Rows [start, stop) with the images they point to."""
    for number, row in enumerate(islice(_rows(path), start, stop), start):
        yield _raw(path, number, row)


def _raw(path: str, number: int, row: Row) -> RawItem:
    key = f"{number:09d}"
    if isinstance(row, str):
        fate = outcomes.rejected("undecodable_metadata", row)
        return RawItem(key, None, shard=printable(path), fate=fate)
    name = first_of(row, IMAGE_FIELDS)
    raw = RawItem(key, None, shard=path, facts=row, metadata=facts_as_json(row))
    if not isinstance(name, str) or not name.strip():
        raw.missing = f"row {number} names no image"
        return raw
    raw.source_key = printable(name)
    if not is_utf8(name):
        raw.fate = outcomes.rejected("undecodable_text", "the image path is not UTF-8")
        return raw
    image = name if is_url(name) or Path(name).is_absolute() else join(_parent(path), name)
    raw.shard, raw.member, raw.offset = image, name, 0
    try:
        raw.length = _file_size(image)
    except FileNotFoundError:
        raw.missing = f"no file {image}"
        return raw
    except OSError as exc:
        raw.fate = outcomes.error_from("read", exc)
        return raw
    raw.read_image = lambda: read_file(image)
    return raw


def _rows(path: str) -> Iterator[Row]:
    with open_binary(path) as raw, io.TextIOWrapper(raw, "utf-8-sig", "surrogateescape", newline="") as file:
        if path.lower().endswith((".jsonl", ".ndjson")):
            yield from (_json_row(line) for line in file if line.strip())
        else:
            delimiter = "\t" if path.lower().endswith(".tsv") else ","
            yield from _csv_rows(path, csv.reader(file, delimiter=delimiter))


def _csv_rows(path: str, reader: Any) -> Iterator[Row]:
    try:
        header = next(reader, [])
        for values in filter(None, reader):  # skip blank lines
            if len(values) != len(header):
                yield f"{len(values)} values for {len(header)} columns: {values!r}"
            else:
                yield dict(zip(header, values, strict=True))
    except csv.Error as exc:
        raise InputError(f"{path} line {reader.line_num} is not CSV: {exc}", "correct that line") from None


def _json_row(line: str) -> Row:
    try:
        row = facts_from_json(line)
    except (ValueError, RecursionError) as exc:
        return f"{type(exc).__name__}: {exc}"
    return row if isinstance(row, dict) else f"{type(row).__name__} instead of a JSON object"


def _require_image_field(path: str, row: Row) -> None:
    if isinstance(row, dict) and not set(IMAGE_FIELDS) & {str(k).lower() for k in row}:
        raise InputError(
            f"{path} has no column for the image; its columns: {', '.join(map(str, row))}",
            f"call the column one of {', '.join(IMAGE_FIELDS)}",
        )


def _parent(path: str) -> str:
    return path.rpartition("/")[0] if is_url(path) else str(Path(path).parent)


def _file_size(path: str) -> int:
    if is_url(path):
        fs, inner = fsspec.core.url_to_fs(path)
        return int(fs.size(inner))
    return Path(path).stat().st_size
