"""What the section about captions is made of: frozen objects. Nothing here computes or renders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raysys.outcomes import Counts
from raysys.report.data import ImageOf


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
    training_image: ImageOf
    sources: Sequence[str] = ()
    """Whose captions were generalized: captioners, or "original"."""
    generality: str | None = None
    """The NLP pipeline that the generality score came from."""
    learned: Mapping[str, str] = field(default_factory=dict)
    """Model → the kind of captions that it learned: original, captioner/prompt, …/level."""
