"""R and the statistics reported with it: pure functions of s(g) = max over training images x of <g, x>.

R is the 95th percentile of s(g) over the generated images (Somepalli et al. 2023, "Diffusion Art or Digital Forgery?"
and "Understanding and Mitigating Copying"; Li et al. 2024). It is not a mean, is not normalized by a background, and
compares with all training images, not only with the image of the prompt.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

R_PERCENTILE = 95
PERCENTILES = (50, 75, 90, 95, 99)
THRESHOLDS = (0.5, 0.75)
"""Fractions above these two are reported with every published R. Their meaning depends on the descriptor, see
`raysys.similarity.thresholds`."""
CI_LEVEL = 0.95
CI_MIN_GENERATIONS = 100
"""With fewer generations the interval would end at the largest observed value and be uninformative."""
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
    """As float64: for float32, NumPy interpolates a single percentile in float32 but several in float64."""
    return np.asarray(similarities, np.float64)


def histogram(similarities: np.ndarray, bins: int = HISTOGRAM_BINS) -> dict[str, list]:
    """{"edges": bins + 1 floats over [-1, 1], "counts": bins ints}; values are clipped to [-1, 1]."""
    counts, edges = np.histogram(np.clip(similarities, -1, 1), bins=bins, range=(-1, 1))
    return {"edges": [round(float(e), 6) for e in edges], "counts": counts.tolist()}


def percentile_interval(
    values: np.ndarray, percentile: float = R_PERCENTILE, level: float = CI_LEVEL
) -> tuple[float, float]:
    """A distribution-free confidence interval for a percentile, from order statistics.

    P(X_(l) ≤ ξ_p ≤ X_(u)) ≥ P(l ≤ B ≤ u - 1), B ~ Binomial(n, p) (David & Nagaraja, Order Statistics, §7.1). Uses the
    largest l and the smallest u with at most (1 - level)/2 in each tail, clipped to 1 … n.
    """
    ordered = np.sort(values)
    cdf = binomial_cdf(len(ordered), percentile / 100)
    tail = (1 - level) / 2
    lower = int(np.searchsorted(cdf, tail, side="right"))  # largest l with P(B ≤ l - 1) ≤ tail
    upper = int(np.searchsorted(cdf, 1 - tail, side="left")) + 1  # smallest u with P(B ≤ u - 1) ≥ 1 - tail
    n = len(ordered)
    return float(ordered[max(lower, 1) - 1]), float(ordered[min(upper, n) - 1])


def interval_of_r(similarities: np.ndarray) -> tuple[tuple[float, float] | None, str | None]:
    """(R_ci, None), or (None, reason) for fewer than 100 generations."""
    if len(similarities) < CI_MIN_GENERATIONS:
        return None, f"{len(similarities)} generated images; an interval needs at least {CI_MIN_GENERATIONS}"
    return percentile_interval(similarities), None


def percentile_rank(value: float, background: np.ndarray) -> float:
    """The percentage of a background distribution that is at or below `value`.

    For R and the train-against-train background, it says how unusual the similarity R is among different images of the
    same training set. Unlike R, it is comparable between training sets.
    """
    return float(100 * np.mean(background <= value))


def binomial_cdf(n: int, p: float) -> np.ndarray:
    """P(B ≤ i) for i = 0 … n, with B ~ Binomial(n, p), 0 < p < 1; computed with logarithms, so n may be large."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    i = np.arange(n + 1)
    log_pmf = log_factorial[n] - log_factorial[i] - log_factorial[n - i] + i * math.log(p) + (n - i) * math.log1p(-p)
    return np.minimum(np.cumsum(np.exp(log_pmf)), 1.0)
