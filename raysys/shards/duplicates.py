"""Samples and features → DUPLICATES rows: clusters of images that show the same thing, with one representative each.

Exact duplicates have the same `sample_id` (hash of the image bytes). Near-duplicates have a similarity above a
threshold and, where the features alone prove little, agree in their pixels (`raysys.similarity.verify`).

A cluster is a star: every member is a near-duplicate of the representative itself. Connected components would be
simpler, but they chain: among millions of images, a is similar to b, b to c and so on, until a cluster holds unrelated
images, of which all but one would be dropped. The price of stars is that two members of a chain may both be kept.

The algorithm is greedy, in order of preference (largest image, then first in reading order): an image that is no
near-duplicate of any representative so far becomes one. Then every other image joins its most similar representative.
The list of all similar pairs is never built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from raysys.config import OPERATIONAL, Config
from raysys.errors import InputError
from raysys.outcomes import kept, rejected
from raysys.shards.licenses import UNKNOWN, strictest
from raysys.similarity import DescriptorFacts, pairs_above, top_k

UNIQUE, EXACT, NEAR = "unique", "exact", "near"

Views = Callable[[np.ndarray], np.ndarray]
"""Features [N, D] → those of all orientations of the images [N, V, D]: `DescriptorFacts.views`."""

Verify = Callable[[str, str, float], bool]
"""Whether two rows (by row_id) with this similarity agree in their pixels."""


class DuplicatesConfig(Config):
    """When two images count as duplicates."""

    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="minimum cosine similarity of near-duplicates; with verify, of pairs whose pixels are compared; "
        "null = the descriptor's: embedded 0.4 with verify, else 0.92; sscd 0.75; none for clip and dinov2",
    )
    near: bool = Field(True, description="find near-duplicates; false = exact duplicates only")
    verify: bool | None = Field(
        None,
        description="near-duplicates must also agree in their pixels; null = if the descriptor needs it: true for "
        "embedded. Measured on 2,700 altered copies of tiles of photographs, among 458 others: 83 % find their "
        "original; 0.0 % match a tile of another photograph, 3.4 % one of their own (wallpaper, windows that repeat)",
    )
    candidates: int = Field(
        8, ge=1, le=100, description="with verify: the most similar representatives whose pixels are compared"
    )
    orientations: bool = Field(
        True, description="mirrored and turned images are near-duplicates, too, if the descriptor supports it"
    )
    block_rows: Annotated[int, OPERATIONAL] = Field(
        2048, ge=1, description="features compared at a time; limits memory use"
    )

    def of_descriptor(self, descriptor: DescriptorFacts) -> DuplicatesConfig:
        """With the descriptor's settings where none are set. Raises InputError if it has no threshold and needs one."""
        stated = descriptor.thresholds
        verify = self.near and (stated.candidate is not None if self.verify is None else self.verify)
        if self.threshold is not None or not self.near:
            return self.model_copy(update={"verify": verify})
        limit = stated.candidate if verify and stated.candidate is not None else stated.near_duplicate
        if limit is None:
            raise InputError(
                f"duplicates.threshold is not set, and descriptor {descriptor.name} has no measured threshold",
                "set duplicates.threshold, or duplicates.near=false for equal bytes only",
            )
        return self.model_copy(update={"threshold": limit.similarity, "verify": verify})


def find_clusters(
    rows: Sequence[dict[str, Any]],
    features: np.ndarray,
    config: DuplicatesConfig,
    views: Views | None = None,
    verify: Verify | None = None,
) -> list[dict[str, Any]]:
    """One DUPLICATES row per SAMPLES row, in order.

    rows: in reading order, with row_id, sample_id, width, height, license and url. features: float32 [N, D],
    L2-normalized, one row for each of `rows`; of a memory map, only a few blocks are in memory at a time. config: with
    a threshold (`of_descriptor`). views: the descriptor's; None = only the image itself is compared. verify:
    decides about similar pairs; None = all of them are near-duplicates.

    The representative is kept; the others are rejected as `duplicate_of:<row_id of the representative>`. All members
    have the merged sources and the strictest license of the cluster.
    """
    if len(rows) != len(features):
        raise ValueError(f"{len(rows)} rows, but {len(features)} features")
    groups = _exact_groups(rows)
    heads = [min(members, key=lambda i: _preference(rows, i)) for members in groups]
    order = sorted(range(len(groups)), key=lambda g: _preference(rows, heads[g]))
    leader, similarity = np.arange(len(groups)), np.ones(len(groups), np.float32)
    if config.near and groups:
        nodes = np.array([heads[g] for g in order], np.int64)
        ids = [rows[node]["row_id"] for node in nodes.tolist()]
        same = None if verify is None else lambda a, b, similarity: verify(ids[a], ids[b], similarity)
        found, value = star_clusters(features, nodes, config, views, same)
        leader[order], similarity[order] = np.array(order)[found], value
    clusters: dict[int, list[int]] = {}
    for group, head in enumerate(leader.tolist()):
        clusters.setdefault(head, []).append(group)
    out: dict[int, dict[str, Any]] = {}
    for head, members in clusters.items():
        similarity_of = {i: float(similarity[g]) for g in members for i in groups[g]}
        out.update(_cluster_rows(rows, similarity_of, heads[head]))
    return [out[i] for i in range(len(rows))]


Same = Callable[[int, int, float], bool]
"""The same for positions in `nodes`."""


