"""What a job would do (`Plan`) and what it has done (`Summary`), with one step per table or folder that it writes.

Jobs return them, the command line prints them, a study collects them. All values are JSON-serializable.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from raysys.errors import RunFailed
from raysys.tables.fates import in_words
from raysys.tables.job import TableRun, first_items
from raysys.tables.plan import Output
from raysys.tables.read import TableView

State = Literal["done", "nothing to do", "kept"]
"""done: this run has finished or extended the output. kept: made from other settings, kept by --on-change keep."""


@dataclass(frozen=True)
class TablePlan:
    """What a row job would do to one table. In a retry, `pending_items` is the number of rows to redo."""

    job: str
    output: str
    inputs: int
    items: int
    chunks: int
    pending_chunks: int
    pending_items: int
    workers: str
    is_retry: bool = False

    @classmethod
    def of(cls, run: TableRun, workers: str) -> TablePlan:
        """The plan of `run`. workers: a description for people."""
        job, output = run.job, run.output
        chosen = first_items(output.chunks, run.limit)
        pending = run.chunks()
        n_items = sum(c.stop - c.start for c in pending)
        if run.only is not None:
            n_items = sum(len(run.only[c.name].rows) for c in pending)
        return cls(
            job=job.label,
            output=output.folder.url,
            inputs=len(job.parts),
            items=sum(c.stop - c.start for c in chosen),
            chunks=len(chosen),
            pending_chunks=0 if output.is_kept else len(pending),
            pending_items=0 if output.is_kept else n_items,
            workers=workers,
            is_retry=run.only is not None,
        )

    @property
    def has_work(self) -> bool:
        return self.pending_chunks > 0


@dataclass(frozen=True)
class FolderPlan:
    """What a whole step, or a step of a study, would do. `state`: its progress; `facts`: figures about its work."""

    job: str
    output: str
    state: str
    has_work: bool
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TableSummary:
    """One output of a row job after a run. rows: fates after retries, as `Counts.as_dict`. meters: of this run."""

    job: str
    output: str
    producer: str
    chunks: int
    pending_chunks: int
    rows: Mapping[str, Any]
    seconds: float
    state: State = "done"
    meters: Mapping[str, int] = field(default_factory=dict)
    gpu_hours: float | None = None

    @property
    def label(self) -> str:
        """The producer without its fingerprint, e.g. `caption-blip2`."""
        return self.producer.rpartition("-")[0]

    @classmethod
    def of(
        cls,
        job: str,
        output: Output,
        seconds: float = 0.0,
        state: State = "done",
        meters: Mapping[str, int] | None = None,
        gpu_hours: float | None = None,
    ) -> TableSummary:
        """The summary of one output: counts after retries, progress and path."""
        return cls(
            job=job,
            output=output.table.url,
            producer=f"{output.producer}-{output.fingerprint}",
            chunks=len(output.chunks),
            pending_chunks=len(output.pending()),
            rows=TableView(output.table, (output,)).counts().as_dict(),
            seconds=round(seconds, 2),
            state=state,
            meters=meters or {},
            gpu_hours=gpu_hours,
        )


@dataclass(frozen=True)
class FolderSummary:
    """One output of a whole step after a run. values: the summary in its record."""

    job: str
    output: str
    values: Mapping[str, Any]
    state: State = "done"

    @property
    def label(self) -> str:
        return self.job


@dataclass(frozen=True)
class Plan:
    """What a job would do; nothing was written."""

    steps: Mapping[str, TablePlan | FolderPlan]

    @property
    def has_work(self) -> bool:
        return any(step.has_work for step in self.steps.values())


@dataclass(frozen=True)
class Summary:
    """What a job has done.

    facts: values about all steps together, JSON-serializable.
    tables: {title: rows}, small tables for people. notes: further remarks for users.
    """

    steps: Mapping[str, TableSummary | FolderSummary]
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


TOP_REASONS = 3
"""The number of reasons that a sentence names."""


def fates_in_words(rows: Mapping[str, Any]) -> str:
    """`Counts.as_dict` as "kept 97, rejected 3 (too_large 2, truncated 1), error 0"."""
    words = [f"kept {rows['kept']:,}"]
    for fate in ("rejected", "error"):
        n = sum(rows[fate].values())
        words.append(f"{fate} {n:,}" + (f" ({in_words(rows[fate], TOP_REASONS)})" if n else ""))
    return ", ".join(words)


Step = TableSummary | FolderSummary


def fates_of(step: Step) -> Mapping[str, Any] | None:
    """The step's rows by fate, as `Counts.as_dict`; None for a whole step that does not count rows."""
    return step.rows if isinstance(step, TableSummary) else step.values.get("rows")


def listing_commands(step: Step) -> list[str]:
    """The commands that show the rows of an output that are not kept."""
    place = shlex.quote(step.output)
    if isinstance(step, FolderSummary):
        return [f"raysys status {place}"]
    commands = [f"raysys failed {place} --rejected"] if step.rows["rejected"] else []
    return commands + ([f"raysys failed {place}"] if step.rows["error"] else [])


def empty_outputs(summary: Summary) -> list[Step]:
    """The outputs that have rows, of which none is kept."""
    counted = [(step, fates_of(step)) for step in summary.steps.values()]
    return [step for step, rows in counted if rows is not None and rows["in"] and not rows["kept"]]


def nothing_kept(outputs: Sequence[Step]) -> RunFailed:
    """The failure of a run whose `outputs` have no kept row."""
    said = [f"{step.label}: {fates_of(step)['in']:,} rows, {fates_in_words(fates_of(step))}" for step in outputs]
    commands = dict.fromkeys(command for step in outputs for command in listing_commands(step))
    return RunFailed(
        f"nothing was kept: {'; '.join(said)}\n  fix: see the rows with their reasons by "
        + " or ".join(f"`{command}`" for command in commands)
    )
