"""R and what is reported beside it: pure functions of s(g) = max over training images x of <g, x>.

R = 95th percentile of s(g) over the generated images (Somepalli et al. 2023, "Diffusion Art or Digital Forgery?" and
"Understanding and Mitigating Copying"; Li et al. 2024): not paired with the prompt's own image, not a mean, not
normalized by a background.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

R_PERCENTILE = 95
PERCENTILES = (50, 75, 90, 95, 99)
THRESHOLDS = (0.5, 0.75)
"""Shares above these two stand beside every published R. What they mean depends on the descriptor:
`raysys.similarity.thresholds`."""
CI_LEVEL = 0.95
CI_MIN_GENERATIONS = 100
"""Below this the interval would end at the largest value seen and say little."""
HISTOGRAM_BINS = 100

COMPARABILITY = (
    "R grows with the number of training images: compare it only at equal numbers of training and generated images, "
    "descriptor and preset"
)


def replication_score(similarities: np.ndarray) -> float:
    """R: the 95th percentile of s(g) [G], linear interpolation between order statistics (NumPy's default)."""
    return float(np.percentile(_wide(similarities), R_PERCENTILE))


def summary(similarities: np.ndarray, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, Any]:
    """{"n", "mean", "percentiles": {"50": …}, "fraction_above": {"0.5": …}} of similarities [G]."""
    values = np.percentile(_wide(similarities), PERCENTILES)
    return {
        "n": len(similarities),
        "mean": float(np.mean(similarities, dtype=np.float64)),
        "percentiles": {str(p): float(v) for p, v in zip(PERCENTILES, values, strict=True)},
        "fraction_above": {str(t): float(np.mean(similarities > t)) for t in thresholds},
    }


def _wide(similarities: np.ndarray) -> np.ndarray:
    """In double precision: NumPy would interpolate one percentile of float32 in single, several in double."""
    return np.asarray(similarities, np.float64)


def histogram(similarities: np.ndarray, bins: int = HISTOGRAM_BINS) -> dict[str, list]:
    """{"edges": bins + 1 floats over [-1, 1], "counts": bins ints}; rounding above 1 counts as 1."""
    counts, edges = np.histogram(np.clip(similarities, -1, 1), bins=bins, range=(-1, 1))
    return {"edges": [round(float(e), 6) for e in edges], "counts": counts.tolist()}


def percentile_interval(
    values: np.ndarray, percentile: float = R_PERCENTILE, level: float = CI_LEVEL
) -> tuple[float, float]:
    """A distribution-free confidence interval for a percentile, from order statistics.

    P(X_(l) ≤ ξ_p ≤ X_(u)) ≥ P(l ≤ B ≤ u - 1), B ~ Binomial(n, p) (David & Nagaraja, Order Statistics, §7.1). The
    largest l and the smallest u with at most (1 - level)/2 in each tail; outside 1 … n the extreme values stand in.
    """
    ordered = np.sort(values)
    cdf = binomial_cdf(len(ordered), percentile / 100)
    tail = (1 - level) / 2
    lower = int(np.searchsorted(cdf, tail, side="right"))  # largest l with P(B ≤ l - 1) ≤ tail
    upper = int(np.searchsorted(cdf, 1 - tail, side="left")) + 1  # smallest u with P(B ≤ u - 1) ≥ 1 - tail
    n = len(ordered)
    return float(ordered[max(lower, 1) - 1]), float(ordered[min(upper, n) - 1])


def interval_of_r(similarities: np.ndarray) -> tuple[tuple[float, float] | None, str | None]:
    """(R_ci, None), or (None, the reason) below 100 generations."""
    if len(similarities) < CI_MIN_GENERATIONS:
        return None, f"{len(similarities)} generated images; an interval needs at least {CI_MIN_GENERATIONS}"
    return percentile_interval(similarities), None


def percentile_rank(value: float, background: np.ndarray) -> float:
    """Where `value` falls in a background distribution: 100 × the share of the background at or below it.

    Of R against the train-train background it says how unusual a likeness R is among different images of this very
    collection, which can be compared between collections where R cannot.
    """
    return float(100 * np.mean(background <= value))


def binomial_cdf(n: int, p: float) -> np.ndarray:
    """P(B ≤ 0 … n), B ~ Binomial(n, p), 0 < p < 1; computed by logarithms, so n may be large."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    i = np.arange(n + 1)
    log_pmf = log_factorial[n] - log_factorial[i] - log_factorial[n - i] + i * math.log(p) + (n - i) * math.log1p(-p)
    return np.minimum(np.cumsum(np.exp(log_pmf)), 1.0)
