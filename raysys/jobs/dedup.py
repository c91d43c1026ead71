"""Job `dedup`: SAMPLES ⋈ FEATURES → DUPLICATES, one whole-table step. Missing features are computed first."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from raysys.config import OPERATIONAL, Config, Place
from raysys.engine.config import ClusterConfig
from raysys.jobs import describe
from raysys.jobs.inputs import complete
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import FolderJob, run_folder
from raysys.rows import DUPLICATES, SAMPLES
from raysys.shards.decode import DecodeConfig
from raysys.shards.describe import stated
from raysys.shards.duplicates import DuplicatesConfig
from raysys.shards.duplicates_summary import summarize
from raysys.shards.duplicates_table import write_duplicates
from raysys.similarity import DescriptorConfig, descriptor_facts
from raysys.similarity.verify import METHOD
from raysys.tables.read import open_table, version_of
from raysys.tables.results import FolderPlan, Plan, Summary


class JobConfig(Config):
    """Find exact and near duplicates."""

    samples: Place = Field(description="table of SAMPLES rows")
    features: Place | None = Field(
        None, description="table of their FEATURES rows; missing rows are computed first; null = <output>-features"
    )
    output: Place = Field(description="output table of DUPLICATES rows")
    descriptor: DescriptorConfig = Field(DescriptorConfig(), description="which descriptor compares images")
    decode: DecodeConfig = Field(DecodeConfig(), description="decoding limits")
    duplicates: DuplicatesConfig = Field(DuplicatesConfig(), description="thresholds")
    chunk_rows: Annotated[int, OPERATIONAL] = Field(
        512, ge=1, description="rows per chunk; a chunk is redone if its worker is killed"
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Cluster the samples. All clusters are recomputed if anything has changed."""
    shared = {name: getattr(config, name) for name in ("descriptor", "decode", "chunk_rows", "cluster")}
    features_at = config.features or f"{config.output}-features"
    to_describe = describe.JobConfig(images=config.samples, output=features_at, **shared)
    samples, descriptor = complete(config.samples, SAMPLES), descriptor_facts(config.descriptor)
    duplicates = config.duplicates.of_descriptor(descriptor)
    described = describe.describe_missing({"features": to_describe}, options)
    if options.dry_run and described:
        clusters = FolderPlan("dedup", config.output, "waits for the features", True)
        return Plan({**described, "duplicates": clusters})
    if options.limit is not None:
        return Summary(described, notes=("dedup: with --limit only features are computed; clusters need all of them",))
    features = describe.features(to_describe)
    fields = {
        "samples": samples.identity,
        **stated(descriptor),
        "duplicates": duplicates.identity(),
        "verification": METHOD if duplicates.verify else None,
        # One new image can change any cluster, so all are recomputed if one part has changed.
        "contents": version_of(samples, features),
    }

    def write(folder: Path) -> dict[str, Any]:
        counts = write_duplicates(str(folder), samples, features, duplicates, descriptor.views, config.decode)
        return {"rows": counts.as_dict()}

    job = FolderJob("dedup", config.output, fields, write, follows=("contents",))
    made = run_folder(job, config, options)
    steps = {**described, "duplicates": made.steps["dedup"]}
    return Plan(steps) if isinstance(made, Plan) else Summary(steps, **_found(config.output))


def _found(output: str) -> dict[str, Any]:
    """Facts and tables of the summary: what was found."""
    found = summarize(open_table(output, DUPLICATES))
    facts = {
        "images": found.rows,
        "unique": found.unique,
        "clusters of two or more": found.clusters,
        "duplicates": f"{found.duplicates:,} (exact {found.exact:,}, near {found.near:,})",
    }
    if found.near:
        facts["similarity of near ones"] = f"lowest {found.lowest_similarity:.3f}, median {found.median_similarity:.3f}"
    largest = [
        {"representative": c.representative, "images": c.size, "lowest similarity": c.lowest, "license": c.license}
        for c in found.largest
    ]
    return {"facts": facts, "tables": {"largest clusters": largest}}
