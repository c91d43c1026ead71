"""The embedded copy-detection descriptor: no weights, no downloads, NumPy and Pillow only.

Three parts are computed for the whole image and for its central 90, 80 and 70 %, averaged over these crops (for
robustness to cropping), concatenated with fixed weights and L2-normalized:

1. low frequencies of the luma, normalized locally (8x8 DCT-II without the DC coefficient, weighted by frequency^1.5,
   because the spectrum of natural images falls): the distribution of light and dark;
2. signed gradient histograms (8 directions on 7x7 softly overlapping cells, strength normalized locally; square root
   against outliers): edges;
3. coarse chroma (R - Y and B - Y on 4x4 cells): colors.

The luma is normalized locally first: without it, the soft gradient of light of one sky or blurred background is that of
every other one. What then remains of an image that shows nothing is rounding and noise, so features are scaled by
sqrt(c), where c is the share of the image's detail above a floor (`confidence`), and the rest of the unit length is a
code of the image's values: two featureless images resemble each other only if they have equal pixels.

Mirrored and rotated (by quarter turns) images have the same components up to order and signs. `views` gives all eight
orientations; a similarity is the largest of them.

What it finds on photographs, how often it is wrong, and beside which reference: benchmarks/bench_descriptor.py.
It does not replace SSCD: it hardly finds pasted parts and heavy crops, and its R is not comparable with published
values. `raysys.similarity.verify` compares the pixels of two images that it calls similar.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from raysys.similarity.images import ImageLike, as_pil
from raysys.similarity.thresholds import EMBEDDED

PRESET = "embedded-v2"

INPUT_PX = 40
"""Side in pixels of the square thumbnail from which everything is computed (aspect ratio not kept)."""
WORK_PX = 32
"""Side in pixels after the central crop."""
CROPS = (1.0, 0.9, 0.8, 0.7)
"""Central fractions of the image whose features are averaged."""
LOCAL_CELLS = 5
"""The luma's mean and contrast are normalized locally, over about a fifth of the image's side."""
DCT_SIZE = 8
FREQUENCY_POWER = 1.5
GRADIENT_CELLS = 7
DIRECTIONS = 8
NEARBY_CELLS = 4
"""Gradient strength is averaged locally, over about a quarter of the image's side."""
GRADIENT_FLOOR = 0.02
"""Added to this local mean (in standard deviations of the luma per pixel), so that flat regions stay weak."""
CHROMA_CELLS = 4
PART_WEIGHTS = (0.5, 1.0, 0.25)
"""Weights of low frequencies, gradients and chroma, tuned on photo tiles: gradients alone give the best ranking, the
other two separate copies from non-copies."""
CONTRAST_FLOOR = 0.02
"""Added to the luma's local standard deviation ([0, 1] scale), so that noise in a flat area is not amplified."""
SOFT_NORMS = (1.0, 0.1, 0.15)
"""A part whose norm is much smaller than this stays weak instead of being scaled to unit length."""
DETAIL_FLOOR = 0.001
"""Standard deviation ([0, 1] scale) of the detail at which an image's features have half of their weight."""
SLOPE_DEGREE = 2
"""Detail is what remains of the luma without its best-fitting polynomial of this degree, which is a slope of light."""
CODE_DIM = 64
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601
CHUNK = 128
"""Images per vectorized step, so that temporary arrays stay below 30 MB."""

DIM = DCT_SIZE**2 - 1 + GRADIENT_CELLS**2 * DIRECTIONS + CHROMA_CELLS**2 * 2 + CODE_DIM


class EmbeddedDescriptor:
    """Images → float32 [N, 551], L2-normalized. See the module docstring for the method and its measured quality."""

    name = "embedded"
    preset = PRESET
    dim = DIM
    thresholds = EMBEDDED

    def __init__(self) -> None:
        self.weights_sha256 = version_hash()

    def __call__(self, images: Sequence[ImageLike]) -> np.ndarray:
        out = np.empty((len(images), DIM), np.float32)
        for start in range(0, len(images), CHUNK):
            out[start : start + CHUNK] = describe(thumbnails(images[start : start + CHUNK]))
        return out

    def views(self, features: np.ndarray) -> np.ndarray:
        """Features [N, dim] of the eight orientations of the images, computed from the features → [N, 8, dim].

        The first is the image itself, the second its left-right mirror image.
        """
        return features[:, _VIEW_INDEX] * _VIEW_SIGN


