"""The similarity at which two images count as copies: every descriptor has its own, with a note on its origin.

Similarities of two descriptors are not on the same scale. For SSCD, 0.5 is a copy; for the embedded descriptor, 80 % of
drawn scenes have a neighbor with similarity 0.5 among 1,000 unrelated ones. A descriptor may have no threshold.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Threshold:
    """A similarity and its meaning.

    false_matches: measured fraction of pairs of unrelated images that reach it; None = not measured.
    """

    similarity: float
    meaning: str
    false_matches: float | None = None

    def reached_by_chance(self, n_training: int) -> float | None:
        """Expected fraction of unrelated images whose nearest of `n_training` images reaches the threshold.

        1 - (1 - p)^n with p = false_matches, which assumes independent pairs and is slightly too high.
        """
        return None if self.false_matches is None else 1 - (1 - self.false_matches) ** n_training


@dataclass(frozen=True)
class Thresholds:
    """copy: at which a generated image counts as a copy of its nearest training image. near_duplicate: at which two
    real images count as the same by their features alone. candidate: from which `raysys.similarity.verify` decides by
    their pixels. None = the descriptor has no such threshold."""

    copy: Threshold | None = None
    near_duplicate: Threshold | None = None
    candidate: Threshold | None = None


NO_CLAIM = Thresholds()

SSCD = Thresholds(
    copy=Threshold(0.5, "what Somepalli et al. 2023 call a copy"),
    near_duplicate=Threshold(0.75, "a copy with 90 % precision on DISC, by the README of SSCD (sscd_disc_mixup)"),
)

EMBEDDED = Thresholds(
    copy=Threshold(
        0.9,
        "measured: reached by 10 of a million pairs of different drawn scenes, by none of 300,000 pairs of tiles of "
        "different photographs, and by 93 % or more of copies that were resized, recompressed, mirrored, brightened "
        "or blurred (30 % of those cropped by 10 %)",
        false_matches=1.05e-5,
    ),
    near_duplicate=Threshold(
        0.92,
        "measured: reached by 4.8 of a million pairs of different drawn scenes, and by 99 % of their recompressed, "
        "resized, brightened or slightly cropped copies",
        false_matches=4.75e-6,
    ),
    candidate=Threshold(
        0.4,
        "measured: reached by 2 % of the pairs of tiles of different photographs; their pixels decide",
        false_matches=0.023,
    ),
)
"""Measured on 20 million pairs of scenes: 2,000 against 10,000 others (64 px). Fraction of the 2,000 whose nearest
scene has a similarity of at least 0.9: 0.05 % among 64, 0.85 % among 1,000, 5.2 % among 10,000; of at least 0.5: 32 %,
80 %, 98 %. Checked by tests/similarity/test_thresholds.py. Photographs: benchmarks/bench_descriptor.py."""
