"""Exact inner-product search over a database that is read in blocks. The only module that imports faiss.

Memory: the queries, one block and faiss's tiles; the [queries, database] matrix is never materialized.

Results do not depend on the block size, the number of threads or the device (CPU or GPU): faiss proposes candidates,
their similarities are recomputed in float64 in a fixed order, and ties are ordered by index. With faiss alone, the last
bits depend on its tiling, so the order of two copies would be arbitrary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from raysys.errors import MissingExtra

Blocks = Iterable[tuple[int, np.ndarray]]
"""(database index of the block's first row, float32 [rows, D]) for each block, in any order."""

Best = tuple[np.ndarray, np.ndarray]
"""The best matches so far: (similarity [Q, k], index [Q, k])."""

Knn = Callable[[np.ndarray, np.ndarray, int], tuple[np.ndarray, np.ndarray]]
"""(queries [Q, D], block [N, D], k) → (similarity [Q, k], row [Q, k]), best first."""

NEVER = np.float32(-1e30)
"""Below every similarity, but above -inf, which marks rows to ignore."""
TIE_MARGIN = 4
"""Additional candidates beyond k, so that ties at the k-th place rarely need a second search."""
ROUNDING = 1e-5
"""Larger than the float32 error of an inner product of unit vectors with a few thousand dimensions (typically 1e-7),
on CPU and GPU."""
SLICE_BYTES = 64 << 20
"""Memory limit for similarities when all rows of a block are compared."""
EXACT_BYTES = 2 << 20
"""Memory limit for float64 products, so that they stay in the CPU cache."""


def top_k(
    queries: np.ndarray,
    blocks: Blocks,
    k: int,
    *,
    exclude: Sequence[int] | np.ndarray | None = None,
    threads: int | None = None,
    use_gpu: bool | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k database rows with the largest inner product for each query. All vectors must be L2-normalized.

    queries: float32 [Q, D], or [Q, V, D] for queries with V views (e.g. the image and its mirror image); the similarity
    is then the maximum over the views.
    exclude: one database index per query that must not be returned; `range(Q)` compares a set with itself without
    matching a row with itself.
    threads: CPU threads of faiss (None = all). use_gpu: None = if faiss finds a GPU.

    Returns (similarity float32 [Q, k], index int64 [Q, k]), best first, ties by index, padded with similarity -inf and
    index -1 if the database has fewer than k rows. Raises ValueError for mixed dimensions, MissingExtra without faiss.
    """
    views = np.ascontiguousarray(queries if queries.ndim == 3 else queries[:, None], dtype=np.float32)
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    excluded = np.full(len(views), -1, np.int64) if exclude is None else np.asarray(exclude, np.int64)
    if excluded.shape != (len(views),):
        raise ValueError(f"exclude has shape {excluded.shape}, expected one index for each of {len(views)} queries")
    best = np.full((len(views), k), -np.inf, np.float32), np.full((len(views), k), -1, np.int64)
    if len(views) == 0:
        return best
    with _searcher(threads, use_gpu) as knn:
        for offset, block in blocks:
            block = _checked(block, views)
            if not len(block):
                continue
            for query, row in _proposals(knn, views, block, best[0][:, -1].copy(), k):
                keep = row + offset != excluded[query]
                query, row = query[keep], row[keep]
                _merge(best, query, row + offset, _exact(views, block, query, row))
    return best


def array_blocks(features: np.ndarray, block_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    """An array (or memory map) [N, D] as blocks of `block_rows` rows."""
    for start in range(0, len(features), block_rows):
        yield start, features[start : start + block_rows]


def pairs_above(views: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All pairs i < j of N images with similarity ≥ threshold, as arrays (i, j, similarity), sorted by i, then j.

    views [N, V, D]: the features of the orientations of each image, the first as it is; a similarity is the largest
    over the orientations of image i. Everything is in memory, and the result can hold N²/2 pairs.
    """
    views = np.asarray(views, np.float32)
    features = np.ascontiguousarray(views[:, 0])
    if len(features) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)
    floors = np.full(len(views), threshold - ROUNDING, np.float32)
    found = list(_above(views, features, np.arange(len(views)), floors))
    left, right = (np.concatenate(c) for c in zip(*found, strict=True))
    keep = left < right
    left, right = left[keep], right[keep]
    similarity = _exact(views, features, left, right)
    keep = similarity >= np.float32(threshold)
    return left[keep], right[keep], similarity[keep]


def _proposals(
    knn: Knn, views: np.ndarray, block: np.ndarray, floor: np.ndarray, k: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(query, row of the block) pairs that may be among the best k, without repetition. floor [Q]: current k-th best.

    First the candidates of `knn` for all queries. Then, for queries where `knn` has cut off a group of (nearly) equal
    rows, all candidates, because the choice of `knn` among them is arbitrary.
    """
    n_queries, n_views, dim = views.shape
    wanted = min(k + 1 + TIE_MARGIN, len(block))  # + 1 because an excluded row may be among them
    near, row = knn(views.reshape(-1, dim), block, wanted)
    near, row = near.reshape(n_queries, n_views, wanted), row.reshape(n_queries, n_views * wanted)
    last = near[:, :, -1].max(axis=1)
    near = _once(near.reshape(n_queries, -1), row)
    if wanted < len(block):
        edge = np.maximum(
            -np.partition(-near, k, axis=1)[:, k], floor
        )  # (k + 1)-th best, i.e. the k-th without the excluded row
        cut = last >= edge - 2 * ROUNDING
        near[cut] = -np.inf
    else:
        edge, cut = floor, np.zeros(n_queries, bool)
    query, slot = np.nonzero(near >= np.maximum(floor, NEVER)[:, None] - ROUNDING)
    yield query, row[query, slot]
    yield from _above(views, block, np.flatnonzero(cut), edge - 2 * ROUNDING)


def _once(near: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Similarities [Q, C] of rows [Q, C], with -inf for rows that another view of the query has found as well."""
    order = np.lexsort((-near, row), axis=1)
    again = np.diff(np.take_along_axis(row, order, 1), axis=1, prepend=-1) == 0
    near = near.copy()
    np.put_along_axis(near, order, np.where(again, -np.inf, np.take_along_axis(near, order, 1)), 1)
    return near


def _above(
    views: np.ndarray, block: np.ndarray, queries: np.ndarray, floors: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(query, row) of all pairs with similarity ≥ `floors` [Q], for the given queries, a few at a time."""
    step = max(1, SLICE_BYTES // (4 * len(block) * views.shape[1]))
    for start in range(0, len(queries), step):
        part = queries[start : start + step]
        flat = views[part].reshape(-1, views.shape[2])
        similarity = (flat @ block.T).reshape(len(part), views.shape[1], -1).max(axis=1)
        query, row = np.nonzero(similarity >= floors[part, None])
        yield part[query], row


def _exact(views: np.ndarray, block: np.ndarray, query: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Similarity of each (query, row) pair as float32, independent of the positions of the two vectors.

    Products of float32 are exact in float64, and each pair is summed separately.
    """
    out = np.empty(len(query), np.float32)
    step = max(1, EXACT_BYTES // (8 * views.shape[1] * views.shape[2]))
    for start in range(0, len(query), step):
        part = slice(start, start + step)
        product = views[query[part]].astype(np.float64) * block[row[part], None]
        out[part] = product.sum(axis=2).max(axis=1)
    return out


def _merge(best: Best, query: np.ndarray, index: np.ndarray, similarity: np.ndarray) -> None:
    """Merge new (query, index, similarity) triples into the best k in place, by similarity, ties by index."""
    k = best[0].shape[1]
    touched = np.unique(query)
    all_query = np.concatenate([np.repeat(touched, k), query])
    all_index = np.concatenate([best[1][touched].ravel(), index])
    all_similarity = np.concatenate([best[0][touched].ravel(), similarity])
    order = np.lexsort((all_index, -all_similarity, all_query))
    all_query = all_query[order]
    rank = np.arange(len(all_query)) - np.searchsorted(all_query, all_query)
    first = order[rank < k]  # each touched query has at least its k old entries
    best[0][touched] = all_similarity[first].reshape(-1, k)
    best[1][touched] = all_index[first].reshape(-1, k)


def _checked(block: np.ndarray, views: np.ndarray) -> np.ndarray:
    if block.ndim != 2 or block.shape[1] != views.shape[2]:
        raise ValueError(f"mixed dimensions: queries have {views.shape[2]}, the block has shape {block.shape}")
    return np.ascontiguousarray(block, dtype=np.float32)


@contextmanager
def _searcher(threads: int | None, use_gpu: bool | None) -> Iterator[Knn]:
    """faiss's brute-force search on the chosen device; restores faiss's thread count afterwards."""
    try:
        import faiss
    except ImportError as exc:
        raise MissingExtra("faiss", "cpu") from exc
    n_gpus = faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0
    if use_gpu and not n_gpus:
        raise MissingExtra("faiss with GPU support (or a GPU)", "gpu")
    metric = faiss.METRIC_INNER_PRODUCT
    if use_gpu or (use_gpu is None and n_gpus):
        resources = faiss.StandardGpuResources()
        yield lambda queries, block, k: faiss.knn_gpu(resources, queries, block, k, metric=metric)
        return
    previous = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads or previous)
    try:
        yield lambda queries, block, k: faiss.knn(queries, block, k, metric=metric)
    finally:
        faiss.omp_set_num_threads(previous)
