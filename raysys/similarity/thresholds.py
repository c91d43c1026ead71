"""From which similarity on two images count as copies: every descriptor states its own, with what is known of it.

Two descriptors share no scale. 0.5 is a copy for SSCD; by the embedded descriptor, 72 % of drawn scenes have a
neighbor of 0.5 among 1,000 unrelated ones. A descriptor without a measured threshold makes no such claim.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Threshold:
    """A similarity, and what reaching it means.

    false_matches: share of pairs of unrelated images that reach it, measured; None = not measured here.
    """

    similarity: float
    meaning: str
    false_matches: float | None = None

    def reached_by_chance(self, n_training: int) -> float | None:
        """Expected share of images, unrelated to all of `n_training`, whose nearest one reaches the threshold.

        1 - (1 - p)^n, p = false_matches: as if pairs were independent, which measures a little too high.
        """
        return None if self.false_matches is None else 1 - (1 - self.false_matches) ** n_training


@dataclass(frozen=True)
class Thresholds:
    """copy: a generated image is called a copy of its nearest training image. near_duplicate: two real images are
    taken for one. None = the descriptor makes no such claim."""

    copy: Threshold | None = None
    near_duplicate: Threshold | None = None


NO_CLAIM = Thresholds()

SSCD = Thresholds(
    copy=Threshold(0.5, "what Somepalli et al. 2023 call a copy"),
    near_duplicate=Threshold(0.75, "a copy with 90 % precision on DISC, by the README of SSCD (sscd_disc_mixup)"),
)

EMBEDDED = Thresholds(
    copy=Threshold(
        0.9,
        "measured: reached by 4 of a million pairs of different drawn scenes, by none of 600,000 pairs of tiles of "
        "different photographs, and by 94 % or more of copies that were resized, recompressed, mirrored, brightened "
        "or blurred (45 % of those cropped by 10 %)",
        false_matches=4e-6,
    ),
    near_duplicate=Threshold(
        0.92,
        "measured: reached by 1.7 of a million pairs of different drawn scenes, and by 99 % of their recompressed, "
        "resized, brightened or slightly cropped copies",
        false_matches=1.65e-6,
    ),
)
"""20 million pairs of scenes: 2,000 against 10,000 others (64 px). Of the 2,000, these have a nearest one of 0.9 and
above: 0.05 % among 64, 0.4 % among 1,000, 2.7 % among 10,000; of 0.5 and above: 22 %, 72 %, 96 %.
tests/similarity/test_thresholds.py holds the rates."""
