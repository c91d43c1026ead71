"""Images of the fusion set: classes of whole-image patterns, used instead of Tiny-ImageNet.

The images of one class vary in colors, angle, period, center and phase; the caption is the class name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from raysys.scenes.scene import PALETTE, Rgb, jitter
from raysys.scenes.waves import checks, clouds, dots, rotate, step, stripes, triangle_wave


@dataclass(frozen=True)
class PatternScene:
    pattern: str  # a name of FUSION_CLASSES
    rgb: Rgb
    second_rgb: Rgb
    center: tuple[float, float]
    angle: float
    period: float
    seed: int


def sample_class_scene(rng: np.random.Generator, class_index: int) -> PatternScene:
    """A random image of class FUSION_CLASSES[class_index]."""
    if not 0 <= class_index < len(FUSION_CLASSES):
        raise ValueError(f"class_index = {class_index}: there are {len(FUSION_CLASSES)} classes, counted from 0")
    first, second = rng.choice(list(PALETTE), size=2, replace=False)
    return PatternScene(
        pattern=FUSION_CLASSES[class_index],
        rgb=jitter(rng, PALETTE[str(first)]),
        second_rgb=jitter(rng, PALETTE[str(second)]),
        center=(float(rng.uniform(0.3, 0.7)), float(rng.uniform(0.3, 0.7))),
        angle=float(rng.uniform(-0.3, 0.3)),
        period=float(rng.uniform(0.15, 0.35)),
        seed=int(rng.integers(2**31)),
    )


def pattern_weight(scene: PatternScene, x: np.ndarray, y: np.ndarray, edge: int) -> np.ndarray:
    """Weight of the second color per pixel, [H, W] in [0, 1]."""
    u, v = rotate(x - scene.center[0], y - scene.center[1], scene.angle)
    return _PATTERNS[scene.pattern](scene, u, v, edge)


def _waves(scene: PatternScene, u: np.ndarray, v: np.ndarray, edge: int) -> np.ndarray:
    return stripes(v + 0.06 * np.sin(2 * np.pi * u / (1.5 * scene.period)), scene.period, edge)


def _spiral(scene: PatternScene, u: np.ndarray, v: np.ndarray, edge: int) -> np.ndarray:
    return stripes(np.hypot(u, v) + scene.period * np.arctan2(v, u) / (2 * np.pi), scene.period, edge)


def _rays(scene: PatternScene, u: np.ndarray, v: np.ndarray, edge: int) -> np.ndarray:
    count = 4 + scene.seed % 5
    arc = triangle_wave(np.arctan2(v, u), 2 * np.pi / count) * np.hypot(u, v)  # distance along the circle
    return step(arc, edge)


def _bricks(scene: PatternScene, u: np.ndarray, v: np.ndarray, edge: int) -> np.ndarray:
    row = np.floor(v / scene.period)
    shifted = u + (row % 2) * scene.period
    joint_v = np.abs((v / scene.period) % 1.0 - 0.5) * scene.period
    joint_u = np.abs((shifted / (2 * scene.period)) % 1.0 - 0.5) * 2 * scene.period
    near_edge = np.minimum(0.5 * scene.period - joint_v, scene.period - joint_u)
    return step(0.02 - near_edge, edge)


def _grid(scene: PatternScene, u: np.ndarray, v: np.ndarray, edge: int) -> np.ndarray:
    line = np.minimum(np.abs((u / scene.period) % 1 - 0.5), np.abs((v / scene.period) % 1 - 0.5)) * scene.period
    return step(0.025 - line, edge)


def _cross(scene: PatternScene, u: np.ndarray, v: np.ndarray, edge: int) -> np.ndarray:
    return step(0.4 * scene.period - np.minimum(np.abs(u), np.abs(v)), edge)


def _zigzags(scene: PatternScene, u: np.ndarray, v: np.ndarray, edge: int) -> np.ndarray:
    a, b = triangle_wave(u, scene.period), triangle_wave(v, 1.5 * scene.period)
    return step(a + b, edge)


def _blobs(scene: PatternScene, u: np.ndarray, v: np.ndarray, edge: int) -> np.ndarray:
    noise = clouds(u * 0.5 + 0.5, v * 0.5 + 0.5, scene.seed, cells=8)
    return step((noise - 0.5) * 0.3, edge)


def _clouds(scene: PatternScene, u: np.ndarray, v: np.ndarray, edge: int) -> np.ndarray:
    return clouds(u * 0.5 + 0.5, v * 0.5 + 0.5, scene.seed, cells=7)


Pattern = Callable[[PatternScene, np.ndarray, np.ndarray, int], np.ndarray]
_PATTERNS: dict[str, Pattern] = {
    "horizontal stripes": lambda s, u, v, edge: stripes(v, s.period, edge),
    "vertical stripes": lambda s, u, v, edge: stripes(u, s.period, edge),
    "diagonal stripes": lambda s, u, v, edge: stripes((u + v) * 2**-0.5, s.period, edge),
    "dots": lambda s, u, v, edge: dots(u, v, s.period, edge),
    "a checkerboard": lambda s, u, v, edge: checks(u, v, s.period, edge),
    "concentric rings": lambda s, u, v, edge: stripes(np.hypot(u, v), s.period, edge),
    "a gradient": lambda s, u, v, edge: np.clip(0.5 + 2.5 * s.period * u, 0, 1),
    "a glow": lambda s, u, v, edge: np.exp(-((u / s.period) ** 2 + (v / s.period) ** 2) / 2),
    "a cross": _cross,
    "waves": _waves,
    "a spiral": _spiral,
    "rays": _rays,
    "bricks": _bricks,
    "a grid": _grid,
    "zigzags": _zigzags,
    "blobs": _blobs,
    "clouds": _clouds,
}
FUSION_CLASSES = tuple(_PATTERNS)
"""The class names, which are also the captions."""
