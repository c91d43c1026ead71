"""Write rows as CSV, to a file or to standard output."""

from __future__ import annotations

import csv
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from raysys.errors import InputError

STDOUT = "-"


def refuse_folder(option: str, path: str | None) -> None:
    """Raise InputError before any work if `option` names a folder and not a file."""
    if path is not None and path != STDOUT and os.path.isdir(path):
        raise InputError(f"{option} {path} is a folder", f"give a file name, for example {os.path.join(path, 'out')}")


def write_csv(path: str, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a header and the rows as they come. path: a file, which appears when it is complete, or STDOUT."""
    if path == STDOUT:
        _write(sys.stdout, columns, rows)
        return
    out = Path(path)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"_{out.name}.{os.getpid()}")
    try:
        with temporary.open("w", newline="", encoding="utf-8") as stream:
            n = _write(stream, columns, rows)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    print(f"wrote {path}: {n:,} rows", file=sys.stderr)


def _write(stream: TextIO, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> int:
    """Write header and rows; return the number of rows."""
    writer = csv.DictWriter(stream, columns)
    writer.writeheader()
    n = 0
    for row in rows:
        writer.writerow(row)
        n += 1
    return n
