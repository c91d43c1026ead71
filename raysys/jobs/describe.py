"""Job `describe`: a table of SAMPLES or GENERATIONS, or a folder of images, × a descriptor → FEATURES."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Annotated

from pydantic import Field

from raysys.config import OPERATIONAL, Config, Place
from raysys.engine.config import ClusterConfig
from raysys.jobs.options import INLINE, RunOptions
from raysys.jobs.run_table import run_table
from raysys.rows import FEATURES
from raysys.shards.decode import DecodeConfig
from raysys.shards.describe import ImageLoader, described_by, features_of, image_source, stated
from raysys.similarity import DescriptorConfig, descriptor_facts
from raysys.similarity.describe import Describe
from raysys.tables import TableView
from raysys.tables.job import TableJob
from raysys.tables.results import Plan, Summary, TablePlan, TableSummary

SECONDS_PER_IMAGE = 0.01
"""On one core, for reading and decoding a photograph of 512 px and its embedded descriptor."""


class JobConfig(Config):
    """Compute image features: unit vectors whose inner product is the similarity of the images."""

    images: Place = Field(description="table of SAMPLES or GENERATIONS rows, or folder of images")
    output: Place = Field(description="output table of FEATURES rows, with one producer per descriptor preset")
    descriptor: DescriptorConfig = Field(DescriptorConfig(), description="which descriptor")
    decode: DecodeConfig = Field(DecodeConfig(), description="decoding limits for images")
    chunk_rows: Annotated[int, OPERATIONAL] = Field(
        512, ge=1, description="rows per chunk; a chunk is redone if its worker is killed"
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write the features of every kept image, and of samples that were rejected for their license."""
    source, parts, identity = image_source(config.images)
    facts = descriptor_facts(config.descriptor)
    job = TableJob(
        job="describe",
        producer=facts.preset,
        output=config.output,
        row_type=FEATURES,
        fields={"images": identity, **stated(facts), "decode": config.decode.identity()},
        parts=parts,
        chunk_rows=config.chunk_rows,
        load=source,
        stage=Describe,
        args=(config.descriptor, ImageLoader(config.decode)),
        cluster=config.cluster,
        core_seconds=None if config.descriptor.weights else SECONDS_PER_IMAGE * sum(part.n_items for part in parts),
    )
    return run_table(job, config, options)


def describe_missing(configs: Mapping[str, JobConfig], options: RunOptions) -> dict[str, TablePlan | TableSummary]:
    """Compute missing features in one Ray session. Returns {name: plan or summary} of the incomplete tables."""
    missing = {name: config for name, config in configs.items() if not _is_described(config)}
    # A single table decides by itself whether it needs Ray.
    with _one_ray(options) if len(missing) > 1 and not options.dry_run else nullcontext():
        return {name: run(config, options).steps["describe"] for name, config in missing.items()}


def features(config: JobConfig) -> TableView:
    """The rows at `config.output` that were written with the config's descriptor."""
    return features_of(config.output, descriptor_facts(config.descriptor))


def _is_described(config: JobConfig) -> bool:
    return described_by(descriptor_facts(config.descriptor), config.output, config.images) is not None


def _one_ray(options: RunOptions):
    if options.address == INLINE:
        return nullcontext()
    from raysys.engine.cluster import cluster  # imported here, so that Ray starts only if there is work

    return cluster(options.address)
