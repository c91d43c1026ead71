"""Print plans and summaries: what a command would do, or has done."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table

from raysys.tables.results import (
    FolderPlan,
    FolderSummary,
    Plan,
    Summary,
    TablePlan,
    TableSummary,
    empty_outputs,
    fates_in_words,
    listing_commands,
    nothing_kept,
)

_LOG_WIDTH = 10_000
"""Line width without a terminal: table rows are not wrapped, so that logs can be searched."""

_MANY = 4
"""With at least this many steps, a plan is printed as one table with a line per step."""


def show(result: Plan | Summary) -> None:
    """Print what `run` of a job returned: results to standard output, remarks to standard error."""
    if isinstance(result, Plan):
        _show_plan(result, _console(sys.stdout))
    else:
        _show_summary(result, _console(sys.stdout), _console(sys.stderr))


def refuse_empty(result: Plan | Summary) -> None:
    """Raise RunFailed if an output has rows but no kept one, because nothing can be made from it."""
    if isinstance(result, Summary) and (empty := empty_outputs(result)):
        raise nothing_kept(empty)


def _show_plan(plan: Plan, console: Console) -> None:
    if len(plan.steps) >= _MANY:
        rows = [{"step": name, "job": step.job, "work": _work(step), "output": step.output} for name, step in _of(plan)]
        console.print("would do (nothing was written):")
        console.print(table_of(rows))
        return
    for _, step in _of(plan):
        console.print(f"{step.job} would do (nothing was written):")
        _lines(console, _facts(step))


def _of(plan: Plan) -> list[tuple[str, TablePlan | FolderPlan]]:
    return list(plan.steps.items())


def _work(step: TablePlan | FolderPlan) -> str:
    if isinstance(step, FolderPlan):
        return step.state
    return f"{step.pending_items:,} of {step.items:,} items" if step.pending_items else "nothing"


def _facts(step: TablePlan | FolderPlan) -> dict[str, Any]:
    if isinstance(step, FolderPlan):
        return {"output": step.output, "state": step.state, **step.facts}
    work = (
        {"chunks to retry": step.pending_chunks, "rows to retry": step.pending_items}
        if step.is_retry
        else {"pending chunks": step.pending_chunks, "pending items": step.pending_items}
    )
    before = {"output": step.output, "inputs": step.inputs, "items": step.items, "chunks": step.chunks}
    return before | work | {"workers": step.workers}


def _show_summary(summary: Summary, console: Console, notes: Console) -> None:
    for step in summary.steps.values():
        (console if step.state == "done" else notes).print(_sentence(step))
        if isinstance(step, FolderSummary) and step.state == "done":
            _lines(console, {name: value for name, value in step.values.items() if _is_plain(value)})
    empty = empty_outputs(summary)
    tables = [step for step in summary.steps.values() if isinstance(step, TableSummary) and step not in empty]
    for command in dict.fromkeys(command for step in tables for command in listing_commands(step)):
        notes.print(f"  list {'rejected' if command.endswith('--rejected') else 'failed'} rows: {command}")
    for note in summary.notes:
        notes.print(note)
    _lines(console, {name: value for name, value in summary.facts.items() if _is_plain(value)})
    for title, rows in summary.tables.items():
        if rows:
            console.print(f"\n{title}")
            console.print(table_of(rows))


def _sentence(step: TableSummary | FolderSummary) -> str:
    if isinstance(step, FolderSummary):
        if step.state == "done":
            return f"{step.job}: {step.output}"
        return f"{step.job}: {_IDLE[step.state]}, {step.output} is finished"
    idle = "" if step.state == "done" else f"{_IDLE[step.state]}, "
    done = f"{step.chunks - step.pending_chunks} of {step.chunks} chunks are done"
    return f"{step.label}: {idle}{done}, {step.rows['in']:,} rows: {fates_in_words(step.rows)}: {step.output}"


_IDLE = {"nothing to do": "nothing to do", "kept": "kept as it is, made from other settings or inputs"}


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | int | float | None)


def _lines(console: Console, facts: Mapping[str, Any]) -> None:
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        shown = f"{value:,}" if type(value) is int else value  # booleans are also integers
        console.print(f"  {name:<{width}}  {shown}")


def show_table(rows: list[dict[str, Any]]) -> None:
    """Print rows as a table on standard output."""
    _console(sys.stdout).print(table_of(rows))


def table_of(rows: list[dict[str, Any]]) -> Table:
    """One column per key of the first row; numbers right-aligned; None as a dash."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name, value in rows[0].items():
        table.add_column(name, justify="right" if isinstance(value, int | float) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row.values()))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _console(out: TextIO) -> Console:
    """A console that writes plain aligned text in pipes and logs, and does not interpret paths as markup."""
    console = Console(file=out, markup=False, highlight=False, emoji=False, soft_wrap=True)
    return (
        console
        if console.is_terminal
        else Console(file=out, markup=False, highlight=False, emoji=False, soft_wrap=True, width=_LOG_WIDTH)
    )
