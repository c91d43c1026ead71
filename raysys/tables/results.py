"""What a job would do (`Plan`) and what it has done (`Summary`), with one step per table or folder that it writes.

Jobs return them, the command line prints them, a study collects them. All values are JSON-serializable.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

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

    @property
    def has_work(self) -> bool:
        return self.pending_chunks > 0


@dataclass(frozen=True)
class FolderPlan:
    """What a whole step would do. state: of its output folder now. facts: details of the work."""

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


@dataclass(frozen=True)
class FolderSummary:
    """One output of a whole step after a run. values: the summary in its record."""

    job: str
    output: str
    values: Mapping[str, Any]
    state: State = "done"


@dataclass(frozen=True)
class Plan:
    """What a job would do; nothing was written."""

    steps: Mapping[str, TablePlan | FolderPlan]

    @property
    def has_work(self) -> bool:
        return any(step.has_work for step in self.steps.values())

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Summary:
    """What a job has done.

    facts: values about all steps together, JSON-serializable.
    tables: {title: rows}, small tables for people. notes: what users should know besides the numbers.
    """

    steps: Mapping[str, TableSummary | FolderSummary]
    facts: Mapping[str, Any] = field(default_factory=dict)
    tables: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)