def star_clusters(
    features: np.ndarray, nodes: np.ndarray, config: DuplicatesConfig, views: Views | None, same: Same | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Star clusters of `features[nodes]`, `nodes` in order of preference: (leader [N], similarity to it [N]).

    same: decides about pairs that reach the threshold; None = all of them are near-duplicates. Leaders are positions in
    `nodes`; a leader is its own leader, with similarity 1. Memory: two blocks.
    """
    stars = _Stars(features, nodes, config, views, same)
    leader, similarity = stars.found()
    leaders = np.flatnonzero(leader == np.arange(len(nodes)))
    others = np.flatnonzero(leader != np.arange(len(nodes)))
    for start in range(0, len(others), config.block_rows):
        part = others[start : start + config.block_rows]
        for i, (nearest, value) in zip(part.tolist(), stars.nearest(part, leaders), strict=True):
            if nearest is not None and value > similarity[i]:
                leader[i], similarity[i] = nearest, value
    return leader, similarity


class _Stars:
    """The two passes of `star_clusters`. Positions are those in `nodes`."""

    def __init__(
        self, features: np.ndarray, nodes: np.ndarray, config: DuplicatesConfig, views: Views | None, same: Same | None
    ) -> None:
        self._features, self._nodes, self._config, self._views = features, nodes, config, views
        self._same = (lambda leader, other, similarity: True) if same is None else cache(same)
        self._n_candidates = 1 if same is None else config.candidates

    def found(self) -> tuple[np.ndarray, np.ndarray]:
        """(leader [N], similarity to it [N]): the first leader that was found for each image."""
        n, threshold = len(self._nodes), self._config.threshold
        leader, similarity = np.arange(n), np.ones(n, np.float32)
        leaders: list[int] = []
        for start in range(0, n, self._config.block_rows):
            part = np.arange(start, min(start + self._config.block_rows, n))
            for i, (nearest, value) in zip(part.tolist(), self.nearest(part, np.array(leaders, np.int64)), strict=True):
                if nearest is not None:
                    leader[i], similarity[i] = nearest, value
            left, right, values = pairs_above(self._of(part), threshold)
            starts = np.searchsorted(left, np.arange(len(part) + 1))
            for i in (part[leader[part] == part]).tolist():
                if leader[i] != i:  # found by a leader of this block in the meantime
                    continue
                leaders.append(i)
                pairs = slice(starts[i - start], starts[i - start + 1])
                for j, value in zip((right[pairs] + start).tolist(), values[pairs], strict=True):
                    if leader[j] == j and self._same(i, j, float(value)):
                        leader[j], similarity[j] = i, value
        return leader, similarity

    def nearest(self, part: np.ndarray, leaders: np.ndarray) -> Iterator[tuple[int | None, float]]:
        """For each position of `part`: its most similar near-duplicate among `leaders` and the similarity, or None."""
        blocks = _blocks(self._features, self._nodes[leaders], self._config.block_rows)
        values, index = top_k(self._of(part), blocks, self._n_candidates)
        for i, row, order in zip(part.tolist(), values, index, strict=True):
            similar = row >= np.float32(self._config.threshold)
            candidates = zip(leaders[order[similar]].tolist(), row[similar].tolist(), strict=True)
            yield next(((j, value) for j, value in candidates if self._same(j, i, value)), (None, 0.0))

    def _of(self, part: np.ndarray) -> np.ndarray:
        return views_of(self._features[self._nodes[part]], self._config, self._views)


def views_of(block: np.ndarray, config: DuplicatesConfig, views: Views | None) -> np.ndarray:
    """Features [N, D] → views of queries [N, V, D]: all orientations, or only the image itself."""
    return block[:, None] if views is None or not config.orientations else views(block)


def _blocks(features: np.ndarray, index: np.ndarray, block_rows: int) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(index), block_rows):
        yield start, features[index[start : start + block_rows]]


def _exact_groups(rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Row indices by sample_id, in reading order."""
    groups: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        groups.setdefault(row["sample_id"], []).append(i)
    return list(groups.values())


def _preference(rows: Sequence[dict[str, Any]], index: int) -> tuple[int, int]:
    row = rows[index]
    return -(row["width"] or 0) * (row["height"] or 0), index


def _cluster_rows(
    rows: Sequence[dict[str, Any]], similarity_of: dict[int, float], representative: int
) -> dict[int, dict[str, Any]]:
    """The DUPLICATES rows of one cluster by row index; `similarity_of` holds its members."""
    indices = sorted(similarity_of)
    head = rows[representative]
    shared = {
        "cluster_id": rows[indices[0]]["row_id"],
        "cluster_size": len(indices),
        "representative": head["row_id"],
        "license": strictest(rows[i]["license"] or UNKNOWN for i in indices),
        "sources": [{k: rows[i][k] for k in ("row_id", "url", "license")} for i in indices],
    }
    is_copy = {i: i != representative and rows[i]["sample_id"] == head["sample_id"] for i in indices}
    return {
        i: {
            "row_id": rows[i]["row_id"],
            "sample_id": rows[i]["sample_id"],
            "kind": _kind(len(indices), any(is_copy.values()) if i == representative else is_copy[i]),
            "similarity": similarity_of[i],
            **shared,
            **(kept() if i == representative else rejected(f"duplicate_of:{head['row_id']}")),
        }
        for i in indices
    }


def _kind(cluster_size: int, is_exact: bool) -> str:
    """unique, exact or near: the relation of a member to the representative (of the latter: to its closest member)."""
    if cluster_size == 1:
        return UNIQUE
    return EXACT if is_exact else NEAR
