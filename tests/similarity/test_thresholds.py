"""What descriptors call a copy: the embedded one's thresholds do what they state, on unrelated scenes."""

from __future__ import annotations

import numpy as np
import pytest

from raysys.scenes.drawing import draw
from raysys.scenes.planted import NEAR_KINDS, near_duplicate
from raysys.scenes.scene import sample_scene
from raysys.similarity import make_descriptor
from raysys.similarity.thresholds import EMBEDDED, NO_CLAIM, SSCD, Threshold
from tests.support.photos import ALTERATIONS, photo_tiles

N_TRAINING, N_UNSEEN = 1000, 1000


@pytest.fixture(scope="module")
def scenes() -> list[np.ndarray]:
    rng = np.random.default_rng(2024)
    return [draw(sample_scene(rng), 64) for _ in range(N_TRAINING + N_UNSEEN)]


def similarities(queries, database) -> np.ndarray:
    """[Q, N], the largest of all orientations."""
    descriptor = make_descriptor()
    views = descriptor.views(descriptor(queries))
    return np.max([views[:, i] @ descriptor(database).T for i in range(views.shape[1])], axis=0)


def test_unrelated_scenes_are_hardly_ever_called_copies(scenes):
    pairs = similarities(scenes[N_TRAINING:], scenes[:N_TRAINING])
    for threshold in (EMBEDDED.copy, EMBEDDED.near_duplicate):
        # A million pairs: the stated rate, within a factor of five.
        assert (pairs >= threshold.similarity).mean() <= 5 * threshold.false_matches
    nearest = pairs.max(1)
    copied = (nearest >= EMBEDDED.copy.similarity).mean()
    assert copied <= 0.02
    assert copied <= 2 * EMBEDDED.copy.reached_by_chance(N_TRAINING) + 0.002
    assert (nearest >= SSCD.copy.similarity).mean() > 0.5  # what is a copy for SSCD is none here


def test_altered_copies_reach_the_thresholds_as_stated(scenes):
    descriptor = make_descriptor()

    def reached(altered, originals, threshold: Threshold) -> float:
        views = descriptor.views(descriptor(altered))
        own = (views * descriptor(originals)[:, None]).sum(2).max(1)
        return float((own >= threshold.similarity).mean())

    for kind in NEAR_KINDS:
        altered = [near_duplicate(scene, kind) for scene in scenes[:300]]
        assert reached(altered, scenes[:300], EMBEDDED.near_duplicate) >= 0.98, kind
    rng, tiles = np.random.default_rng(5), photo_tiles(64)[::4]
    for originals in (scenes[:300], tiles):
        for name, alter in ALTERATIONS.items():
            share = reached([alter(image, rng) for image in originals], originals, EMBEDDED.copy)
            assert share >= (0.25 if name == "crop" else 0.91), name


def test_chance_grows_with_the_training_set():
    copy = EMBEDDED.copy
    assert copy.reached_by_chance(64) == pytest.approx(64 * copy.false_matches, rel=1e-3)
    assert 0.07 < copy.reached_by_chance(10_000) < 0.1
    assert SSCD.copy.reached_by_chance(64) is None


def test_descriptors_without_a_measurement_claim_nothing():
    assert (NO_CLAIM.copy, NO_CLAIM.near_duplicate) == (None, None)
    assert make_descriptor().thresholds == EMBEDDED
