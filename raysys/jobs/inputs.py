"""Opening the tables that a job reads."""

from __future__ import annotations

import sys

from raysys.rows import DUPLICATES, SAMPLES, RowType
from raysys.tables import TableView, open_table
from raysys.tables.representatives import Representatives


def complete(path: str, row_type: RowType | None) -> TableView:
    """Open the table at `path`; print a note to standard error if it is not finished."""
    view = open_table(path, row_type)
    if view.n_pending:
        print(f"note: {path} has {view.n_pending} pending chunks; continuing with the finished ones", file=sys.stderr)
    return view


def representatives(samples: str, duplicates: str | None) -> Representatives:
    """The kept samples; with `duplicates`, only the representatives of their clusters."""
    return Representatives(complete(samples, SAMPLES), complete(duplicates, DUPLICATES) if duplicates else None)
