"""Job `dedup`: SAMPLES → DESCRIPTORS (a row stage) → DUPLICATES (one whole-table step)."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from raysys.config import Config
from raysys.engine.config import EngineConfig
from raysys.jobs.inputs import KeptRows, complete, version_of
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import TableJob, run_table, summary
from raysys.jobs.stages import RowStage
from raysys.outcomes import KEPT, rejected
from raysys.rows import DESCRIPTORS, DUPLICATES, SAMPLES
from raysys.shards.decode import DecodeConfig
from raysys.shards.describe import Describe
from raysys.shards.duplicates import DuplicatesConfig, find_clusters
from raysys.shards.licences import LICENCE_REASONS
from raysys.similarity import DescriptorConfig, make_descriptor
from raysys.tables import TableView, commit_part, open_output
from raysys.tables.join import AlignedTable

WHOLE_PART = 1 << 62
"""Chunk rows of the cluster table: one part per part of samples, so that joins stay local."""


class JobConfig(Config):
    """Find exact and near duplicates."""

    samples: str = Field(description="table of SAMPLES rows")
    descriptors: str = Field(description="output table of DESCRIPTORS rows")
    output: str = Field(description="output table of DUPLICATES rows")
    descriptor: DescriptorConfig = Field(DescriptorConfig(), description="which descriptor compares images")
    decode: DecodeConfig = Field(DecodeConfig(), description="decoding limits")
    duplicates: DuplicatesConfig = Field(DuplicatesConfig(), description="thresholds")
    chunk_rows: int = Field(512, ge=1, description="rows lost at most when a worker is killed")
    engine: EngineConfig = Field(EngineConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Describe every kept sample, then cluster. The clusters are redone as a whole when anything changed."""
    samples = complete(config.samples, SAMPLES)
    described = run_table(_describe_job(config, samples), config, options)
    if options.dry_run or options.retry:
        return {"descriptors": described}
    if options.limit is not None:
        print("dedup: with --limit only descriptors are made; clusters need all of them", file=sys.stderr)
        return {"descriptors": described}
    return {"descriptors": described, "duplicates": _cluster(config, samples, options)}


def _describe_job(config: JobConfig, samples: TableView) -> TableJob:
    columns = ("row_id", "sample_id", "shard", "member", "offset", "length", "image")
    return TableJob(
        job="dedup",
        output=config.descriptors,
        row_type=DESCRIPTORS,
        fields={
            "samples": samples.identity,
            **descriptor_identity(config.descriptor),
            "decode": config.decode.model_dump(mode="json"),
        },
        parts=samples.inputs(),
        chunk_rows=config.chunk_rows,
        load=KeptRows.of(samples, None, columns),
        stage=(RowStage, ("describe", Describe, (config.descriptor, config.decode))),
        engine=config.engine,
        heavy=True,
    )


def descriptor_identity(config: DescriptorConfig) -> dict[str, Any]:
    """Name, preset and weights by their contents, not by their path."""
    descriptor = make_descriptor(config)
    return {
        "descriptor": descriptor.name,
        "preset": descriptor.preset,
        "weights_sha256": descriptor.weights_sha256,
    }


def _cluster(config: JobConfig, samples: TableView, options: RunOptions) -> dict[str, Any]:
    descriptors = complete(config.descriptors, DESCRIPTORS)
    fields = {
        "samples": samples.identity,
        "descriptors": descriptors.identity,
        "duplicates": config.duplicates.model_dump(mode="json"),
    }
    # One new image can change any cluster: every part depends on all descriptors, and all are redone when one changed.
    version = version_of(descriptors)
    parts = [replace(p, signature=f"{p.signature}+{version}") for p in samples.inputs()]
    output = open_output(
        config.output, DUPLICATES, "dedup", fields, parts, WHOLE_PART, options.on_change, redo_changed_inputs=True
    )
    if output.is_kept or not output.pending():
        print(f"dedup: nothing to do, {output.folder.url} is finished", file=sys.stderr)
        return summary(output, 0.0)
    began = time.monotonic()
    rows, vectors, unclear = _described_rows(samples, AlignedTable(descriptors))
    mirrored = make_descriptor(config.descriptor).mirrored(vectors) if len(vectors) else None
    clusters = {row["row_id"]: row for row in find_clusters(rows, vectors, config.duplicates, mirrored)}
    _refuse_conflicts(clusters, _refused_licences(samples))
    for part, chunk in zip(samples.parts, output.chunks, strict=True):
        ids = [r["row_id"] for r in part.read(["row_id", "outcome"]).to_pylist() if r["outcome"] == KEPT]
        table = DUPLICATES.table([clusters.get(i) or unclear[i] for i in ids])
        commit_part(output.folder, chunk.file, table)
    return summary(output, time.monotonic() - began)


def _described_rows(samples: TableView, descriptors: AlignedTable) -> tuple[list[dict], np.ndarray, dict[str, dict]]:
    """(rows for clustering, their descriptors [N, D], rows whose descriptor failed: they keep that fate)."""
    rows, vectors, unclear = [], [], {}
    columns = ["row_id", "sample_id", "width", "height", "licence", "url", "outcome"]
    for part in samples.parts:
        found = descriptors.rows_of(part)
        for row in part.read(columns).to_pylist():
            if row.pop("outcome") != KEPT:
                continue
            made = found.get(row["row_id"])
            if made is not None and made["outcome"] == KEPT:
                rows.append(row)
                vectors.append(np.frombuffer(made["descriptor"], "<f4"))
            else:
                fate = rejected("not_described") if made is None else made
                unclear[row["row_id"]] = {
                    "row_id": row["row_id"],
                    "sample_id": row["sample_id"],
                    **{k: fate[k] for k in ("outcome", "stage", "reason", "detail")},
                }
    return rows, np.stack(vectors) if vectors else np.zeros((0, 1), np.float32), unclear


def _refused_licences(samples: TableView) -> dict[str, str]:
    """{sample_id: row_id} of images that ingest refused for their licence: it holds for every copy."""
    found = {}
    columns = ["row_id", "sample_id", "reason"]
    for table in samples.rows(columns, outcome="rejected"):
        for row in table.to_pylist():
            if row["reason"] in LICENCE_REASONS and row["sample_id"]:
                found.setdefault(row["sample_id"], row["row_id"])
    return found


def _refuse_conflicts(clusters: dict[str, dict[str, Any]], refused: dict[str, str]) -> None:
    """Reject clusters that hold an image whose exact bytes also came with a licence that is not allowed."""
    tainted = {row["cluster_id"]: refused[row["sample_id"]] for row in clusters.values() if row["sample_id"] in refused}
    for row in clusters.values():
        if row["cluster_id"] in tainted and row["outcome"] == KEPT:
            row.update(rejected(f"licence_conflict:{tainted[row['cluster_id']]}"))
