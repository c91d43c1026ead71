"""Reject clusters with copies of an image that ingest rejected for its license.

Ingest rejects only the row with that license. Without this check, the same image would be trained on if it occurs again
under CC-BY, with the same bytes or re-encoded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from raysys.outcomes import KEPT, rejected
from raysys.shards.duplicates import DuplicatesConfig, Verify, Views, views_of
from raysys.similarity import array_blocks, top_k
from raysys.similarity.feature_file import FeatureFile


@dataclass
class Refused:
    """Rows that ingest rejected for their license: {sample_id: row_id}, and features of those that can be decoded."""

    features: FeatureFile
    row_of: dict[str, str] = field(default_factory=dict)


def refuse_conflicts(
    rows: Sequence[dict[str, Any]],
    features: np.ndarray,
    refused: Refused,
    config: DuplicatesConfig,
    views: Views,
    verify: Verify | None = None,
) -> None:
    """Reject clusters with a copy of a refused image, in place, as `license_conflict:<row_id of the refused row>`.

    rows: DUPLICATES rows, one for each of `features` [N, D]. A copy has the same bytes or (with `config.near`) is a
    near-duplicate, as in `find_clusters`. If there are several refused images, the reason names the most similar.
    """
    worst: dict[str, tuple[float, str]] = {}
    for index, similarity, row_id in _copies(rows, features, refused, config, views, verify):
        cluster = rows[index]["cluster_id"]
        if cluster not in worst or similarity > worst[cluster][0]:
            worst[cluster] = similarity, row_id
    for row in rows:
        if row["cluster_id"] in worst and row["outcome"] == KEPT:
            similarity, row_id = worst[row["cluster_id"]]
            row.update(rejected(f"license_conflict:{row_id}", f"similarity {similarity:.3f} to a refused image"))


def _copies(
    rows: Sequence[dict[str, Any]],
    features: np.ndarray,
    refused: Refused,
    config: DuplicatesConfig,
    views: Views,
    verify: Verify | None = None,
) -> Iterator[tuple[int, float, str]]:
    """(index of the row, similarity, row_id of the refused row) for every row that is a copy of a refused image."""
    for index, row in enumerate(rows):
        if row["sample_id"] in refused.row_of:
            yield index, 1.0, refused.row_of[row["sample_id"]]
    if not config.near or not len(refused.features):
        return
    others = refused.features.array()
    for start, block in array_blocks(features, config.block_rows):
        queries = views_of(block, config, views)
        n_candidates = 1 if verify is None else config.candidates
        similarity, nearest = top_k(queries, array_blocks(others, config.block_rows), n_candidates)
        for at, rank in np.argwhere(similarity >= np.float32(config.threshold)).tolist():
            row_id = refused.features.ids[nearest[at, rank]]
            value = float(similarity[at, rank])
            if verify is None or verify(rows[start + at]["row_id"], row_id, value):
                yield start + at, value, row_id
