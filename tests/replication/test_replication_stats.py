"""R and its neighbors: pure functions against written-out references."""

from __future__ import annotations

from math import comb

import numpy as np
import pytest

from raysys.replication import stats


def naive_percentile(values, percent):
    """Linear interpolation between order statistics at (n - 1)·p, written out."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * percent / 100
    low = int(position)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (position - low)


def test_r_is_the_linearly_interpolated_95th_percentile():
    assert stats.replication_score(np.array([0.1, 0.2, 0.3, 0.4])) == pytest.approx(0.385)
    values = np.random.default_rng(0).random(137)
    assert stats.replication_score(values) == pytest.approx(naive_percentile(values, 95))


def test_summary_holds_percentiles_mean_and_fractions_above():
    values = np.array([0.2, 0.5, 0.6, 0.75, 0.8, 0.9])
    found = stats.summary(values)
    assert found["n"] == 6
    assert found["mean"] == pytest.approx(0.625)
    assert found["percentiles"] == {str(p): pytest.approx(naive_percentile(values, p)) for p in (50, 75, 90, 95, 99)}
    assert found["fraction_above"] == {"0.5": pytest.approx(4 / 6), "0.75": pytest.approx(2 / 6)}  # strictly above


def test_binomial_cdf_is_exact():
    for n, p in ((1, 0.5), (20, 0.95), (60, 0.3)):
        pmf = [comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(n + 1)]
        np.testing.assert_allclose(stats.binomial_cdf(n, p), np.cumsum(pmf), atol=1e-12)
    assert stats.binomial_cdf(100_000, 0.95)[-1] == pytest.approx(1)


def naive_interval(values, p=0.95, tail=0.025):
    """Largest l with P(B ≤ l - 1) ≤ tail, smallest u with P(B ≥ u) ≤ tail, by trying all."""
    n, ordered = len(values), sorted(values)
    pmf = [comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(n + 1)]
    lower = max((i for i in range(1, n + 1) if sum(pmf[:i]) <= tail), default=1)
    upper = min((i for i in range(1, n + 1) if sum(pmf[i:]) <= tail), default=n)
    return ordered[lower - 1], ordered[upper - 1]


@pytest.mark.parametrize("n", [100, 101, 250, 1000])
def test_the_interval_is_the_order_statistics_one(n):
    values = np.random.default_rng(n).normal(size=n)
    assert stats.percentile_interval(values) == pytest.approx(naive_interval(values))


def test_the_interval_covers_the_true_percentile_as_often_as_it_says():
    rng, n, hits = np.random.default_rng(1), 200, 0
    for _ in range(2000):
        low, high = stats.percentile_interval(rng.random(n))
        hits += low <= 0.95 <= high
    assert 0.94 <= hits / 2000 <= 0.995


def test_the_interval_says_why_it_is_missing():
    assert stats.interval_of_r(np.linspace(0, 1, 99)) == (
        None,
        "99 generated images; an interval needs at least 100",
    )
    interval, reason = stats.interval_of_r(np.linspace(0, 1, 100))
    assert reason is None
    assert interval[0] < 0.95 < interval[1]


def test_percentile_rank_counts_the_background_at_or_below():
    background = np.array([0.1, 0.2, 0.3, 0.4])
    assert [stats.percentile_rank(v, background) for v in (0.05, 0.2, 0.35, 1.0)] == [0, 50, 75, 100]


def test_the_histogram_counts_every_value_once():
    values = np.array([-1.0, -0.2, 0.0, 0.999, 1.0, 1.0000001])
    found = stats.histogram(values)
    assert len(found["edges"]) == len(found["counts"]) + 1
    assert sum(found["counts"]) == 6
    assert found["counts"][-1] == 3
