"""What the reports are made of: frozen objects that a job fills in. Nothing here computes or renders.

Images are asked for by id through callables, because only the few that the gallery shows are ever read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raysys.outcomes import Counts

ImageOf = Callable[[str], bytes]
"""id → the bytes of an image file, as `ImageSet.bytes_of`. OSError, KeyError, ValueError: a placeholder is shown."""


@dataclass(frozen=True)
class TableOutcome:
    """The fate of one table's rows, as counted after its stage."""

    name: str
    counts: Counts
    seconds: float | None = None
    licenses: Mapping[str, int] = field(default_factory=dict)
    """Rows per normalized license id; empty where the table has no licenses."""


@dataclass(frozen=True)
class DuplicateCluster:
    """Images that show the same thing. `members` are ids for the report's image callable, the representative first."""

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
    """Wall seconds per job, in the order they ran."""
    models: Sequence[str]
    """Names in the order of the study; the first is the reference."""
    missing: Mapping[str, str]
    """Model → why it has not every result."""
    evaluations: Mapping[str, Any]
    """Evaluation → what its section collected; only those that measured a model."""
    parts: Mapping[str, Any]
    """Section → what it collected; only those that have something to show."""
    stand_ins: Sequence[str] = ()
    """Sentences that say which part of the run is a small stand-in, for "what this does not show"."""
    full_command: str = ""
    """The command that runs the published recipe with the real weights."""

    @property
    def total_seconds(self) -> float:
        return sum(self.seconds.values())
