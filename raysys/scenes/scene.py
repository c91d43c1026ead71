"""Scenes: one to three objects on a background, described by numbers. They are seeded and can be drawn at any size.

Lengths and positions are fractions of the image width; x grows to the right, y downwards; angles are in radians.
A scene determines its image and captions completely.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

Rgb = tuple[float, float, float]
"""Red, green, blue in [0, 1]."""

PALETTE: dict[str, Rgb] = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.96, 0.52, 0.08),
    "yellow": (0.97, 0.86, 0.15),
    "green": (0.15, 0.60, 0.22),
    "cyan": (0.20, 0.78, 0.85),
    "blue": (0.12, 0.25, 0.82),
    "purple": (0.50, 0.18, 0.66),
    "pink": (0.96, 0.56, 0.72),
    "brown": (0.46, 0.28, 0.13),
    "white": (0.95, 0.95, 0.95),
    "grey": (0.52, 0.52, 0.52),
    "black": (0.08, 0.08, 0.08),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "heart")
SIZES: dict[str, tuple[float, float]] = {"small": (0.09, 0.12), "medium": (0.15, 0.19), "large": (0.23, 0.29)}
"""Size word → range of the radius."""
OBJECT_TEXTURES = ("plain", "striped", "dotted", "checkered")
BACKGROUND_TEXTURES = ("plain", "gradient", "striped", "checkered", "dotted", "cloudy")

COLOR_JITTER = 0.07
"""Maximum change of each channel: a color word covers many colors, so equal captions do not imply equal images."""


@dataclass(frozen=True)
class SceneObject:
    shape: str
    color: str
    size: str
    texture: str
    position: tuple[float, float]  # center (x, y)
    radius: float
    rotation: float
    rgb: Rgb
    pattern_angle: float  # direction of stripes, dots and checks
    pattern_period: float


@dataclass(frozen=True)
class Background:
    color: str
    texture: str
    rgb: Rgb
    second_rgb: Rgb  # the other color of the gradient, the stripes …
    pattern_angle: float
    pattern_period: float
    pattern_phase: float
    cloud_seed: int


@dataclass(frozen=True)
class HazardMark:
    """A harmless example of an unwanted concept: a warning triangle with yellow and black stripes."""

    position: tuple[float, float]
    radius: float


@dataclass(frozen=True)
class Scene:
    objects: tuple[SceneObject, ...]
    background: Background
    hazard: HazardMark | None = None


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene: one to three objects that hardly overlap, on a background of another color."""
    background = _sample_background(rng)
    count = int(rng.choice([1, 2, 3], p=[0.3, 0.45, 0.25]))
    colors = [c for c in PALETTE if c != background.color]
    objects: list[SceneObject] = []
    while len(objects) < count:
        candidate = _sample_object(rng, colors, largest="large" if count < 3 else "medium")
        if all(_apart(candidate, other) for other in objects):
            objects.append(candidate)
    return Scene(tuple(objects), background)


def with_hazard(scene: Scene, rng: np.random.Generator) -> Scene:
    """The same scene with a hazard mark at a random position. Both scenes form a safe/unsafe pair."""
    radius = float(rng.uniform(0.16, 0.22))
    position = (float(rng.uniform(radius, 1 - radius)), float(rng.uniform(radius, 1 - radius)))
    return replace(scene, hazard=HazardMark(position, radius))


def jitter(rng: np.random.Generator, rgb: Rgb) -> Rgb:
    """Change `rgb` by up to COLOR_JITTER per channel, within [0, 1]."""
    moved = np.clip(np.asarray(rgb) + rng.uniform(-COLOR_JITTER, COLOR_JITTER, size=3), 0.0, 1.0)
    return float(moved[0]), float(moved[1]), float(moved[2])


def _sample_object(rng: np.random.Generator, colors: list[str], largest: str) -> SceneObject:
    sizes = list(SIZES)[: list(SIZES).index(largest) + 1]
    size, color = str(rng.choice(sizes)), str(rng.choice(colors))
    radius = float(rng.uniform(*SIZES[size]))
    margin = 0.9 * radius
    return SceneObject(
        shape=str(rng.choice(SHAPES)),
        color=color,
        size=size,
        texture=str(rng.choice(OBJECT_TEXTURES, p=[0.55, 0.15, 0.15, 0.15])),
        position=(float(rng.uniform(margin, 1 - margin)), float(rng.uniform(margin, 1 - margin))),
        radius=radius,
        rotation=float(rng.uniform(-0.35, 0.35)),
        rgb=jitter(rng, PALETTE[color]),
        pattern_angle=float(rng.uniform(0, np.pi)),
        pattern_period=float(rng.uniform(0.09, 0.14)),
    )


def _sample_background(rng: np.random.Generator) -> Background:
    color = str(rng.choice(list(PALETTE)))
    rgb = jitter(rng, PALETTE[color])
    # The second color is a lighter or darker tone of the first, so the color word remains correct.
    towards = np.full(3, 1.0 if sum(rgb) < 1.5 else 0.0)
    tone = np.asarray(rgb) + rng.uniform(0.25, 0.45) * (towards - np.asarray(rgb))
    return Background(
        color=color,
        texture=str(rng.choice(BACKGROUND_TEXTURES)),
        rgb=rgb,
        second_rgb=(float(tone[0]), float(tone[1]), float(tone[2])),
        pattern_angle=float(rng.uniform(0, 2 * np.pi)),
        pattern_period=float(rng.uniform(0.14, 0.34)),
        pattern_phase=float(rng.uniform(0, 1)),
        cloud_seed=int(rng.integers(2**31)),
    )


def _apart(a: SceneObject, b: SceneObject) -> bool:
    distance = float(np.hypot(a.position[0] - b.position[0], a.position[1] - b.position[1]))
    return distance >= 0.9 * (a.radius + b.radius)