def version_hash() -> str:
    """SHA-256 of all constants of the method; takes the place of a weights hash."""
    recipe = (PRESET, INPUT_PX, WORK_PX, CROPS, DCT_SIZE, GRADIENT_CELLS, DIRECTIONS, CHROMA_CELLS, PART_WEIGHTS)
    soft = (NEARBY_CELLS, GRADIENT_FLOOR, CONTRAST_FLOOR, SOFT_NORMS, LOCAL_CELLS, FREQUENCY_POWER)
    weak = (DETAIL_FLOOR, SLOPE_DEGREE, CODE_DIM)
    return hashlib.sha256(repr(recipe + soft + weak).encode()).hexdigest()


def thumbnails(images: Sequence[ImageLike]) -> np.ndarray:
    """Images of any size → float32 [N, 40, 40, 3] in [0, 1], antialiased."""
    size = (INPUT_PX, INPUT_PX)
    # reducing_gap=3 first shrinks large images by an integer factor: several times faster, visually the same.
    small = [as_pil(i).resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0) for i in images]
    return np.stack([np.asarray(s) for s in small]).astype(np.float32) / np.float32(255)


def describe(thumbs: np.ndarray) -> np.ndarray:
    """Thumbnails [N, 40, 40, 3] → unit features [N, 551]: the mean over the central crops, beside the images' codes."""
    luma = thumbs @ LUMA
    chroma = np.stack([thumbs[..., 0] - luma, thumbs[..., 2] - luma])  # [2, N, 40, 40]
    even = _locally_normalized(luma)
    total = np.zeros((len(thumbs), DIM - CODE_DIM), np.float32)
    for zoom in _ZOOMS:
        parts = (
            low_frequencies(crop := _separable(even, zoom)),
            gradient_histograms(crop),
            coarse_chroma(_separable(chroma, zoom)),
        )
        soft = [w * _soft_unit(p, s) for p, w, s in zip(parts, PART_WEIGHTS, SOFT_NORMS, strict=True)]
        total += np.concatenate(soft, axis=1)
    share = confidence(luma)[:, None]
    features = total / (np.linalg.norm(total, axis=1, keepdims=True) + np.float32(1e-6))
    features = np.concatenate([np.sqrt(share) * features, np.sqrt(1 - share) * codes(thumbs)], axis=1)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def confidence(luma: np.ndarray) -> np.ndarray:
    """Luma [N, 40, 40] → [N] in [0, 1): E / (E + floor²), where E is the variance of the detail."""
    pixels = luma.reshape(len(luma), -1)
    energy = ((pixels - (pixels @ _SLOPES) @ _SLOPES.T) ** 2).mean(1)
    return energy / (energy + np.float32(DETAIL_FLOOR**2))


