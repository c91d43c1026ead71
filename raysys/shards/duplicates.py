"""SAMPLES + descriptors → DUPLICATES: clusters of images that show the same thing, and the one member that stays.

Exact: the same `sample_id` (hash of the image bytes). Near: descriptor similarity at or above a threshold.

A cluster is a star: every member is at or above the threshold to the representative itself. Connected components
would be simpler, but they chain: among millions of images a is like b, b like c … until one "cluster" holds pictures
that have nothing in common, and all but one would be thrown away. The price: two members of one chain may both stay.
Greedy, in order of preference (largest picture, then first in reading order): an image that is like no
representative so far becomes one. Then every other image joins the representative it is most like. The result does
not depend on block sizes, and no list of all similar pairs is ever made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from raysys.config import Config
from raysys.outcomes import kept, rejected
from raysys.shards.licences import UNKNOWN, strictest
from raysys.similarity import pairs_above, top_k

UNIQUE, EXACT, NEAR = "unique", "exact", "near"


class DuplicatesConfig(Config):
    """When two images count as the same."""

    threshold: float = Field(
        0.92,
        gt=0,
        le=1,
        description="least cosine similarity of near-duplicates. Belongs to the descriptor: 0.92 for `embedded` "
        "(1.5 of a million pairs of different drawn scenes reach it, and 99 % of their cropped copies), 0.75 for SSCD",
    )
    near: bool = Field(True, description="look for near-duplicates; false = exact ones only")
    mirrored: bool = Field(True, description="a mirror image is a near-duplicate too, where the descriptor can tell")
    block_rows: int = Field(2048, ge=1, description="descriptors compared at a time: bounds the memory")


def find_clusters(
    rows: Sequence[dict[str, Any]],
    descriptors: np.ndarray,
    config: DuplicatesConfig,
    mirrored: np.ndarray | None = None,
) -> list[dict[str, Any]]:
    """One DUPLICATES row per SAMPLES row, in order.

    rows: in reading order, with row_id, sample_id, width, height, licence and url. descriptors: float32 [N, D], unit
    rows, one for each of `rows` (a memory map will do). mirrored: [N, D], the same descriptors of the mirrored images
    (`Descriptor.mirrored`), None where the descriptor has none.

    The representative is kept; the others are rejected as `duplicate_of:<row_id of the representative>`. All members
    carry the merged sources and the strictest licence of the cluster.
    """
    if len(rows) != len(descriptors):
        raise ValueError(f"{len(rows)} rows, but {len(descriptors)} descriptors")
    groups = _exact_groups(rows)
    heads = [min(members, key=lambda i: _preference(rows, i)) for members in groups]
    order = sorted(range(len(groups)), key=lambda g: _preference(rows, heads[g]))
    leader, similarity = np.arange(len(groups)), np.ones(len(groups), np.float32)
    if config.near and groups:
        nodes = np.array([heads[g] for g in order], np.int64)
        found, value = star_clusters(descriptors, nodes, config, mirrored if config.mirrored else None)
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
    features: np.ndarray, nodes: np.ndarray, config: DuplicatesConfig, mirrored: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Star clusters of `features[nodes]`, `nodes` in order of preference: (leader [N], similarity to it [N]).

    A leader is given as its position in `nodes`; an image that leads itself has similarity 1. Memory: two blocks.
    """
    leaders = _leaders(features, nodes, config, mirrored)
    leader, similarity = np.arange(len(nodes)), np.ones(len(nodes), np.float32)
    is_leader = np.zeros(len(nodes), bool)
    is_leader[leaders] = True
    others = np.flatnonzero(~is_leader)
    for start in range(0, len(others), config.block_rows):
        part = others[start : start + config.block_rows]
        views = _views(features, mirrored, nodes[part])
        value, index = top_k(views, _blocks(features, nodes[leaders], config.block_rows), 1)
        leader[part], similarity[part] = leaders[index[:, 0]], value[:, 0]
    return leader, similarity


def _leaders(
    features: np.ndarray, nodes: np.ndarray, config: DuplicatesConfig, mirrored: np.ndarray | None
) -> np.ndarray:
    """Positions of the images that are below the threshold to every leader before them, ascending."""
    leaders: list[int] = []
    for start in range(0, len(nodes), config.block_rows):
        part = nodes[start : start + config.block_rows]
        views = _views(features, mirrored, part)
        before = nodes[np.array(leaders, np.int64)]
        value = top_k(views, _blocks(features, before, config.block_rows), 1)[0][:, 0]
        is_free = value < np.float32(config.threshold)
        left, right, _ = pairs_above(features[part], config.threshold, None if mirrored is None else mirrored[part])
        starts = np.searchsorted(left, np.arange(len(part) + 1))
        for i in range(len(part)):
            if is_free[i]:
                leaders.append(start + i)
                is_free[right[starts[i] : starts[i + 1]]] = False
    return np.array(leaders, np.int64)


def _views(features: np.ndarray, mirrored: np.ndarray | None, index: np.ndarray) -> np.ndarray:
    own = features[index]
    return own[:, None] if mirrored is None else np.stack([own, mirrored[index]], axis=1)


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
        "licence": strictest(rows[i]["licence"] or UNKNOWN for i in indices),
        "sources": [{k: rows[i][k] for k in ("row_id", "url", "licence")} for i in indices],
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
    """unique, or how a member is like its representative (of the representative: like its closest member)."""
    if cluster_size == 1:
        return UNIQUE
    return EXACT if is_exact else NEAR
