"""Draw scenes with numpy, from signed distances and smooth patterns: edges are antialiased at every size.

A shape is a function (x, y) → signed distance to its edge, in units of its radius, negative inside. The coverage of a
pixel is clip(1/2 − distance in pixels, 0, 1). A pattern is a function (x, y) → weight of the second color in [0, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from raysys.scenes.patterns import PatternScene, pattern_weight
from raysys.scenes.scene import Background, HazardMark, Scene, SceneObject
from raysys.scenes.waves import checks, clouds, dots, rotate, stripes

HAZARD_YELLOW = (0.98, 0.82, 0.05)
HAZARD_BLACK = (0.05, 0.05, 0.05)


def draw(scene: Scene | PatternScene, size: int = 64) -> np.ndarray:
    """Draw a scene as uint8 [size, size, 3]. The same scene and size give the same bytes."""
    if size < 8:
        raise ValueError(f"size = {size}: a scene needs at least 8 pixels")
    x, y = _pixel_centers(size)
    if isinstance(scene, PatternScene):
        weight = pattern_weight(scene, x, y, edge=size)
        canvas = _mix(scene.rgb, scene.second_rgb, weight)
    else:
        canvas = _draw_background(scene.background, x, y, size)
        for item in scene.objects:
            _paint(canvas, item.position, item.radius, lambda dx, dy, item=item: _object_layer(item, dx, dy, size))
        if scene.hazard is not None:
            mark = scene.hazard
            _paint(canvas, mark.position, mark.radius, lambda dx, dy: _hazard_layer(mark, dx, dy, size))
    return np.rint(canvas * 255.0).astype(np.uint8)


@lru_cache(maxsize=8)
def _pixel_centers(size: int) -> tuple[np.ndarray, np.ndarray]:
    centers = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(centers, centers)
    x.flags.writeable = y.flags.writeable = False
    return x, y


def _mix(first: tuple, second: tuple, weight: np.ndarray) -> np.ndarray:
    """(1 − w)·first + w·second per pixel: [H, W, 3] in [0, 1]."""
    a, b = np.asarray(first, np.float32), np.asarray(second, np.float32)
    return a + weight[..., None] * (b - a)


def _draw_background(background: Background, x: np.ndarray, y: np.ndarray, size: int) -> np.ndarray:
    u, v = rotate(x - 0.5, y - 0.5, background.pattern_angle)
    period, phase = background.pattern_period, background.pattern_phase
    weight = {
        "plain": lambda: np.zeros_like(x),
        "gradient": lambda: np.clip(u + 0.5, 0, 1),
        "striped": lambda: stripes(u + phase * period, period, size),
        "checkered": lambda: checks(u + phase * period, v, period, size),
        "dotted": lambda: dots(u + phase * period, v, period, size),
        "cloudy": lambda: clouds(x, y, background.cloud_seed),
    }[background.texture]()
    return _mix(background.rgb, background.second_rgb, weight)


Layer = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(dx, dy) from the center → (color [h, w, 3], coverage [h, w])."""


def _paint(canvas: np.ndarray, position: tuple[float, float], radius: float, layer: Layer) -> None:
    """Composite a layer over the canvas in place, inside the bounding box of the shape."""
    size = canvas.shape[0]
    reach = 1.5 * radius + 2.0 / size
    top, left = (max(0, int((c - reach) * size)) for c in (position[1], position[0]))
    bottom, right = (min(size, int((c + reach) * size) + 1) for c in (position[1], position[0]))
    x, y = _pixel_centers(size)
    box = np.s_[top:bottom, left:right]
    color, cover = layer(x[box] - position[0], y[box] - position[1])
    canvas[box] += cover[..., None] * (color - canvas[box])


def _object_layer(item: SceneObject, dx: np.ndarray, dy: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    u, v = rotate(dx, dy, item.rotation)
    distance = _DISTANCES[item.shape](u / item.radius, v / item.radius) * item.radius
    cover = np.clip(0.5 - distance * size, 0, 1)
    pu, pv = rotate(dx, dy, item.pattern_angle)
    weight = {
        "plain": lambda: np.zeros_like(dx),
        "striped": lambda: stripes(pu, item.pattern_period, size),
        "dotted": lambda: dots(pu, pv, item.pattern_period, size),
        "checkered": lambda: checks(pu, pv, item.pattern_period, size),
    }[item.texture]()
    # The second color of the pattern is halfway to white for dark colors, to black for light ones.
    second = tuple(0.5 * c + (0.5 if sum(item.rgb) < 1.5 else 0.0) for c in item.rgb)
    return _mix(item.rgb, second, weight), cover


def _hazard_layer(mark: HazardMark, dx: np.ndarray, dy: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    distance = _triangle(dx / mark.radius, dy / mark.radius) * mark.radius
    along, _ = rotate(dx, dy, np.pi / 4)
    weight = stripes(along, 0.5 * mark.radius, size)
    border = np.clip(0.5 + (distance + 0.1 * mark.radius) * size, 0, 1)
    return _mix(HAZARD_YELLOW, HAZARD_BLACK, np.maximum(weight, border)), np.clip(0.5 - distance * size, 0, 1)


def _circle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 0.9


def _square(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.8


def _star_distance(x: np.ndarray, y: np.ndarray, points: int, inner: float) -> np.ndarray:
    """A star with `points` tips at radius 1 and notches at radius `inner`; inner = cos(π/points) gives a polygon.

    By symmetry, points are mapped to one half sector, in which the edge is the line from the tip (1, 0) to the notch.
    """
    sector = np.pi / points
    angle = np.abs((np.arctan2(x, -y) + sector) % (2 * sector) - sector)
    r = np.hypot(x, y)
    px, py = r * np.cos(angle), r * np.sin(angle)
    edge_x, edge_y = inner * np.cos(sector) - 1.0, inner * np.sin(sector)
    length = np.hypot(edge_x, edge_y)
    return (edge_y * (px - 1.0) - edge_x * py) / length


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _star_distance(x, y, points=3, inner=0.5)


def _star(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return _star_distance(x, y, points=5, inner=0.42)


def _cross(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    ax, ay = np.abs(x), np.abs(y)
    return np.minimum(np.maximum(ax - 0.92, ay - 0.3), np.maximum(ax - 0.3, ay - 0.92))


def _ring(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.7) - 0.22


def _crescent(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(np.hypot(x, y) - 0.95, 0.8 - np.hypot(x - 0.45, y))


def _heart(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A square on its corner with two half circles on its upper sides."""
    lobe = np.hypot(np.abs(x) - 0.4, y + 0.25) - 0.4 * np.sqrt(2)
    body = (np.abs(x) + np.abs(y - 0.15) - 0.8) / np.sqrt(2)
    return np.minimum(lobe, body)


_DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "crescent": _crescent,
    "heart": _heart,
}