def codes(thumbs: np.ndarray) -> np.ndarray:
    """Thumbnails [N, 40, 40, 3] → unit vectors [N, 64] of signs, from a hash of the values that occur in the image.

    Which values occur, not where, so that all orientations of an image have the same code.
    """
    values = np.rint(thumbs * 255).astype(np.uint8).reshape(len(thumbs), -1)
    digests = [hashlib.shake_256(np.bincount(v, minlength=256).tobytes()).digest(CODE_DIM // 8) for v in values]
    bits = np.unpackbits(np.frombuffer(b"".join(digests), np.uint8).reshape(len(thumbs), -1), axis=1)
    return (bits.astype(np.float32) * 2 - 1) / np.float32(np.sqrt(CODE_DIM))


def low_frequencies(luma: np.ndarray) -> np.ndarray:
    """Luma [N, 32, 32] → DCT-II coefficients [N, 63] (rows: vertical frequency), times |frequency|^1.5."""
    coefficients = _separable(luma, _DCT) * _FREQUENCY_WEIGHT
    return coefficients.reshape(len(luma), -1)[:, 1:]


def gradient_histograms(luma: np.ndarray) -> np.ndarray:
    """Luma [N, 32, 32] → [N, 7·7·8]: per cell, the mean rectified gradient along 8 directions.

    Gradients are divided by the square root of the local mean strength, so that faint detail also counts next to strong
    edges. Rectified projections max(0, g·d) are used instead of binned angles, which avoids arctangents and bin edges.
    Histograms are centered per image, so that two unrelated images have an inner product of about zero.
    """
    gy = luma[:, 2:, 1:-1] - luma[:, :-2, 1:-1]
    gx = luma[:, 1:-1, 2:] - luma[:, 1:-1, :-2]
    nearby = np.sqrt(_separable(np.hypot(gx, gy), _NEARBY) + np.float32(GRADIENT_FLOOR))
    gx, gy = gx / nearby, gy / nearby
    energy = np.stack([np.maximum(gx * c + gy * s, 0) for c, s in _DIRECTION_VECTORS])  # [8, N, 30, 30]
    cells = np.sqrt(_separable(energy, _GRADIENT_POOL))
    histogram = np.moveaxis(cells, 0, -1).reshape(len(luma), -1)
    return histogram - histogram.mean(1, keepdims=True)


def coarse_chroma(chroma: np.ndarray) -> np.ndarray:
    """Chroma [2, N, 32, 32] → [N, 4·4·2] cell means."""
    cells = _separable(chroma, _CHROMA_POOL)
    return np.moveaxis(cells, 0, -1).reshape(chroma.shape[1], -1)


def _separable(images: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """M·X·Mᵀ for each image of [..., H, W]."""
    return matrix @ images @ matrix.T


def _locally_normalized(luma: np.ndarray) -> np.ndarray:
    """Luma minus its local mean, divided by its local standard deviation."""
    centered = luma - _separable(luma, _LOCAL)
    deviation = np.sqrt(_separable(centered * centered, _LOCAL))
    return centered / (deviation + np.float32(CONTRAST_FLOOR))


def _soft_unit(part: np.ndarray, soft: float) -> np.ndarray:
    return part / np.sqrt((part * part).sum(1, keepdims=True) + np.float32(soft**2))


def _dct_matrix(size: int, rows: int) -> np.ndarray:
    """The first `rows` rows of the orthonormal DCT-II matrix."""
    u, i = np.arange(rows)[:, None], np.arange(size) + 0.5
    matrix = np.sqrt(2 / size) * np.cos(np.pi * u * i / size)
    matrix[0] /= np.sqrt(2)
    return matrix.astype(np.float32)


def _pool_matrix(size: int, cells: int) -> np.ndarray:
    """[cells, size] Gaussian averages; σ = half a cell, so a pixel at an edge counts for both neighbors."""
    x, centers = (np.arange(size) + 0.5) / size, (np.arange(cells) + 0.5) / cells
    matrix = np.exp(-0.5 * ((x - centers[:, None]) * 2 * cells) ** 2)
    return (matrix / matrix.sum(1, keepdims=True)).astype(np.float32)


def _smoothing_matrix(size: int, cells: int) -> np.ndarray:
    """[size, size]: averages over `cells` soft cells, spread back over the axis; rows sum to 1."""
    pool = _pool_matrix(size, cells)
    return (pool / pool.sum(0)).T @ pool


def _polynomials(size: int, degree: int) -> np.ndarray:
    """Orthonormal polynomials in x and y up to `degree`, on size x size pixels, as columns."""
    y, x = np.mgrid[:size, :size].reshape(2, -1) / size - 0.5
    powers = [x**i * y**j for i in range(degree + 1) for j in range(degree + 1 - i)]
    return np.linalg.qr(np.stack(powers, axis=1))[0].astype(np.float32)


def _zoom_matrix(size: int, out: int, fraction: float) -> np.ndarray:
    """[out, size] linear interpolation of the central `fraction` of an axis."""
    position = ((np.arange(out) + 0.5) / out * fraction + (1 - fraction) / 2) * size - 0.5
    left = np.clip(np.floor(position).astype(int), 0, size - 2)
    right_share = position - left
    matrix = np.zeros((out, size), np.float32)
    matrix[np.arange(out), left] = 1 - right_share
    matrix[np.arange(out), left + 1] += right_share
    return matrix


def _orientations() -> tuple[np.ndarray, np.ndarray]:
    """(index [8, D], sign [8, D]) with features(image in orientation i) = sign[i] · features(image)[index[i]].

    All combinations of the mirror image M and the transposed image T: 1, M, T, MT, TM, MTM, TMT, MTMT.
    Mirrored: odd horizontal frequencies change sign; cells swap left and right, direction θ becomes π - θ.
    Transposed: rows and columns swap, direction θ becomes π/2 - θ. The code stays.
    """
    low = np.arange(DCT_SIZE**2).reshape(DCT_SIZE, DCT_SIZE)
    gradients = np.arange(GRADIENT_CELLS**2 * DIRECTIONS).reshape(GRADIENT_CELLS, GRADIENT_CELLS, DIRECTIONS)
    chroma = np.arange(CHROMA_CELLS**2 * 2).reshape(CHROMA_CELLS, CHROMA_CELLS, 2)
    code, k = np.arange(CODE_DIM), np.arange(DIRECTIONS)

    def joined(low: np.ndarray, gradients: np.ndarray, chroma: np.ndarray) -> np.ndarray:
        parts = [low.ravel()[1:] - 1]
        for part in (gradients, chroma, code):
            parts.append(part.ravel() + sum(map(len, parts)))
        return np.concatenate(parts)

    ones = np.ones(DIM, np.float32)
    odd = np.concatenate([np.tile((-1.0) ** np.arange(DCT_SIZE), DCT_SIZE)[1:], ones[DCT_SIZE**2 - 1 :]])
    mirror = joined(low, gradients[:, ::-1, (DIRECTIONS // 2 - k) % DIRECTIONS], chroma[:, ::-1]), odd
    turned = gradients.transpose(1, 0, 2)[..., (DIRECTIONS // 4 - k) % DIRECTIONS]
    transpose = joined(low.T, turned, chroma.transpose(1, 0, 2)), ones
    found = [(np.arange(DIM), ones)]
    for steps in ("M", "T", "MT", "TM", "MTM", "TMT", "MTMT"):
        index, sign = found[0]
        for step in steps:
            then, flip = mirror if step == "M" else transpose
            index, sign = index[then], flip * sign[then]
        found.append((index, sign))
    index, sign = zip(*found, strict=True)
    return np.stack(index), np.stack(sign).astype(np.float32)


_DCT = _dct_matrix(WORK_PX, DCT_SIZE)
_SLOPES = _polynomials(INPUT_PX, SLOPE_DEGREE)
_LOCAL = _smoothing_matrix(INPUT_PX, LOCAL_CELLS)
_FREQUENCY_WEIGHT = (np.hypot(*np.mgrid[:DCT_SIZE, :DCT_SIZE]) ** FREQUENCY_POWER).astype(np.float32)
_GRADIENT_POOL = _pool_matrix(WORK_PX - 2, GRADIENT_CELLS)
_NEARBY = _smoothing_matrix(WORK_PX - 2, NEARBY_CELLS)
_CHROMA_POOL = _pool_matrix(WORK_PX, CHROMA_CELLS)
_DIRECTION_VECTORS = [
    (np.float32(np.cos(a)), np.float32(np.sin(a))) for a in 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
]
_ZOOMS = tuple(_zoom_matrix(INPUT_PX, WORK_PX, fraction) for fraction in CROPS)
_VIEW_INDEX, _VIEW_SIGN = _orientations()
