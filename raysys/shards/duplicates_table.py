"""SAMPLES ⋈ FEATURES → the rows of a DUPLICATES table, part by part, with memory-mapped features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from raysys.outcomes import KEPT, Counts, rejected
from raysys.rows import DUPLICATES
from raysys.shards.decode import DecodeConfig
from raysys.shards.describe import is_refused
from raysys.shards.duplicates import DuplicatesConfig, Views, find_clusters
from raysys.shards.duplicates_conflicts import Refused, refuse_conflicts
from raysys.shards.same_picture import SamePicture
from raysys.similarity.feature_file import FeatureFile
from raysys.tables import TableView, commit_part, open_output
from raysys.tables.join import AlignedTable
from raysys.tables.read import Part

_COLUMNS = ("row_id", "sample_id", "width", "height", "license", "url", "outcome", "reason")
_FATE = ("outcome", "stage", "reason", "detail")


@dataclass
class _Described:
    """Kept rows with features, in reading order, and the rows that ingest rejected for their license.

    unclear: DUPLICATES rows of kept samples whose image could not be described, with the fate of that failure.
    """

    features: FeatureFile
    refused: Refused
    rows: list[dict[str, Any]] = field(default_factory=list)
    unclear: dict[str, dict[str, Any]] = field(default_factory=dict)


WHOLE_PART = 1 << 62
"""Used as chunk_rows: one DUPLICATES part per SAMPLES part, so that joins are local to a part."""


def write_duplicates(
    folder: str,
    samples: TableView,
    features: TableView,
    config: DuplicatesConfig,
    views: Views,
    limits: DecodeConfig | None = None,
) -> Counts:
    """Write the DUPLICATES table of all kept rows of `samples` to an empty folder; return the counts of its fates.

    features: a FEATURES table of `samples`, by one descriptor. config: with the settings of that descriptor. views: its
    `views`. limits: for decoding the images whose pixels are compared.
    """
    fields = {"samples": samples.identity, "features": features.identity, "duplicates": config.identity()}
    output = open_output(folder, DUPLICATES, "dedup", fields, samples.inputs(), WHOLE_PART)
    counts = Counts()
    chunks = {chunk.part.name: chunk for chunk in output.chunks}
    for part, table in zip(samples.parts, duplicates_of(samples, features, config, views, limits), strict=True):
        counts.merge(commit_part(output.folder, chunks[part.name].file, table))
    return counts


def duplicates_of(
    samples: TableView,
    features: TableView,
    config: DuplicatesConfig,
    views: Views,
    limits: DecodeConfig | None = None,
) -> Iterator[pa.Table]:
    """One table of DUPLICATES rows per part of `samples`, with one row per kept sample, in order."""
    with FeatureFile() as of_kept, FeatureFile() as of_refused:
        described = _Described(of_kept, Refused(of_refused))
        aligned = AlignedTable(features, "image_id")
        for part in samples.parts:
            _read_part(part, aligned, described)
        same = SamePicture(samples, limits or DecodeConfig()) if config.verify else None
        clusters = find_clusters(described.rows, of_kept.array(), config, views, same)
        refuse_conflicts(clusters, of_kept.array(), described.refused, config, views, same)
        row_of = {row["row_id"]: row for row in clusters} | described.unclear
        for part in samples.parts:
            rows = part.read(["row_id", "outcome"]).to_pylist()
            yield DUPLICATES.table([row_of[row["row_id"]] for row in rows if row["outcome"] == KEPT])


def _read_part(part: Part, features: AlignedTable, into: _Described) -> None:
    samples = part.read(_COLUMNS)
    refused = is_refused(samples).to_pylist()
    found = features.rows_of(part, ["image_id", "sample_id", "features", *_FATE])
    for row, is_bad in zip(samples.to_pylist(), refused, strict=True):
        made = found.get(row["row_id"])
        is_described = made is not None and made["outcome"] == KEPT
        if is_bad:
            into.refused.row_of.setdefault(row["sample_id"], row["row_id"])
            if is_described:
                into.refused.features.append(row["row_id"], row["sample_id"], made["features"])
        elif row["outcome"] == KEPT:
            if is_described:
                into.rows.append(row)
                into.features.append(row["row_id"], row["sample_id"], made["features"])
            else:
                into.unclear[row["row_id"]] = _unclear(row, made)


def _unclear(sample: dict[str, Any], made: dict[str, Any] | None) -> dict[str, Any]:
    fate = rejected("not_described") if made is None else {name: made[name] for name in _FATE}
    return {"row_id": sample["row_id"], "sample_id": sample["sample_id"], **fate}
