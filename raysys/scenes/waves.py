"""Periodic and cloudy patterns as functions of coordinates; each returns a weight in [0, 1] per pixel.

`edge`: the number of pixels per image width, which is the slope of a step that is one pixel wide (antialiasing).
"""

from __future__ import annotations

import numpy as np


def rotate(x: np.ndarray, y: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along and across the direction `angle` (radians)."""
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return c * x + s * y, c * y - s * x


def step(distance: np.ndarray, edge: int) -> np.ndarray:
    """1 if `distance` > 0, else 0, with a transition one pixel wide."""
    return np.clip(0.5 + distance * edge, 0, 1)


def triangle_wave(u: np.ndarray, period: float) -> np.ndarray:
    """Signed distance to the nearest edge of stripes that are half a period wide, in [−period/4, period/4]."""
    return np.abs((u / period) % 1.0 - 0.5) * period - 0.25 * period


def stripes(u: np.ndarray, period: float, edge: int) -> np.ndarray:
    return step(triangle_wave(u, period), edge)


def checks(u: np.ndarray, v: np.ndarray, period: float, edge: int) -> np.ndarray:
    a, b = stripes(u, period, edge), stripes(v, period, edge)
    return a + b - 2 * a * b


def dots(u: np.ndarray, v: np.ndarray, period: float, edge: int) -> np.ndarray:
    du = ((u / period) % 1.0 - 0.5) * period
    dv = ((v / period) % 1.0 - 0.5) * period
    return step(0.3 * period - np.hypot(du, dv), edge)


def clouds(x: np.ndarray, y: np.ndarray, seed: int, cells: int = 5) -> np.ndarray:
    """Smooth noise: a random grid of `cells`² values over the unit square, interpolated with smoothstep."""
    grid = np.random.default_rng(seed).random((cells + 1, cells + 1), dtype=np.float32)
    gx, gy = x * cells, y * cells
    ix, iy = (np.clip(g.astype(np.int64), 0, cells - 1) for g in (gx, gy))
    fx, fy = (t * t * (3 - 2 * t) for t in (gx - ix, gy - iy))
    top = grid[iy, ix] * (1 - fx) + grid[iy, ix + 1] * fx
    bottom = grid[iy + 1, ix] * (1 - fx) + grid[iy + 1, ix + 1] * fx
    return top * (1 - fy) + bottom * fy
