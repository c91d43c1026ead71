"""The commands on tables: status, failed, retry and verify. Only retry starts Ray."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from raysys.cli.csv_files import refuse_folder, write_csv
from raysys.cli.results import show, show_table
from raysys.config import validate
from raysys.errors import InputError
from raysys.jobs import JOBS
from raysys.jobs.options import RunOptions
from raysys.outcomes import ERROR, REJECTED
from raysys.tables import Store, open_table
from raysys.tables import verify as tables_verify
from raysys.tables.fates import FateRows, in_words
from raysys.tables.folder_output import FolderStatus, folder_status
from raysys.tables.plan import TABLE
from raysys.tables.read import error_rows, parts_of

ANY_REASON = ""
"""The value of `--rejected` without a reason."""


def status(path: str) -> int:
    """Print the record of a whole step, or progress and fates of a table. Exit code 0."""
    whole = folder_status(path)
    if whole is not None:
        _print_folder(whole)
    if whole is None or Store(path).exists(TABLE):
        _print_table(path)
    return 0


def _print_folder(s: FolderStatus) -> None:
    finished = s.record is not None and s.record.is_finished
    print(f"{s.record.identity if s.record else 'nothing yet'}  {s.folder}")
    print(f"  state     {'finished' if finished else 'not finished'}")
    if s.is_being_written:
        print("  staging   a run is writing it now, or was killed; run the same command again to write it")
    for name, value in (s.record.summary or {}).items() if s.record else ():
        print(f"  {name:<9} {value:,}" if isinstance(value, int) else f"  {name:<9} {json.dumps(value)}")
    print(f"  size      {s.n_bytes / 1e6:,.1f} MB in {s.n_files:,} files")


def _print_table(path: str) -> None:
    for s in tables_verify.status(path):
        rows = s.counts.as_dict()
        print(f"{s.producer}-{s.fingerprint}  {s.folder}")
        print(f"  chunks    {s.n_done:,} of {s.n_chunks:,} done, {s.n_chunks - s.n_done:,} pending")
        print(f"  items     {s.n_items_planned:,} planned")
        fates = f"kept {rows['kept']:,}, rejected {s.counts.n_rejected:,}, error {s.counts.n_error:,}"
        print(f"  rows      {rows['in']:,}: {fates}")
        for fate in ("rejected", "error"):
            for reason, n in sorted(rows[fate].items(), key=lambda item: -item[1]):
                print(f"    {fate:<9} {n:>10,}  {reason}")
        print(f"  size      {s.n_bytes / 1e6:,.1f} MB, {s.n_retries} retries")


SHOWN_ROWS = 50
"""Rows that a listing for people shows unless --limit is given; files and JSON get all rows."""


def failed(path: str, rejected: str | None, limit: int | None, csv_path: str | None, as_json: bool) -> int:
    """List the error rows, or the rejected rows if `rejected` is a reason or ANY_REASON. Exit code 0."""
    refuse_folder("--csv", csv_path)
    view = open_table(path)
    outcome = ERROR if rejected is None else REJECTED
    found = FateRows.of(view, outcome, None if rejected in (None, ANY_REASON) else rejected)
    columns = [*view.row_type.key, *(["stage"] if outcome == ERROR else []), "reason", "detail"]
    if csv_path is not None:
        write_csv(csv_path, columns, _rows(_first(found.tables(columns), limit)))
    elif as_json:
        for row in _rows(_first(found.tables(columns), limit)):
            print(json.dumps(row, ensure_ascii=False))
    else:
        _print_rows(found, list(_rows(_first(found.tables(columns), limit or SHOWN_ROWS))))
    return 0


def _print_rows(found: FateRows, rows: list[dict[str, Any]]) -> None:
    if rows:
        show_table(rows)
    summary = f"{found.total:,} {found.outcome} rows"
    if rows:
        summary += f": {in_words(found.reasons if found.reason is None else {found.reason: found.total})}"
    print(summary + (f"; {len(rows):,} shown (--limit, or --csv for all)" if len(rows) < found.total else ""))


def _first(tables: Iterator[pa.Table], limit: int | None) -> Iterator[pa.Table]:
    """The first `limit` rows (None = all); later parts are not read."""
    left = limit
    for table in tables:
        yield table if left is None else table.slice(0, left)
        if left is not None and (left := left - len(table)) <= 0:
            return


def _rows(tables: Iterator[pa.Table]) -> Iterator[dict[str, Any]]:
    for table in tables:
        yield from table.to_pylist()


def retry(path: str, options: RunOptions) -> int:
    """Retry the error rows of every producer of the table. Exit code 0 if none are left, else 1."""
    view = open_table(path)
    for output in view.outputs:
        if not any(error_rows(part) for part in parts_of(output)):
            continue
        record = output.folder.read_json("_run/job.json")
        if record is None:
            print(f"{output.producer}: a whole-table step, it has no rows to retry", file=sys.stderr)
            continue
        job = JOBS.get(record["job"])
        if job is None:
            raise InputError(f"{path} was written by an unknown job {record['job']!r}", "use the raysys that wrote it")
        module = job.load()
        config = validate(module.JobConfig, record["config"], output.folder.path("_run/job.json"))
        show(module.run(config, dataclasses.replace(options, retry=output.folder.url)))
    left = open_table(path).counts().n_error
    print(f"{left:,} rows are still errors" if left else "no errors left")
    return 1 if left and not options.dry_run else 0


def verify(path: str) -> int:
    """Print the problems of a table. Exit code 0 if there are none, else 1."""
    result = tables_verify.verify(path)
    rows = result.counts.as_dict()
    for line in (*result.notes, *(f"PROBLEM {p}" for p in result.problems)):
        print(line)
    print(
        f"{rows['in']:,} rows = {rows['kept']:,} kept + {result.counts.n_rejected:,} rejected + "
        f"{result.counts.n_error:,} error: {'ok' if result.ok else 'NOT WHOLE'}"
    )
    return 0 if result.ok else 1
