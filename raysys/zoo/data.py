"""Training images of the zoo: infinite seeded batches of scenes and fusion classes, and a fixed held-out set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from raysys.scenes import FUSION_CLASSES, PatternScene, Scene, caption, draw, sample_class_scene, sample_scene
from raysys.scenes import with_hazard as add_hazard

IMAGE_SIZE = 64
"""Side length of the zoo's images in pixels."""

CLASS_SHARE, HAZARD_SHARE = 0.3, 0.15
"""Shares of fusion-class images and of images with the hazard mark: the demo uses both kinds."""

_PHRASINGS = 4
_TRAINING, _HELD_OUT = 0, 1
"""First part of the generator's seed, which keeps training and held-out scenes apart."""


def random_scene(rng: np.random.Generator, class_share: float = CLASS_SHARE) -> Scene | PatternScene:
    """A scene, sometimes with the hazard mark, or an image of a fusion class."""
    kind = rng.random()
    if kind < class_share:
        return sample_class_scene(rng, int(rng.integers(len(FUSION_CLASSES))))
    scene = sample_scene(rng)
    return add_hazard(scene, rng) if kind < class_share + HAZARD_SHARE else scene


def scene_batches(seed: int, batch_size: int, class_share: float = CLASS_SHARE) -> Iterator[list[Scene | PatternScene]]:
    """Infinite batches of scenes, not drawn. Batch n depends only on the seed; held-out scenes never occur."""
    step = 0
    while True:
        rng = np.random.default_rng([_TRAINING, seed, step])
        yield [random_scene(rng, class_share) for _ in range(batch_size)]
        step += 1


def held_out_scenes(n: int, scenes_only: bool = False) -> list[Scene | PatternScene]:
    """`n` scenes that do not occur in `scene_batches` of any seed; the same for every build."""
    rng = np.random.default_rng([_HELD_OUT, int(scenes_only)])
    return [sample_scene(rng) if scenes_only else random_scene(rng) for _ in range(n)]


def left_to_right(scene: Scene | PatternScene) -> Scene | PatternScene:
    """The scene with its objects sorted from left to right, because their original order is not visible.

    Objects hardly overlap, so the image differs in a few pixels at most.
    """
    if isinstance(scene, PatternScene):
        return scene
    return replace(scene, objects=tuple(sorted(scene.objects, key=lambda item: item.position)))


def training_batches(seed: int, batch_size: int) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Infinite batches (images uint8 [B, 64, 64, 3], captions). Batch n depends only on the seed, on every machine."""
    step = 0
    while True:
        rng = np.random.default_rng([_TRAINING, seed, step])
        yield _pairs(rng, batch_size, scenes_only=False)
        step += 1


def held_out(n: int, scenes_only: bool = False) -> tuple[np.ndarray, list[str]]:
    """(images, captions) that do not occur in training batches of any seed; the same for every build."""
    return _pairs(np.random.default_rng([_HELD_OUT, int(scenes_only)]), n, scenes_only)


def _pairs(rng: np.random.Generator, n: int, scenes_only: bool) -> tuple[np.ndarray, list[str]]:
    scenes = [sample_scene(rng) if scenes_only else random_scene(rng) for _ in range(n)]
    captions = [caption(scene, "en", phrasing=int(rng.integers(_PHRASINGS))) for scene in scenes]
    return np.stack([draw(scene, IMAGE_SIZE) for scene in scenes]), captions
