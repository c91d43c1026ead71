"""Joins that are local to a chunk: every table keeps its input's part names, so nothing is shuffled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raysys.tables.read import Part, TableView


class AlignedTable:
    """A table made chunk by chunk from another one, read by the part of that other one."""

    def __init__(self, view: TableView) -> None:
        self._by_input: dict[str, list[Part]] = {}
        for part in view.parts:
            self._by_input.setdefault(part.chunk.part.name, []).append(part)

    def rows_of(self, part: Part, columns: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """{row_id: row} of everything that was made from upstream `part`, whatever its outcome."""
        wanted = None if columns is None else list(dict.fromkeys(["row_id", "outcome", "reason", *columns]))
        found: dict[str, dict[str, Any]] = {}
        for mine in self._by_input.get(part.chunk.name, []):
            found.update((row["row_id"], row) for row in mine.read(wanted).to_pylist())
        return found
