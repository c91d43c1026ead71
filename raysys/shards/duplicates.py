"""Samples and features → DUPLICATES rows: clusters of images that show the same thing, with one representative each.

Exact duplicates have the same `sample_id` (hash of the image bytes); near-duplicates a similarity above a threshold.

A cluster is a star: every member reaches the threshold with the representative itself. Connected components would be
simpler, but they chain: among millions of images, a is similar to b, b to c and so on, until a cluster holds unrelated
images, of which all but one would be dropped. The price of stars is that two members of a chain may both be kept.

The algorithm is greedy, in order of preference (largest image, then first in reading order): an image that is not
similar to any representative so far becomes one. Then every other image joins its most similar representative. The
result does not depend on block sizes, and the list of all similar pairs is never built.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from raysys.config import OPERATIONAL, Config
from raysys.errors import InputError
from raysys.outcomes import kept, rejected
from raysys.shards.licenses import UNKNOWN, strictest
from raysys.similarity import DescriptorFacts, pairs_above, top_k

UNIQUE, EXACT, NEAR = "unique", "exact", "near"

Mirror = Callable[[np.ndarray], np.ndarray | None]
"""Features [N, D] → those of the mirrored images, or None: `DescriptorFacts.mirrored`."""


class DuplicatesConfig(Config):
    """When two images count as duplicates."""

    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="minimum cosine similarity of near-duplicates; null = the descriptor's threshold: 0.92 for "
        "embedded, 0.75 for sscd, none for clip and dinov2",
    )
    near: bool = Field(True, description="find near-duplicates; false = exact duplicates only")
    mirrored: bool = Field(True, description="mirror images are near-duplicates, too, if the descriptor supports it")
    block_rows: Annotated[int, OPERATIONAL] = Field(
        2048, ge=1, description="features compared at a time; limits memory use"
    )

    def of_descriptor(self, descriptor: DescriptorFacts) -> DuplicatesConfig:
        """With the descriptor's threshold if none is set. Raises InputError if `near` needs one and there is none."""
        if self.threshold is not None or not self.near:
            return self
        stated = descriptor.thresholds.near_duplicate
        if stated is None:
            raise InputError(
                f"duplicates.threshold is not set, and descriptor {descriptor.name} has no measured threshold",
                "set duplicates.threshold, or duplicates.near=false for equal bytes only",
            )
        return self.model_copy(update={"threshold": stated.similarity})


def find_clusters(
    rows: Sequence[dict[str, Any]],
    features: np.ndarray,
    config: DuplicatesConfig,
    mirror: Mirror | None = None,
) -> list[dict[str, Any]]:
    """One DUPLICATES row per SAMPLES row, in order.

    rows: in reading order, with row_id, sample_id, width, height, license and url. features: float32 [N, D],
    L2-normalized, one row for each of `rows`; of a memory map, only a few blocks are in memory at a time. config: with
    a threshold (`of_descriptor`). mirror: computes the features of mirrored images, if the descriptor supports it.

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
        found, value = star_clusters(features, nodes, config, mirror)
        leader[order], similarity[order] = np.array(order)[found], value
    clusters: dict[int, list[int]] = {}
    for group, head in enumerate(leader.tolist()):
        clusters.setdefault(head, []).append(group)
    out: dict[int, dict[str, Any]] = {}
    for head, members in clusters.items():
        similarity_of = {i: float(similarity[g]) for g in members for i in groups[g]}
        out.update(_cluster_rows(rows, similarity_of, heads[head]))
    return [out[i] for i in range(len(rows))]


def star_clusters(
    features: np.ndarray, nodes: np.ndarray, config: DuplicatesConfig, mirror: Mirror | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Star clusters of `features[nodes]`, `nodes` in order of preference: (leader [N], similarity to it [N]).

    Leaders are positions in `nodes`; a leader is its own leader, with similarity 1. Memory: two blocks.
    """
    leaders = _leaders(features, nodes, config, mirror)
    leader, similarity = np.arange(len(nodes)), np.ones(len(nodes), np.float32)
    is_leader = np.zeros(len(nodes), bool)
    is_leader[leaders] = True
    others = np.flatnonzero(~is_leader)
    for start in range(0, len(others), config.block_rows):
        part = others[start : start + config.block_rows]
        views = views_of(features[nodes[part]], config, mirror)
        value, index = top_k(views, _blocks(features, nodes[leaders], config.block_rows), 1)
        leader[part], similarity[part] = leaders[index[:, 0]], value[:, 0]
    return leader, similarity


def _leaders(features: np.ndarray, nodes: np.ndarray, config: DuplicatesConfig, mirror: Mirror | None) -> np.ndarray:
    """Positions of the leaders, ascending: images below the threshold to every leader before them."""
    leaders: list[int] = []
    for start in range(0, len(nodes), config.block_rows):
        part = nodes[start : start + config.block_rows]
        views = views_of(features[part], config, mirror)
        before = nodes[np.array(leaders, np.int64)]
        value = top_k(views, _blocks(features, before, config.block_rows), 1)[0][:, 0]
        is_free = value < np.float32(config.threshold)
        left, right, _ = pairs_above(views[:, 0], config.threshold, views[:, 1] if views.shape[1] > 1 else None)
        starts = np.searchsorted(left, np.arange(len(part) + 1))
        for i in range(len(part)):
            if is_free[i]:
                leaders.append(start + i)
                is_free[right[starts[i] : starts[i + 1]]] = False
    return np.array(leaders, np.int64)


def views_of(block: np.ndarray, config: DuplicatesConfig, mirror: Mirror | None) -> np.ndarray:
    """Features [N, D] → views of queries [N, V, D]: V = 2 if mirror images are compared, too, else 1."""
    mirrored = mirror(block) if config.mirrored and mirror is not None else None
    return block[:, None] if mirrored is None else np.stack([block, mirrored], axis=1)


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
