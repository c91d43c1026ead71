"""The data of reports: frozen objects that a job fills in, without computation or rendering.

Images are fetched by id through callables, because only the few that the gallery shows are read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysys.outcomes import Counts

ImageOf = Callable[[str], bytes]
"""Image id → the bytes of the image file, as `ImageSet.bytes_of`. If it raises OSError, KeyError or ValueError, a
placeholder is shown."""


@dataclass(frozen=True)
class TableOutcome:
    """The fates of one table's rows."""

    name: str
    counts: Counts
    seconds: float | None = None
    licenses: Mapping[str, int] = field(default_factory=dict)
    """Rows per normalized license id; empty for tables without licenses."""


@dataclass(frozen=True)
class DuplicateCluster:
    """Images that show the same thing. members: ids for the report's image callable, with the representative first."""

    members: Sequence[str]
    size: int
    kind: str
    license: str | None = None
    caption: str | None = None


@dataclass(frozen=True)
class StudyReport:
    """Everything that the report of a study shows."""

    title: str
    seed: int
    command: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    """Wall-clock seconds per job, in the order in which the jobs ran."""
    models: Sequence[str]
    """Names in the order of the study; the first is the reference."""
    missing: Mapping[str, str]
    """Model → why some of its results are missing."""
    evaluations: Mapping[str, Any]
    """Evaluation → the data of its section; only evaluations that measured at least one model."""
    parts: Mapping[str, Any]
    """Section → its data; only sections that have something to show."""
    stand_ins: Sequence[str] = ()
    """Sentences for "What this does not show" that name the parts of the run that are small stand-ins."""
    full_command: str = ""
    """The command that runs the published recipe with the real weights."""

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())
