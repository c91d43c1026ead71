"""Do two images show the same picture? A second look, at the pixels of a pair that a descriptor calls similar.

Features of unrelated smooth images can be close, because such images have little that could differ. Here two images
are laid over each other and must agree in their details, place by place:

1. Hypotheses of how one image lies in the other: the eight orientations of the full frame, its central crops, and
   affine maps that RANSAC finds from matching SIFT keypoints, of the image and of its mirror image.
2. For every hypothesis, the overlap is compared in two bands of spatial frequency, in which slopes of light and the
   overall brightness and contrast do not exist. Fine band: n²/m, where n of 64 cells correlate (softly counted) and m
   have detail in one of the images; it finds what is pasted, cropped or written over. Coarse band: the correlation over
   the whole overlap; it finds what was blurred, recompressed or is noisy.
3. Bricks, checkerboards and straight edges agree with many others when shifted. For images whose features are not
   similar by themselves (`NEAR`), only distinctive cells prove a copy: those that occur once in their image.

The thresholds come from photographs: see `raysys.similarity.thresholds`. The only module that imports OpenCV.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np

from raysys.similarity.images import ImageLike, as_pil

METHOD = "sift-cells-v1"
"""Part of the identity of what was verified: a change of any constant below must change it."""
VERIFIED = 1.0
"""Score from which two images show the same picture, or a part of it."""
SIDE = 128
"""Images are compared as squares of this side in pixels, whatever their aspect ratio."""
FINE_BAND, COARSE_BAND = (1.0, 4.0), (2.0, 8.0)
"""Standard deviations in pixels of the two Gaussians whose difference is the band."""
GRID = 8
"""Cells per axis in which the fine band is compared."""
DETAIL = 0.3
"""Standard deviation in gray levels (of 255) from which a cell has detail; added to both sides of a correlation."""
AGREE = (0.4, 0.8)
"""A cell's correlation counts from 0 at the first to 1 at the second."""
FINE_CELLS = 7.0
COARSE_CORRELATION = 0.72
DISTINCT_CELLS = 3.0
MORE_CELLS = 20.0
"""n²/m of the distinctive cells that proves a copy, at a similarity of NEAR, and more for every 1.0 less: printed
wallpaper and the windows of one house repeat beyond the image, and then their cells look distinctive."""
NEAR = 0.85
"""Similarity of the features from which the fine and the coarse band prove a copy by themselves."""
UNLIKE = 0.5
"""Weight of these two below that."""
NEARLY_1 = 0.999
"""Limit for correlations: the evidence of the coarse band is log(1 - correlation)."""
SHIFTS = (0.125, 0.25, 0.375)
"""Shares of the side by which an image is shifted to see whether it agrees with itself."""
REPEATED = 0.8
"""Correlation with another place of the same image from which a cell is not distinctive."""
MIN_COVER = 0.5
"""Share of a cell that must lie in the overlap, and of the image that must for the coarse band."""
CROPS = (0.7, 0.8, 0.9)
"""Central fractions that are tried in both directions."""
SKETCH = 32
"""Side in pixels of the coarse band from which the most promising frames are chosen."""
FRAMES = 3
"""Number of frames that are then compared in full."""
KEYPOINTS = 200
KEYPOINT_CONTRAST = 0.015
RATIO = 0.85
"""A match counts if its distance is below this share of the second best."""
MIN_MATCHES = 4
MAX_OFFSET = 2.7
"""Pixels by which a match may miss the affine map."""
STRETCH = (0.4, 2.5)
"""Limits for the singular values of the affine map."""


