"""Whole tables in memory."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from raysys.rows import RowType
from raysys.tables import open_table


def read_rows(path: str, row_type: RowType | None = None, columns: Sequence[str] | None = None) -> pa.Table:
    """All kept rows of a small table in memory."""
    view = open_table(path, row_type)
    tables = list(view.rows(columns))
    names = list(columns) if columns is not None else view.row_type.schema.names
    schema = pa.schema([view.row_type.schema.field(n) for n in names])
    return pa.concat_tables([t.cast(schema) for t in tables]) if tables else schema.empty_table()
