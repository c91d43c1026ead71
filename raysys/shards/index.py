"""A CSV, TSV or JSONL list of images: columns for the image path, caption, url and license, in file order.

Rows with bytes that are not UTF-8 are rejected. Lines that are appended later are further items: a listing divides an
index into spans, those that an earlier listing has seen and the rest.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, BinaryIO

from raysys import outcomes
from raysys.errors import InputError
from raysys.shards.columns import PATH_COLUMNS, ColumnsConfig, refer_to_file, refuse_web_addresses
from raysys.shards.files import PROBE_BYTES, open_binary, open_source
from raysys.shards.raw import RawItem, facts_as_json, facts_from_json, first_of, printable

INDEX_EXTENSIONS = ("csv", "tsv", "jsonl", "ndjson")

Row = dict[str, Any] | str
"""The fields of a row, or the reason why it cannot be parsed."""


@dataclass(frozen=True)
class Span:
    """Bytes [begin, end) of an index: whole rows, of which the first has the number `first`."""

    begin: int
    end: int
    first: int


def spans_of(path: str, earlier: Sequence[tuple[str, int]]) -> list[tuple[Span, str]]:
    """(span, signature) of the spans of an earlier listing, in order, then of the bytes after them, if there are any.

    earlier: (signature, number of rows) of the spans of an earlier listing. If a span is not what it was, its signature
    differs from the earlier one; then, and if rows were not appended on a line of their own, it is the last one.
    """
    source = open_source(path)
    try:
        found, begin, first = [], 0, 0
        for signature, n_rows in earlier:
            end = begin + int(signature.partition("-")[0])
            now = _signature(source, begin, end)
            if now != signature or not _ends_a_line(source, end):
                break
            found.append((Span(begin, end, first), signature))
            begin, first = end, first + n_rows
        if begin < source.size or not found:
            found.append((Span(begin, source.size, first), _signature(source, begin, source.size)))
        return found
    finally:
        source.close()


def _signature(source: Any, begin: int, end: int) -> str:
    """The length of bytes [begin, end) and a hash of their first and last 64 KiB."""
    end = min(end, source.size)
    digest = hashlib.sha256(source.read(begin, min(PROBE_BYTES, end - begin)))
    if end - begin > PROBE_BYTES:
        last = max(begin + PROBE_BYTES, end - PROBE_BYTES)
        digest.update(source.read(last, end - last))
    return f"{end - begin}-{digest.hexdigest()[:16]}"


def _ends_a_line(source: Any, end: int) -> bool:
    """Whether a line ends at byte `end`: there, before it, or because the file ends."""
    return end >= source.size or b"\n" in source.read(max(0, end - 1), 2)


def count_items(path: str, span: Span, columns: ColumnsConfig) -> int:
    """The number of rows. Raises InputError if the index has no column for the image."""
    count = 0
    for row in _rows(path, span):
        if count == 0 and isinstance(row, dict):
            _require_columns(path, row, columns)
        count += 1
    return count


def read_items(path: str, span: Span, start: int, stop: int, columns: ColumnsConfig) -> Iterator[RawItem]:
    """Rows [start, stop) of a span with the images they point to."""
    for number, row in enumerate(islice(_rows(path, span), start, stop), span.first + start):
        yield _raw(path, number, row, columns)


def _raw(path: str, number: int, row: Row, columns: ColumnsConfig) -> RawItem:
    key = f"{number:09d}"
    if isinstance(row, str):
        fate = outcomes.rejected("undecodable_metadata", row)
        return RawItem(key, None, shard=printable(path), fate=fate)
    name = first_of(row, columns.named("image", PATH_COLUMNS))
    raw = RawItem(key, None, shard=path, facts=row, metadata=facts_as_json(row))
    if not isinstance(name, str) or not name.strip():
        raw.missing = f"row {number} names no image"
        return raw
    own_key = None if columns.key is None else first_of(row, (columns.key.lower(),))
    raw.source_key = printable(name if own_key is None else str(own_key))
    refer_to_file(raw, name, path, columns)
    return raw


def _rows(path: str, span: Span) -> Iterator[Row]:
    with open_binary(path) as raw:
        header = raw.readline() if span.begin else b""
        raw.seek(span.begin)
        section = io.BufferedReader(_Section(raw, span.end))
        with io.TextIOWrapper(section, "utf-8-sig", "surrogateescape", newline="") as file:
            if path.lower().endswith((".jsonl", ".ndjson")):
                yield from (_json_row(line) for line in file if line.strip())
            else:
                delimiter = "\t" if path.lower().endswith(".tsv") else ","
                first = [header.decode("utf-8-sig", "surrogateescape")] if header else []
                yield from _csv_rows(path, csv.reader(chain(first, file), delimiter=delimiter))


class _Section(io.RawIOBase):
    """A file from its position up to byte `end`."""

    def __init__(self, file: BinaryIO, end: int) -> None:
        self._file, self._left = file, end - file.tell()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(min(len(buffer), self._left))
        buffer[: len(data)] = data
        self._left -= len(data)
        return len(data)


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


def _require_columns(path: str, row: dict[str, Any], columns: ColumnsConfig) -> None:
    """Raise InputError if the first row shows that there is no image column, or a configured one is missing."""
    if not path.lower().endswith((".jsonl", ".ndjson")):  # a JSON object may leave out a field
        columns.require(path, map(str, row))
    names = columns.named("image", PATH_COLUMNS)
    if not set(names) & {str(k).lower() for k in row}:
        raise InputError(
            f"{path} has no column for the image; its columns: {', '.join(map(str, row))}",
            f"name it with ingest.columns.image=COLUMN, or call it one of {', '.join(PATH_COLUMNS)}",
        )
    refuse_web_addresses(path, first_of(row, names))
