"""The data of the captions section: frozen objects, without computation or rendering."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from raysys.outcomes import Counts
from raysys.report.data import ImageOf


@dataclass(frozen=True)
class GeneralizedText:
    """One caption at one level of generalization, with its outcome."""

    level: str
    text: str | None
    gs_before: float | None
    gs_after: float | None
    problem: str | None = None
    """Why it was not kept, e.g. "rejected: too many words"."""


@dataclass(frozen=True)
class CaptionText:
    """One caption of an image and its generalized versions. prompt: name of the prompt; None = original caption."""

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
    """Statistics of one captioner, or of one level of generalization. tokens: mean per caption, including retries."""

    name: str
    counts: Counts
    tokens: float | None
    model: str | None
    revision: str | None


@dataclass(frozen=True)
class LevelScores:
    """Mean GS and similarity of the `n` kept captions of one level; None if `n` is 0 or nothing was measured."""

    level: str
    n: int
    gs_before: float | None
    gs_after: float | None
    similarity: float | None
    changed: float | None
    """Fraction of captions that differ from before, 0 … 1."""
    before: np.ndarray
    after: np.ndarray
    """Histograms of GS before and after: counts in equal bins over 0 … 10."""


@dataclass(frozen=True)
class CaptionsReport:
    """The captions that a run made."""

    captioners: Sequence[Written]
    levels: Sequence[Written]
    scores: Sequence[LevelScores]
    examples: Sequence[CaptionExample]
    training_image: ImageOf
    sources: Sequence[str] = ()
    """The captioners whose captions were generalized, or "original"."""
    generality: str | None = None
    """The NLP pipeline that computed the generality score."""
    learned: Mapping[str, str] = field(default_factory=dict)
    """Model → the kind of captions that it was trained on: original, captioner/prompt, …/level."""
