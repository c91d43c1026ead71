"""What a DUPLICATES table holds: counts, similarities, the largest clusters, all pairs. Reads part by part."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.shards.duplicates import EXACT, NEAR
from raysys.tables import TableView
from raysys.tables.read import Part, for_parts

PAIR_COLUMNS = ("row_id", "representative", "similarity", "how")

_COLUMNS = ("row_id", "representative", "cluster_size", "kind", "similarity", "license", "reason")

_BINS = 2000
"""Bins of similarities from 0 to 1, for the median of any number of pairs."""


@dataclass(frozen=True)
class Pair:
    """A duplicate and its representative."""

    row_id: str
    representative: str
    similarity: float
    how: str
    """exact (the same bytes) or near."""


@dataclass(frozen=True)
class Cluster:
    """Images that show the same thing. members: the least similar to the representative first, not always all."""

    representative: str
    size: int
    license: str | None
    members: tuple[Pair, ...] = ()

    @property
    def lowest(self) -> float | None:
        """The lowest similarity of a member to the representative."""
        return self.members[0].similarity if self.members else None


@dataclass(frozen=True)
class DuplicatesSummary:
    """Counts of a DUPLICATES table.

    rows = unique + clusters + exact + near + not_described; conflicts: rows of clusters rejected for a license.
    largest: clusters by size. closest_to_threshold: the near-duplicates with the lowest similarities.
    """

    rows: int
    unique: int
    clusters: int
    exact: int
    near: int
    not_described: int
    conflicts: int
    lowest_similarity: float | None
    median_similarity: float | None
    largest: tuple[Cluster, ...]
    closest_to_threshold: tuple[Pair, ...]

    @property
    def duplicates(self) -> int:
        return self.exact + self.near


def summarize(duplicates: TableView, n_clusters: int = 10, n_members: int = 5, n_pairs: int = 12) -> DuplicatesSummary:
    """Read the table once for the counts, and once more for the members of the `n_clusters` largest clusters.

    n_members: of these clusters, beside the representative. Memory: one part.
    """
    counts = dict.fromkeys(("rows", "unique", "clusters", EXACT, NEAR, "not_described", "conflicts"), 0)
    histogram, heads, weakest = np.zeros(_BINS, np.int64), [], []
    for table in duplicates.rows(_COLUMNS, outcome=None):
        head = table.filter(pc.equal(table["row_id"], table["representative"]))
        clusters, pairs = head.filter(pc.greater(head["cluster_size"], 1)), _pairs_of(table)
        near = pairs.filter(pc.equal(pairs["how"], NEAR))
        counts["rows"] += len(table)
        counts["clusters"] += len(clusters)
        counts["unique"] += len(head) - len(clusters)
        counts[NEAR] += len(near)
        counts[EXACT] += len(pairs) - len(near)
        counts["not_described"] += table["representative"].null_count
        counts["conflicts"] += pc.sum(pc.starts_with(table["reason"], "license_conflict:")).as_py() or 0
        histogram += np.histogram(near["similarity"].to_numpy(), bins=_BINS, range=(0.0, 1.0 + 1e-6))[0]
        heads += _first(clusters, "cluster_size", "descending", n_clusters)
        weakest += _first(near, "similarity", "ascending", n_pairs)
        heads, weakest = sorted(heads, key=_size)[:n_clusters], sorted(weakest, key=_similarity)[:n_pairs]
    members = _members(duplicates, [head["row_id"] for head in heads], n_members)
    return DuplicatesSummary(
        **counts,
        lowest_similarity=weakest[0]["similarity"] if weakest else None,
        median_similarity=_median(histogram),
        largest=tuple(Cluster(h["row_id"], h["cluster_size"], h["license"], members[h["row_id"]]) for h in heads),
        closest_to_threshold=tuple(Pair(**row) for row in weakest),
    )


def pairs(duplicates: TableView) -> Iterator[dict[str, Any]]:
    """Every duplicate with its representative, as PAIR_COLUMNS, in reading order."""
    for table in duplicates.rows(_COLUMNS, outcome=None):
        yield from _pairs_of(table).to_pylist()


def sources_of(samples: TableView, row_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
    """{row_id: the columns that `ImageReader.read` needs} of some SAMPLES rows."""
    wanted = pa.array(row_ids, pa.string())
    columns = ["row_id", "sample_id", "shard", "member", "offset", "length", "image"]

    def found(part: Part) -> list[dict[str, Any]]:
        chosen = pc.is_in(part.read(["row_id"])["row_id"], wanted)
        return part.read(columns).filter(chosen).to_pylist() if pc.any(chosen).as_py() else []

    return {row["row_id"]: row for rows in for_parts(found, samples.parts) for row in rows}


def _pairs_of(table: pa.Table) -> pa.Table:
    """The rows that another row represents."""
    table = table.filter(pc.not_equal(table["row_id"], table["representative"]))  # null: not described
    return table.select(["row_id", "representative", "similarity", "kind"]).rename_columns(list(PAIR_COLUMNS))


def _first(table: pa.Table, by: str, order: str, n: int) -> list[dict[str, Any]]:
    """The `n` first rows in this order."""
    return table.take(pc.select_k_unstable(table, n, [(by, order), ("row_id", order)])).to_pylist()


def _size(row: dict[str, Any]) -> tuple[int, str]:
    return -row["cluster_size"], row["row_id"]


def _similarity(row: dict[str, Any]) -> tuple[float, str]:
    return row["similarity"], row["row_id"]


def _members(duplicates: TableView, heads: Sequence[str], n_members: int) -> dict[str, tuple[Pair, ...]]:
    """{representative: its `n_members` least similar members}."""
    found: dict[str, list[dict[str, Any]]] = {head: [] for head in heads}
    if not heads:
        return {}
    wanted = pa.array(heads, pa.string())
    for table in duplicates.rows(_COLUMNS, outcome=None):
        rows = _pairs_of(table)
        for row in rows.filter(pc.is_in(rows["representative"], wanted)).to_pylist():
            kept = found[row["representative"]]
            kept.append(row)
            if len(kept) > 100 * n_members:  # a placeholder may have a million copies
                kept[:] = heapq.nsmallest(n_members, kept, key=_similarity)
    return {h: tuple(Pair(**r) for r in heapq.nsmallest(n_members, kept, key=_similarity)) for h, kept in found.items()}


def _median(histogram: np.ndarray) -> float | None:
    """The median of the values in a histogram from 0 to 1, as precise as its bins."""
    total = histogram.sum()
    if not total:
        return None
    return (float(np.searchsorted(np.cumsum(histogram), total / 2)) + 0.5) / _BINS
