"""What the reports are made of: frozen objects that a job fills in. Nothing here computes or renders.

Images are asked for by id through callables, because only the few that the gallery shows are ever read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysys.outcomes import Counts
from raysys.replication import ReplicationResult

ImageOf = Callable[[str], bytes]
"""id → the bytes of an image file, as `ImageSet.bytes_of`. OSError, KeyError, ValueError: a placeholder is shown."""


@dataclass(frozen=True)
class TableOutcome:
    """The fate of one table's rows, as counted after its stage."""

    name: str
    counts: Counts
    seconds: float | None = None
    licences: Mapping[str, int] = field(default_factory=dict)
    """Rows per normalised licence id; empty where the table has no licences."""


@dataclass(frozen=True)
class DuplicateCluster:
    """Images that show the same thing. `members` are ids for the report's image callable, the representative first."""

    members: Sequence[str]
    size: int
    kind: str
    licence: str | None = None
    caption: str | None = None


@dataclass(frozen=True)
class ModelReplication:
    """One trained model's measurement: `label` is how the page calls it, `image` gives its generations by id."""

    label: str
    result: ReplicationResult
    image: ImageOf
    recipe: str = ""
    """How it was trained, in words, e.g. "dual fusion at embedding level, w_lat 0.1, w_emb 0.5"."""


@dataclass(frozen=True)
class GeneralizedText:
    """One caption at one level of generalization, and how it ended."""

    level: str
    text: str | None
    gs_before: float | None
    gs_after: float | None
    problem: str | None = None
    """Why it was not kept, e.g. "rejected: too many words"."""


@dataclass(frozen=True)
class CaptionText:
    """One caption of an image with what was made of it. `prompt` is the prompt's name; None = the original caption."""

    captioner: str
    prompt: str | None
    text: str | None
    language: str | None
    problem: str | None = None
    generalized: tuple[GeneralizedText, ...] = ()


@dataclass(frozen=True)
class CaptionExample:
    """All captions of one image; `name` is its id for the report's image callable."""

    name: str
    captions: tuple[CaptionText, ...]


@dataclass(frozen=True)
class Written:
    """What one captioner, or the rewriter at one level, wrote. `tokens` is the mean per caption over all its tries."""

    name: str
    counts: Counts
    tokens: float | None
    model: str | None
    revision: str | None


@dataclass(frozen=True)
class LevelScores:
    """GS and similarity of the `n` kept captions of one level, means; None where `n` is 0 or nothing was measured."""

    level: str
    n: int
    gs_before: float | None
    gs_after: float | None
    similarity: float | None
    changed: float | None
    """Share of captions that are not the same as before, 0 … 1."""
    before: np.ndarray
    after: np.ndarray
    """How many captions have which GS: counts in equal bins over 0 … 10."""


@dataclass(frozen=True)
class CaptionsReport:
    """The captions that a run made."""

    captioners: Sequence[Written]
    levels: Sequence[Written]
    scores: Sequence[LevelScores]
    examples: Sequence[CaptionExample]
    sources: Sequence[str] = ()
    """Whose captions were generalized: captioners, or "original"."""
    generality: str | None = None
    """The NLP pipeline that the generality score came from."""
    trained_level: str | None = None
    """Level that the mitigated model was trained on and prompted with; None = the original captions."""


@dataclass(frozen=True)
class PipelineReport:
    """Everything that the report of a whole run (`raysys pipeline`) shows."""

    title: str
    seed: int
    command: str
    versions: Mapping[str, str]
    seconds: Mapping[str, float]
    """Wall seconds per stage, in the order they ran; `total`, when given, is the whole run and not a stage."""
    tables: Sequence[TableOutcome]
    losses: Mapping[str, Sequence[Mapping[str, Any]]]
    """Training name → the records of its metrics.jsonl; those with `step` and `loss` are drawn."""
    baseline: ModelReplication
    mitigated: ModelReplication
    held_out: ReplicationResult | None
    """The baseline's generations measured against scenes that no model has seen: the level of chance likeness."""
    training_image: ImageOf
    stand_ins: Sequence[str]
    """Sentences that say which part of the run is a small stand-in, for "what this does not show"."""
    full_command: str
    """The command that runs the published recipe with the real weights."""
    duplicates: Sequence[DuplicateCluster] = ()
    """Clusters of two or more, any order."""
    captions: CaptionsReport | None = None
    """None: the run made no captions; both models learnt the original ones."""

    @property
    def trained_level(self) -> str | None:
        """Level of the captions that the mitigated model learnt; None = the original captions, as the baseline."""
        return self.captions.trained_level if self.captions is not None else None

    @property
    def stage_seconds(self) -> dict[str, float]:
        return {stage: seconds for stage, seconds in self.seconds.items() if stage != "total"}

    @property
    def total_seconds(self) -> float:
        """Of the whole run; without a `total`, the sum of the stages."""
        return self.seconds.get("total", sum(self.seconds.values()))
