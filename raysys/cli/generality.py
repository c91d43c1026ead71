"""`raysys generality FILE|TABLE`: the generality score of captions. Needs no configuration, no Ray and no torch."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import click

from raysys.errors import InputError

if TYPE_CHECKING:
    from raysys.language.generality import Generality, MeanScores
    from raysys.language.texts import Texts

PIPELINES = ("auto", "en_core_web_sm", "rules")
PROGRESS_FROM = 2000
"""Minimum number of captions for which progress is shown; fewer take less than a second."""
UPDATE_EVERY = 500
PLAIN_WIDTH = 120

EXAMPLES = """
\b
Examples:
  raysys generality captions.txt                      a caption a line
  raysys generality captions.csv --column title       another column than caption or text
  raysys generality out/captions --csv scores.csv     a raysys table; every score to a file
  echo "a dog in a park" | raysys generality - --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("source", metavar="FILE|TABLE|-")
@click.option("--column", metavar="NAME", help="The column with the captions. Default: caption, else text.")
@click.option("--csv", "csv_path", metavar="FILE", help="Write the scores of every caption to FILE.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per caption on standard output, nothing else.")
@click.option("--show", type=click.IntRange(min=0), default=20, show_default=True, help="Captions shown in the table.")
@click.option("--limit", type=click.IntRange(min=1), help="Score the first N captions only.")
@click.option(
    "--pipeline",
    type=click.Choice(PIPELINES),
    default="auto",
    show_default=True,
    help="How words are tagged: by spaCy's model, or by rules without a model; auto = the model if it is installed.",
)
def generality(
    source: str, column: str | None, csv_path: str | None, as_json: bool, show: int, limit: int | None, pipeline: str
) -> None:
    """Score how general captions are: SI, BT, TM, DA and their mean GS, each from 0 to 10. Higher is more general.

    \b
    SI  specificity   few names and numbers
    BT  broadness     nouns with many kinds under them (animal, not dachshund)
    TM  tense         verbs in the present tense
    DA  abstraction   depth of the nouns in WordNet; deeper counts as higher

    FILE is .txt (one caption per line), .jsonl, .csv, .tsv or .parquet; - is standard input. Of a TABLE, only the kept
    rows are scored. If there is a column `language`, only English rows are scored.
    """
    _refuse_target(csv_path, source)
    from raysys.language.nlp import load_pipeline, without_torch
    from raysys.language.texts import Texts

    texts = Texts(source, column)
    with without_torch():
        nlp = load_pipeline(pipeline)
    from raysys.language.generality import score

    total = texts.total if limit is None else min(limit, texts.total or limit)
    rows = _with_progress(score(islice(texts, limit), nlp), total)
    try:
        shown, mean, name = _drain(rows, csv_path, as_json, show)
    except BrokenPipeError:  # the reader of the pipe has stopped, as in `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return
    left_out = _left_out(texts)
    if not mean.n:
        raise InputError(f"{source} has no captions to score{left_out and f' ({left_out})'}", "give another source")
    if not as_json:
        _print_table(shown, mean, name)
    if left_out:
        click.echo(left_out, err=True)
    if csv_path is not None:
        click.echo(f"wrote {csv_path}", err=True)


def _refuse_target(csv_path: str | None, source: str) -> None:
    """Raise InputError before any work if the result cannot be written."""
    if csv_path is None:
        return
    if os.path.isdir(csv_path):
        raise InputError(f"{csv_path} is a folder", f"give a file name, for example {os.path.join(csv_path, 'gs.csv')}")
    if os.path.exists(csv_path) and os.path.exists(source) and os.path.samefile(csv_path, source):
        raise InputError(f"--csv {csv_path} is the file with the captions", "give another file name")


def _drain(
    rows: Iterator[Generality], csv_path: str | None, as_json: bool, show: int
) -> tuple[list[Generality], MeanScores, str]:
    """Write every row to the requested outputs. Return the first `show` rows, the mean and the pipeline's name."""
    from raysys.language.generality import RunningMean

    shown: list[Generality] = []
    mean, name = RunningMean(), ""
    with ExitStack() as stack:
        write_csv = _csv_sink(Path(csv_path), stack) if csv_path is not None else None
        for row in rows:
            mean.add(row)
            name = row.pipeline
            if len(shown) < show:
                shown.append(row)
            if write_csv is not None:
                write_csv(row)
            if as_json:
                click.echo(json.dumps(row._asdict(), ensure_ascii=False))
    return shown, mean.result(), name


def _csv_sink(path: Path, stack: ExitStack) -> Callable[[Generality], object]:
    """A function that appends a row to the file, which is created with the first row and closed by `stack`."""
    writer = None

    def write(row: Generality) -> None:
        nonlocal writer
        if writer is None:
            path.parent.mkdir(parents=True, exist_ok=True)
            writer = csv.writer(stack.enter_context(path.open("w", newline="", encoding="utf-8")))
            writer.writerow(row._fields)
        writer.writerow(row)

    return write


def _with_progress(rows: Iterator[Generality], total: int | None) -> Iterator[Generality]:
    """Yield the same rows; if there are many, show progress on standard error."""
    from raysys.progress import Progress

    progress = None
    try:
        for n, row in enumerate(rows, 1):
            yield row
            if n == PROGRESS_FROM:
                progress = Progress("generality", total, "captions", start=n)
            if progress is not None and n % UPDATE_EVERY == 0:
                progress.update(n)
        if progress is not None:
            progress.update(n)
            progress.close()
    finally:
        if progress is not None:
            progress.close("stopped")


def _left_out(texts: Texts) -> str:
    """How many rows were not scored, and why; empty if all were scored."""
    counts = {"in other languages": texts.n_other_language, "without text": texts.n_without_text}
    parts = [f"{n:,} {what}" for what, n in counts.items() if n]
    return f"not scored: {', '.join(parts)}" if parts else ""


def _print_table(shown: list[Generality], mean: MeanScores, pipeline: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from raysys.language.generality import REFERENCE, SCORES

    # No markup: captions such as "[red]" are data. A pipe has no width; rich's default of 80 would cut too much.
    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    console = Console(file=sys.stdout, markup=False, highlight=False, emoji=False, width=width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, header_style="bold")
    # Long captions are cut, numbers never: a number takes five characters and three between columns.
    table.add_column("Caption", no_wrap=True, overflow="ellipsis", max_width=console.width - 8 * len(SCORES))
    for name in SCORES:
        table.add_column(name.upper(), justify="right", no_wrap=True)
    for row in shown:
        text = "".join(c if c.isprintable() else " " for c in row.text)
        table.add_row(Text(text), *(f"{value:.2f}" for value in row[1:-1]))
    if mean.n > len(shown):
        table.add_row(Text(f"… and {mean.n - len(shown):,} more", style="dim"))
    table.add_section()
    mean_of = "1 caption" if mean.n == 1 else f"{mean.n:,} captions"
    table.add_row(Text(f"mean of {mean_of}", style="bold"), *(Text(f"{mean.mean[s]:.2f}", "bold") for s in SCORES))
    table.add_row("standard deviation", *(f"{mean.std[s]:.2f}" for s in SCORES))
    console.print(table)
    console.print()
    levels = ", ".join(f"{level.replace('_', ' ')} {value}" for level, value in REFERENCE.items())
    notes = [f"Pipeline: {pipeline}", f"Mean GS of 10,000 LAION captions in the paper: {levels}"]
    if not pipeline.startswith("en_core_web"):
        notes.append("These were measured with spaCy's model: SI and TM by rules differ from it; BT and DA do not.")
    for note in notes:
        console.print(Text(note), soft_wrap=True)
