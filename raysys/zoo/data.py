"""Training images for the zoo: endless seeded batches of scenes and fusion classes, and a fixed held-out set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from raysys.scenes import FUSION_CLASSES, PatternScene, Scene, caption, draw, sample_class_scene, sample_scene
from raysys.scenes import with_hazard as add_hazard

IMAGE_SIZE = 64
"""Side of the zoo's images in pixels."""

CLASS_SHARE, HAZARD_SHARE = 0.3, 0.15
"""Shares of fusion-class images and of images with the hazard mark: every kind the demo decodes is trained on."""

_PHRASINGS = 4
_TRAINING, _HELD_OUT = 0, 1
"""First part of the generator's seed: the two streams share no scene."""


def random_scene(rng: np.random.Generator, class_share: float = CLASS_SHARE) -> Scene | PatternScene:
    """A scene, sometimes with the hazard mark, or an image of a fusion class."""
    kind = rng.random()
    if kind < class_share:
        return sample_class_scene(rng, int(rng.integers(len(FUSION_CLASSES))))
    scene = sample_scene(rng)
    return add_hazard(scene, rng) if kind < class_share + HAZARD_SHARE else scene


def scene_batches(seed: int, batch_size: int, class_share: float = CLASS_SHARE) -> Iterator[list[Scene | PatternScene]]:
    """Endless batches of scenes, not drawn: batch n is the same for the same seed, and no held-out scene is in one."""
    step = 0
    while True:
        rng = np.random.default_rng([_TRAINING, seed, step])
        yield [random_scene(rng, class_share) for _ in range(batch_size)]
        step += 1


def held_out_scenes(n: int, scenes_only: bool = False) -> list[Scene | PatternScene]:
    """Scenes that no `scene_batches` of any seed holds; the same for every build."""
    rng = np.random.default_rng([_HELD_OUT, int(scenes_only)])
    return [sample_scene(rng) if scenes_only else random_scene(rng) for _ in range(n)]


def left_to_right(scene: Scene | PatternScene) -> Scene | PatternScene:
    """The scene with its objects from left to right, since their own order cannot be seen.

    Objects hardly overlap: the image differs in a few pixels at most, where two touch.
    """
    if isinstance(scene, PatternScene):
        return scene
    return replace(scene, objects=tuple(sorted(scene.objects, key=lambda item: item.position)))


def training_batches(seed: int, batch_size: int) -> Iterator[tuple[np.ndarray, list[str]]]:
    """Endless (uint8 images [B, 64, 64, 3], captions): batch n is the same for the same seed, on every machine."""
    step = 0
    while True:
        rng = np.random.default_rng([_TRAINING, seed, step])
        yield _pairs(rng, batch_size, scenes_only=False)
        step += 1


def held_out(n: int, scenes_only: bool = False) -> tuple[np.ndarray, list[str]]:
    """(images, captions) that no training batch of any seed holds; the same for every build, so builds compare."""
    return _pairs(np.random.default_rng([_HELD_OUT, int(scenes_only)]), n, scenes_only)


def _pairs(rng: np.random.Generator, n: int, scenes_only: bool) -> tuple[np.ndarray, list[str]]:
    scenes = [sample_scene(rng) if scenes_only else random_scene(rng) for _ in range(n)]
    captions = [caption(scene, "en", phrasing=int(rng.integers(_PHRASINGS))) for scene in scenes]
    return np.stack([draw(scene, IMAGE_SIZE) for scene in scenes]), captions
