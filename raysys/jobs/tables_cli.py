"""status, failed, retry and verify: the same four questions for every table, answered without starting Ray."""

from __future__ import annotations

import dataclasses
import json
import sys
from typing import Any

from raysys.config import validate
from raysys.errors import InputError
from raysys.jobs import JOBS
from raysys.jobs.options import RunOptions
from raysys.outcomes import ERROR
from raysys.tables import open_table
from raysys.tables import verify as tables_verify
from raysys.tables.read import error_rows, parts_of


def status(path: str) -> int:
    """Print progress and fates of every producer of the table. Exit code 0."""
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
    return 0


def failed(path: str, limit: int, as_json: bool) -> int:
    """Print the rows that stand as errors: key, stage, reason, detail. Exit code 0."""
    view = open_table(path)
    columns = [*view.row_type.key, "stage", "reason", "detail"]
    shown = total = 0
    for table in view.rows(columns, outcome=ERROR):
        total += len(table)
        for row in table.slice(0, limit - shown).to_pylist():
            shown += 1
            print(json.dumps(row, ensure_ascii=False) if as_json else _line(row, view.row_type.key))
    if not as_json:
        print(f"{total:,} failed rows" + (f", {shown:,} shown (--limit)" if shown < total else ""))
    return 0


def _line(row: dict[str, Any], key: tuple[str, ...]) -> str:
    return f"{'/'.join(str(row[k]) for k in key)}  {row['stage']}: {row['reason']}  {row['detail'] or ''}".rstrip()


def retry(path: str, options: RunOptions) -> int:
    """Run the error rows of every producer of the table again. Exit code 0 when none is left, else 1."""
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
        module.run(config, dataclasses.replace(options, retry=output.folder.url))
    left = open_table(path).counts().n_error
    print(f"{left:,} rows still stand as errors" if left else "no errors left")
    return 1 if left and not options.dry_run else 0


def verify(path: str) -> int:
    """Print what is wrong with the table. Exit code 0 when nothing is, else 1."""
    result = tables_verify.verify(path)
    rows = result.counts.as_dict()
    for line in (*result.notes, *(f"PROBLEM {p}" for p in result.problems)):
        print(line)
    print(
        f"{rows['in']:,} rows = {rows['kept']:,} kept + {result.counts.n_rejected:,} rejected + "
        f"{result.counts.n_error:,} error: {'ok' if result.ok else 'NOT WHOLE'}"
    )
    return 0 if result.ok else 1
