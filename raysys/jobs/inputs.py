"""Opening the tables that a job reads."""

from __future__ import annotations

import sys

from raysys.rows import RowType
from raysys.tables import TableView, open_table


def complete(path: str, row_type: RowType | None) -> TableView:
    """The table at `path`, with a note on standard error when it is not finished."""
    view = open_table(path, row_type)
    if view.n_pending:
        print(f"note: {path} has {view.n_pending} pending chunks; going on with what is there", file=sys.stderr)
    return view
