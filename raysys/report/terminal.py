"""The tables that a command prints at the end: colored on a terminal, plain aligned text in a pipe or a log."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from raysys.outcomes import Counts
from raysys.replication import ReplicationResult
from raysys.report.data import StudyReport, TableOutcome
from raysys.report.headline import Headline
from raysys.report.sections import section
from raysys.report.sections.captions import scores_in_words
from raysys.report.sections.replication import replication_headline
from raysys.report.text import duration, figures, number, plain, sorted_reasons

PLAIN_WIDTH = 120
"""Line width if the output is not a terminal; rich's default of 80 would wrap the reasons."""

N_WORST = 5


def print_study(data: StudyReport, file: TextIO | None = None) -> None:
    """The end of `raysys study`: the fate of every table's rows, what was measured, times."""
    console = _console(file)
    if (fates := data.parts.get("data")) is not None:
        console.print(_tables(fates.tables))
        console.print()
    for name, found in data.evaluations.items():
        console.print(_measured(*section(name).table(found)))
        console.print()
    captions = data.parts.get("captions")
    if captions is not None and (scores := scores_in_words(captions.scores)):
        _print_lines(console, Text(f"generality score of captions: {scores}"))
    jobs = ", ".join(f"{job} {duration(seconds)}" for job, seconds in data.seconds.items())
    _print_lines(console, Text(f"{duration(data.total_seconds)} in total: {jobs}" if jobs else ""))
    for name, found in data.evaluations.items():
        _say(console, section(name).headline(found), "default")
    _print_lines(console, *(Text(f"{name}: {why}", style="yellow") for name, why in data.missing.items()))


def print_replication(result: ReplicationResult, file: TextIO | None = None) -> None:
    """Print the end of `raysys replication`: R with all related figures, and the worst matches."""
    console = _console(file)
    table = _table()
    table.add_column("Figure")
    table.add_column("Value", justify="right")
    for name, value in figures(result).items():
        table.add_row(Text(name), Text(value))
    console.print(table)
    console.print()
    console.print(_worst(result))
    console.print()
    if result.unreadable:
        console.print(Text(f"Images that could not be read and are not included: {len(result.unreadable)}"))
        for item in result.unreadable[:N_WORST]:
            console.print(Text(f"  {item}"))
    _say(console, replication_headline(result), "default")
    console.print(Text("Compare R only if |X| and |G| are equal and descriptor and preset are the same."))


def _console(file: TextIO | None) -> Console:
    file = file or sys.stdout
    terminal = file.isatty()
    # No markup and no highlighting: file names and captions such as "[red]" are data.
    return Console(file=file, markup=False, highlight=False, emoji=False, width=None if terminal else PLAIN_WIDTH)


def _table() -> Table:
    return Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")


def _tables(tables: Sequence[TableOutcome]) -> Table:
    """One row per table: in = kept + rejected + error, and the reasons."""
    table = _table()
    table.add_column("Table", no_wrap=True)
    for name in ("In", "Kept", "Rejected", "Error", "Time"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("Reasons", overflow="fold")
    for outcome in tables:
        counts = outcome.counts
        table.add_row(
            Text(outcome.name), *_numbers(counts), duration(outcome.seconds), Text(_reasons(counts), style="dim")
        )
    return table


def _numbers(counts: Counts) -> list[Text]:
    error = Text(f"{counts.n_error:,}", style="red" if counts.n_error else "")
    return [*(Text(f"{n:,}") for n in (counts.total, counts.kept, counts.n_rejected)), error]


def _reasons(counts: Counts) -> str:
    reasons = [f"{plain(reason)} {n:,}" for reason, n in sorted_reasons(counts.rejected)]
    return ", ".join(reasons + [f"error: {plain(reason)} {n:,}" for reason, n in sorted_reasons(counts.error)])


def _measured(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """One row per model or reference; the first column is its name, the others are numbers."""
    table = _table()
    table.add_column(titles[0])
    for title in titles[1:]:
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def _worst(result: ReplicationResult) -> Table:
    table = _table()
    table.add_column("Worst matches", overflow="fold")
    table.add_column("Nearest training image", overflow="fold")
    table.add_column("Similarity", justify="right", no_wrap=True)
    for match in sorted(result.matches, key=lambda m: -m["similarity"])[:N_WORST]:
        table.add_row(Text(str(match["generated"])), Text(str(match["training"])), number(match["similarity"]))
    return table


def _say(console: Console, headline: Headline, style: str) -> None:
    lines = [Text(headline.numbers, style="bold"), Text(headline.verdict, style=style)]
    lines += [Text(f"warning: {warning}", style="yellow") for warning in headline.warnings]
    _print_lines(console, *lines)


def _print_lines(console: Console, *lines: Text) -> None:
    """Print lines; outside a terminal without wrapping, so that logs can be searched."""
    for line in lines:
        console.print(line, soft_wrap=not console.is_terminal)
