"""Read captions from a file, standard input or a raysys table.

    .txt             one caption per line
    .jsonl .ndjson   one object per line, with the column `caption` or `text`
    .csv .tsv        with a header that has one of these columns
    .parquet         the same
    -                standard input: lines, or JSON objects if the first line begins with {
    a raysys table   its kept rows

If there is a column `language`, only English rows are read, because the generality score is defined for English.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysys.errors import InputError
from raysys.tables import open_table
from raysys.tables.plan import TABLE
from raysys.tables.store import Store

COLUMNS = ("caption", "text")
"""Columns that are searched for captions, unless a column is given."""
LANGUAGE = "language"
STDIN = "-"
SUFFIXES = (".txt", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
MAX_FIELD = 2**31 - 1
"""Maximum length of a CSV field; with Python's default of 131,072, a long caption would raise an error."""


class Texts:
    """An iterable of captions that can be iterated once. The counts are complete at the end of the iteration."""

    def __init__(self, source: str, column: str | None = None) -> None:
        """Raises InputError if `source` does not exist, its type is unknown or the column is missing."""
        self.source, self.column = source, column
        self.total: int | None = None
        """The number of rows, if it is known in advance."""
        self.n_other_language = 0
        self.n_without_text = 0
        self._texts = self._open()

    def __iter__(self) -> Iterator[str]:
        return self._texts

    def _open(self) -> Iterator[str]:
        if self.source == STDIN:
            return self._stdin()
        if "://" in self.source or os.path.isdir(self.source):
            return self._table()
        path = Path(self.source)
        if not path.exists():
            raise InputError(f"{path} does not exist", "give a file of captions or a raysys table")
        suffix = path.suffix.lower()
        if suffix not in SUFFIXES:
            raise InputError(f"{path}: unknown kind of file", f"give one of {' '.join(SUFFIXES)}, a raysys table or -")
        if suffix == ".parquet":
            return self._parquet(path)
        if suffix == ".txt":
            self._refuse_column("a text file")
            return self._lines(_text_lines(path))
        if suffix in (".csv", ".tsv"):
            return self._of_rows(_csv_rows(path, "\t" if suffix == ".tsv" else ","))
        return self._of_rows(_json_rows(_text_lines(path), str(path)))

    def _refuse_column(self, what: str) -> None:
        if self.column is not None:
            raise InputError(f"{what} has no columns, but --column {self.column} was given", "remove --column")

    def _stdin(self) -> Iterator[str]:
        lines = _decoded(sys.stdin.buffer, "standard input")
        first = next(lines, "")
        lines = chain([first], lines)
        if first.lstrip().startswith("{"):
            return self._of_rows(_json_rows(lines, "standard input"))
        self._refuse_column("a list of lines")
        return self._lines(lines)

    def _lines(self, lines: Iterator[str]) -> Iterator[str]:
        return (stripped for line in lines if (stripped := line.strip()))

    def _of_rows(self, rows: Iterator[Mapping[str, Any]]) -> Iterator[str]:
        """Captions of dict-like rows. The column is chosen at once, so that a mistake is reported before any work."""
        first = next(rows, None)
        if first is None:
            return iter(())
        column = self._column_of(list(first))
        return self._wanted((row.get(column), row.get(LANGUAGE)) for row in chain([first], rows))

    def _column_of(self, names: list[str]) -> str:
        for column in COLUMNS if self.column is None else (self.column,):
            if column in names:
                return column
        wanted = "caption or text" if self.column is None else self.column
        fix = "name the column with --column" if self.column is None else "choose one of them"
        raise InputError(f"{self.source} has no column {wanted}; its columns: {', '.join(map(str, names))}", fix)

    def _wanted(self, pairs: Iterator[tuple[Any, Any]]) -> Iterator[str]:
        """The non-empty texts among (text, language) that are English or have no language."""
        for text, language in pairs:
            if isinstance(language, str) and language and language.lower().split("-")[0] != "en":
                self.n_other_language += 1
            elif not isinstance(text, str) or not text.strip():
                self.n_without_text += 1
            else:
                # JSON can contain unpaired surrogates, which cannot be encoded.
                yield text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")

    def _parquet(self, path: Path) -> Iterator[str]:
        try:
            parquet = pq.ParquetFile(path)
        except (OSError, pa.ArrowException) as exc:
            raise InputError(f"{path} is not a readable Parquet file: {exc}", "check the file") from exc
        column = self._column_of(parquet.schema_arrow.names)
        self.total = parquet.metadata.num_rows
        columns = [c for c in (column, LANGUAGE) if c in parquet.schema_arrow.names]
        return self._wanted(_pairs(parquet.iter_batches(columns=list(dict.fromkeys(columns))), column))

    def _table(self) -> Iterator[str]:
        if not Store(self.source).exists(TABLE):
            raise InputError(f"{self.source} is not a raysys table (no {TABLE} in it)", "give a table, or a file in it")
        view = open_table(self.source)
        names = view.row_type.schema.names
        column = self._column_of(names)
        self.total = view.counts().kept
        columns = [c for c in (column, LANGUAGE) if c in names]
        return self._wanted(_pairs(view.rows(list(dict.fromkeys(columns))), column))


def _pairs(tables: Iterator[pa.Table | pa.RecordBatch], column: str) -> Iterator[tuple[Any, Any]]:
    for table in tables:
        languages = table[LANGUAGE].to_pylist() if LANGUAGE in table.schema.names else [None] * table.num_rows
        yield from zip(table[column].to_pylist(), languages, strict=True)


def _text_lines(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        yield from _decoded(file, str(path))


def _decoded(lines: Iterator[bytes], name: str) -> Iterator[str]:
    """Decode lines as UTF-8 without a byte order mark."""
    for number, line in enumerate(lines, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as exc:
            raise InputError(f"{name}, line {number} is not UTF-8 (byte {exc.start})", "convert it to UTF-8") from exc


def _json_rows(lines: Iterator[str], name: str) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as exc:
            raise InputError(f"{name}, line {number} is not JSON: {exc}", "write one JSON object per line") from exc
        if not isinstance(row, dict):
            raise InputError(f"{name}, line {number} is not a JSON object", 'write lines like {"caption": "a dog"}')
        yield row


def _csv_rows(path: Path, delimiter: str) -> Iterator[Mapping[str, Any]]:
    csv.field_size_limit(MAX_FIELD)
    reader = csv.DictReader(_text_lines(path), delimiter=delimiter)
    try:
        yield from reader
    except csv.Error as exc:
        raise InputError(f"{path}, line {reader.line_num}: {exc}", "check the file") from exc
