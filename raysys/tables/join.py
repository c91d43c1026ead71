"""Joins part by part, without a shuffle: every part of a table records which SAMPLES part it descends from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from raysys.tables.read import Part, TableView


class AlignedTable:
    """A table that descends from SAMPLES, read by SAMPLES part.

    key: the column with the sample's row_id.
    """

    def __init__(self, view: TableView, key: str = "row_id") -> None:
        self._key = key
        self._by_origin: dict[str, list[Part]] = {}
        for part in view.parts:
            self._by_origin.setdefault(part.origin, []).append(part)

    def rows_of(self, part: Part, columns: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """{row_id: row} of all rows that descend from `part`, with any outcome, for tables with one row per row_id."""
        return {row[self._key]: row for row in self._rows(part, columns)}

    def all_rows_of(self, part: Part, columns: Sequence[str] | None = None) -> dict[str, list[dict[str, Any]]]:
        """{row_id: rows} for tables that hold several rows per row_id, such as CAPTIONS."""
        found: dict[str, list[dict[str, Any]]] = {}
        for row in self._rows(part, columns):
            found.setdefault(row[self._key], []).append(row)
        return found

    def _rows(self, part: Part, columns: Sequence[str] | None) -> Iterator[dict[str, Any]]:
        wanted = None if columns is None else list(dict.fromkeys([self._key, "outcome", "reason", *columns]))
        for mine in self._by_origin.get(part.origin, []):
            yield from mine.read(wanted).to_pylist()
