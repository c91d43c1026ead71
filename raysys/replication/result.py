"""The result of a replication measurement: R and everything that is reported with it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from raysys.replication import stats
from raysys.similarity.thresholds import Thresholds

FACTS = ("caption", "license", "url")
"""The facts about a match's training image."""
_MATCH = ("generated", "generated_sample_id", "training", "training_sample_id", "similarity", "prompt", *FACTS)


@dataclass(frozen=True)
class Unreadable:
    """An image that is not included in the figures, with the reason (fate columns as in `raysys.outcomes`)."""

    role: str  # generated | training | held_out
    id: str
    outcome: str
    reason: str | None
    detail: str | None

    def __str__(self) -> str:
        return f"{self.role} {self.id}: {self.reason}" + (f" ({self.detail})" if self.detail else "")


@dataclass(frozen=True)
class Background:
    """Training images compared with the other training images: how similar different images of this set are."""

    similarities: np.ndarray  # [n] to the nearest other image
    n: int
    mean: float
    percentiles: dict[str, float]
    fraction_above: dict[str, float]
    histogram: dict[str, list]

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("n", "mean", "percentiles", "fraction_above", "histogram")}


@dataclass(frozen=True)
class LeftOut:
    """Held-out images that are also training images: they are excluded from the held-out figures.

    threshold: similarity at which a held-out image counts as a training image; None = the descriptor has no measured
    threshold, so only equal bytes count. images: [{held_out, sample_id, training, similarity, same_bytes}].
    """

    n_held_out: int  # before images were left out
    threshold: float | None
    images: list[dict[str, Any]] = field(default_factory=list)

    @property
    def n(self) -> int:
        return len(self.images)

    @property
    def n_same_bytes(self) -> int:
        return sum(image["same_bytes"] for image in self.images)

    def to_dict(self) -> dict[str, Any]:
        return {"n": self.n, "n_same_bytes": self.n_same_bytes} | asdict(self)


@dataclass(frozen=True)
class ReplicationResult:
    """R and everything that is always reported with it.

    R: 95th percentile of s(g) = max over training images x of <g, x>. R_ci: its 95 % confidence interval from order
    statistics; None for the reason `R_ci_reason`. R_background_percentile: percentage of the background at or below R.
    similarities [n_generated]: s(g) in the order of `generated_ids`. matches: one entry per generated image, most
    similar first. neighbors: MATCHES rows, the `top` nearest training images of each generated image.

    Two reference levels for R, as results of the same type. held_out: real held-out images instead of the generated
    ones. own_held_out: held-out images instead of the training images.
    """

    R: float
    R_ci: tuple[float, float] | None
    R_ci_reason: str | None
    mean: float
    percentiles: dict[str, float]
    fraction_above: dict[str, float]
    n_generated: int
    n_training: int
    descriptor: str
    preset: str
    weights_sha256: str
    thresholds: Thresholds
    similarities: np.ndarray
    generated_ids: tuple[str, ...]
    neighbors: list[dict[str, Any]] = field(repr=False)
    background: Background | None = None
    held_out: ReplicationResult | None = None
    own_held_out: ReplicationResult | None = None
    held_out_left_out: LeftOut | None = None
    R_background_percentile: float | None = None
    unreadable: list[Unreadable] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def matches(self) -> list[dict[str, Any]]:
        """The nearest training image of each generated image, most similar first, ties by id."""
        nearest = [{n: row[n] for n in _MATCH} for row in self.neighbors if row["rank"] == 0]
        return sorted(nearest, key=lambda m: (-m["similarity"], m["generated"]))

    @property
    def copies(self) -> dict[str, Any] | None:
        """{"threshold", "meaning", "fraction", "by_chance"}; None if the descriptor has no threshold for copies.

        fraction: of the generated images above the threshold. by_chance: the fraction expected for unrelated images
        with this number of training images; None if it was not measured.
        """
        copy = self.thresholds.copy
        if copy is None:
            return None
        return {
            "threshold": copy.similarity,
            "meaning": copy.meaning,
            "fraction": self.fraction_above[str(copy.similarity)],
            "by_chance": copy.reached_by_chance(self.n_training),
        }

    def summary(self) -> dict[str, Any]:
        """The figures without individual images, including both held-out levels. JSON-serializable."""
        own = {name: getattr(self, name) for name in FIGURES}
        own["R_ci"] = None if self.R_ci is None else list(self.R_ci)
        left_out = self.held_out_left_out
        return own | {
            "copies": self.copies,
            "R_background_percentile": self.R_background_percentile,
            "held_out": None if self.held_out is None else self.held_out.summary(),
            "own_held_out": None if self.own_held_out is None else self.own_held_out.summary(),
            "held_out_left_out": None if left_out is None else left_out.n,
            "held_out_threshold": None if left_out is None else left_out.threshold,
        }

    def to_dict(self) -> dict[str, Any]:
        """The contents of `raysys replication --json`. JSON-serializable."""
        nested = {name: getattr(self, name) for name in ("background", "held_out", "own_held_out", "held_out_left_out")}
        return self.summary() | {
            "thresholds": asdict(self.thresholds),
            **{name: None if value is None else value.to_dict() for name, value in nested.items()},
            "comparability": stats.COMPARABILITY,
            "matches": self.matches,
            "unreadable": [asdict(u) for u in self.unreadable],
            "seconds": self.seconds,
        }


FIGURES = (
    "R",
    "R_ci",
    "R_ci_reason",
    "mean",
    "percentiles",
    "fraction_above",
    "n_generated",
    "n_training",
    "descriptor",
    "preset",
    "weights_sha256",
)