class Prepared:
    """One image, ready to be compared with others. About 1 MB."""

    def __init__(self, image: ImageLike) -> None:
        cv2 = _cv2()
        pixels = np.asarray(as_pil(image), np.float32)
        gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        shrinks = min(gray.shape) >= SIDE
        gray = cv2.resize(gray, (SIDE, SIDE), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC)
        self._gray = np.rint(gray.clip(0, 255)).astype(np.uint8)
        even = self._gray.astype(np.float32)
        self.fine, self.coarse = (
            cv2.GaussianBlur(even, (0, 0), inner) - cv2.GaussianBlur(even, (0, 0), outer)
            for inner, outer in (FINE_BAND, COARSE_BAND)
        )
        self.sketch = cv2.resize(self.coarse, (SKETCH, SKETCH), interpolation=cv2.INTER_AREA).ravel()

    @cached_property
    def keypoints(self) -> tuple[np.ndarray, np.ndarray]:
        """(positions x, y [K, 2], RootSIFT descriptors [K, 128])."""
        return _keypoints(self._gray)

    @cached_property
    def is_distinctive(self) -> np.ndarray:
        """[GRID, GRID]: cells that do not correlate with another place of the image, half a cell away or more."""
        cv2 = _cv2()
        small = cv2.resize(self.fine, (SIDE // 2, SIDE // 2), interpolation=cv2.INTER_AREA)
        side = len(small) // GRID
        found = np.zeros((GRID, GRID), bool)
        for row, column in np.ndindex(GRID, GRID):
            y, x = row * side, column * side
            cell = small[y : y + side, x : x + side]
            if cell.std() > DETAIL / 2:
                elsewhere = cv2.matchTemplate(small, cell, cv2.TM_CCOEFF_NORMED)
                elsewhere[max(0, y - side // 2) : y + side // 2 + 1, max(0, x - side // 2) : x + side // 2 + 1] = -1
                found[row, column] = elsewhere.max() < REPEATED
        return found

    @cached_property
    def needed(self) -> tuple[float, float]:
        """(fine, coarse) that prove a copy: more where the image, shifted, agrees with itself, like planks or a sky."""
        shifted = [_compared(self, self, matrix) for matrix in _SHIFTS]
        fine, coarse = max(s.fine for s in shifted), max(s.coarse for s in shifted)
        return max(FINE_CELLS, min(2 * fine, (GRID**2 + fine) / 2)), max(COARSE_CORRELATION, (1 + coarse) / 2)

    @cached_property
    def mirrored_keypoints(self) -> tuple[np.ndarray, np.ndarray]:
        """The keypoints of the mirror image, at their positions in the image itself."""
        positions, descriptors = _keypoints(np.ascontiguousarray(self._gray[:, ::-1]))
        positions[:, 0] = SIDE - 1 - positions[:, 0]
        return positions, descriptors


def verification_score(first: Prepared, second: Prepared, similarity: float) -> float:
    """How well the two images agree in their details; from VERIFIED, they show the same picture, or a part of it.

    similarity: of their features. The order of the two matters little, but it does.
    """
    weight = 1.0 if similarity >= NEAR else UNLIKE
    cells = DISTINCT_CELLS + MORE_CELLS * max(NEAR - similarity, 0)
    return max(_agreement(first, second, matrix, weight, cells) for matrix in _hypotheses(first, second))


def _agreement(first: Prepared, second: Prepared, matrix: np.ndarray, weight: float, cells: float) -> float:
    """The score under one hypothesis; matrix [2, 3]: positions in the first image → in the second. weight: of the fine
    and coarse band; cells: n²/m of the distinctive cells that proves a copy."""
    found = _compared(first, second, matrix)
    needed_fine, needed_coarse = first.needed
    coarse = math.log1p(-min(found.coarse, NEARLY_1)) / math.log1p(-min(needed_coarse, NEARLY_1))
    score = weight * max(found.fine / needed_fine, coarse)
    if found.n_agree >= score * cells:  # n²/m is at most n
        score = max(score, found.distinct(first.is_distinctive) / cells)
    return score


@dataclass(frozen=True)
class _Compared:
    """agree: soft agreement of the cells [GRID, GRID]; has_detail: in one of the images. Both are 0 outside the
    overlap. coarse: correlation of the coarse band, 0 if the overlap is small."""

    agree: np.ndarray
    has_detail: np.ndarray
    coarse: float

    @property
    def n_agree(self) -> float:
        return float(self.agree.sum())

    @property
    def fine(self) -> float:
        return _squared_share(self.n_agree, int(self.has_detail.sum()))

    def distinct(self, cells: np.ndarray) -> float:
        return _squared_share(float(self.agree[cells].sum()), int(self.has_detail[cells].sum()))


def _compared(first: Prepared, second: Prepared, matrix: np.ndarray) -> _Compared:
    cover = _laid_over(np.ones((SIDE, SIDE), np.float32), matrix, nearest=True)
    covered = _cells(cover)
    variance_a, variance_b, product = _centered(_moments(first.fine * cover, _laid_over(second.fine, matrix)), covered)
    low, high = AGREE
    agree = ((_correlation(variance_a, variance_b, product) - low) / (high - low)).clip(0, 1)
    inside = covered >= MIN_COVER
    has_detail = inside & (np.maximum(variance_a, variance_b) > DETAIL**2)
    coarse = 0.0
    if covered.mean() >= MIN_COVER:
        moments = _moments(first.coarse * cover, _laid_over(second.coarse, matrix)).mean((1, 2))
        coarse = float(_correlation(*_centered(moments, covered.mean())))
    return _Compared(np.where(inside, agree, 0), has_detail, coarse)


def _squared_share(n: float, m: int) -> float:
    """n²/m, at most n."""
    return n * min(n / max(m, 1), 1)


def _moments(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Bands a, b [SIDE, SIDE] → cell means of a, b, a², b² and a·b [5, GRID, GRID]."""
    return np.stack([_cells(x) for x in (a, b, a * a, b * b, a * b)])


def _centered(moments: np.ndarray, covered: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(variance of a, variance of b, covariance) over the covered pixels, from means over all pixels [5, ...]."""
    a, b, aa, bb, ab = moments / np.maximum(covered, 1e-6)
    return np.maximum(aa - a * a, 0), np.maximum(bb - b * b, 0), ab - a * b


def _correlation(variance_a: np.ndarray, variance_b: np.ndarray, product: np.ndarray) -> np.ndarray:
    return product / np.sqrt((variance_a + DETAIL**2) * (variance_b + DETAIL**2))


def _cells(image: np.ndarray) -> np.ndarray:
    """Means of an image [SIDE, SIDE] over GRID x GRID cells."""
    return _cv2().resize(image, (GRID, GRID), interpolation=_cv2().INTER_AREA)


def _laid_over(image: np.ndarray, matrix: np.ndarray, nearest: bool = False) -> np.ndarray:
    """`image` as seen from the first image; 0 outside."""
    cv2 = _cv2()
    how = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    return cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=how | cv2.WARP_INVERSE_MAP)


def _hypotheses(first: Prepared, second: Prepared) -> Iterator[np.ndarray]:
    """Maps [2, 3] from positions in the first image to positions in the second."""
    a, b = first.sketch * _FRAME_COVER, second.sketch[_FRAME_INDEX] * _FRAME_COVER
    likeness = (a * b).sum(1) / np.sqrt((a * a).sum(1) * (b * b).sum(1) + DETAIL**4)
    for number in np.argsort(-likeness, kind="stable")[:FRAMES].tolist():
        yield _FRAMES[number]
    for positions, descriptors in (first.keypoints, first.mirrored_keypoints):
        matrix = _matched(positions, descriptors, *second.keypoints)
        if matrix is not None:
            yield matrix


def _matched(
    positions: np.ndarray, descriptors: np.ndarray, other_positions: np.ndarray, other_descriptors: np.ndarray
) -> np.ndarray | None:
    """The affine map that most keypoint matches follow; None if there is no plausible one."""
    if min(len(descriptors), len(other_descriptors)) < MIN_MATCHES:
        return None
    cv2 = _cv2()
    distance = 2 - 2 * (descriptors @ other_descriptors.T)  # squared, of unit vectors
    best = np.argpartition(distance, 1, axis=1)[:, :2]
    near = np.take_along_axis(distance, best, 1)
    nearest = best[np.arange(len(best)), near.argmin(1)]
    clear = np.flatnonzero(near.min(1) < RATIO**2 * near.max(1))
    if len(clear) < MIN_MATCHES:
        return None
    a, b = positions[clear], other_positions[nearest[clear]]
    matrix, inliers = cv2.estimateAffine2D(a, b, method=cv2.RANSAC, ransacReprojThreshold=MAX_OFFSET, maxIters=500)
    if matrix is None or inliers.sum() < MIN_MATCHES:
        return None
    stretch = np.linalg.svd(matrix[:, :2], compute_uv=False)
    return matrix if stretch[1] >= STRETCH[0] and stretch[0] <= STRETCH[1] else None


def _keypoints(gray: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found, descriptors = _sift().detectAndCompute(gray, None)
    if not found:
        return np.zeros((0, 2), np.float32), np.zeros((0, 128), np.float32)
    root = np.sqrt(descriptors / np.maximum(descriptors.sum(1, keepdims=True), 1e-6))
    return np.array([point.pt for point in found], np.float32), root.astype(np.float32)


@cache
def _sift() -> Any:
    return _cv2().SIFT_create(nfeatures=KEYPOINTS, contrastThreshold=KEYPOINT_CONTRAST)


@cache
def _cv2() -> Any:
    """OpenCV, imported when a pair is verified; on the calling thread only."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def _frames() -> list[np.ndarray]:
    """The eight orientations of the full frame, and central crops of one image in the other, also mirrored."""
    center = np.full(2, (SIDE - 1) / 2)
    flips = [np.diag(signs) for signs in ((1.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (-1.0, -1.0))]
    turns = flips + [flip[::-1] for flip in flips]
    turns += [flip * scale for flip in flips[:2] for crop in CROPS for scale in (crop, 1 / crop)]
    return [np.column_stack([turn, center - turn @ center]) for turn in turns]


def _sketched(frames: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """For every frame and pixel of a sketch: (index of the pixel that lies there, 1 if there is one, else 0)."""
    scale = SIDE / SKETCH
    y, x = ((np.mgrid[:SKETCH, :SKETCH].reshape(2, -1) + 0.5) * scale) - 0.5
    index, cover = [], []
    for matrix in frames:
        there = matrix @ np.stack([x, y, np.ones_like(x)])
        column, row = np.rint((there + 0.5) / scale - 0.5).astype(int)
        inside = (column >= 0) & (column < SKETCH) & (row >= 0) & (row < SKETCH)
        index.append(np.where(inside, row * SKETCH + column, 0))
        cover.append(inside)
    return np.stack(index), np.stack(cover).astype(np.float32)


_FRAMES = _frames()
_SHIFTS = [np.array([[1.0, 0, x], [0, 1, y]]) for s in SHIFTS for x, y in ((s * SIDE, 0), (0, s * SIDE))]
_FRAME_INDEX, _FRAME_COVER = _sketched(_FRAMES)
