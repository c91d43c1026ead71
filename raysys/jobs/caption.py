"""Job `caption`: SAMPLES → CAPTIONS, from any number of captioners; each is a separate producer in one table."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field, model_validator

from raysys.captions.caption import Caption, Captioner, CaptionerConfig, refuse_same_names, refuse_too_few, resolve
from raysys.captions.checks import ChecksConfig
from raysys.captions.coverage import captions_per_image, few_captions_notes
from raysys.captions.images import SOURCE_COLUMNS, Images
from raysys.config import OPERATIONAL, Config, Place
from raysys.engine.config import ClusterConfig
from raysys.jobs.inputs import representatives
from raysys.jobs.llm import check_model, language_job, pinned
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import run_tables
from raysys.rows import CAPTIONS
from raysys.shards.decode import DecodeConfig
from raysys.tables import open_table
from raysys.tables.job import TableJob
from raysys.tables.representatives import RepresentativeRows, Representatives
from raysys.tables.results import Plan, Summary


class PooledCaptioner(CaptionerConfig):
    """A captioner and its workers."""

    cluster: ClusterConfig | None = Field(None, description="workers of this captioner; null = those of the job")


class JobConfig(Config):
    """Caption images with one or several models."""

    samples: Place = Field(description="table of SAMPLES rows")
    duplicates: Place | None = Field(None, description="table of DUPLICATES rows: only representatives are captioned")
    output: Place = Field(description="output table of CAPTIONS rows, shared by all captioners")
    captioners: tuple[PooledCaptioner, ...] = Field(min_length=1, description="models and their prompts")
    min_captions: Annotated[int | None, OPERATIONAL] = Field(
        None,
        ge=1,
        description="captions that an image should have, from different captioners or prompts; null = the number of "
        "captioners",
    )
    seed: int = Field(0, ge=0, description="seed of all sampling, including repeated attempts")
    checks: ChecksConfig = Field(ChecksConfig(), description="requirements for every caption")
    limits: DecodeConfig = Field(DecodeConfig(), description="decoding limits for images")
    chunk_rows: Annotated[int, OPERATIONAL] = Field(
        128, ge=1, description="images per chunk; chunks in flight are redone if their worker is killed"
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="use of the cluster")

    @model_validator(mode="after")
    def _names_differ(self) -> JobConfig:
        refuse_same_names(self.captioners)
        return self


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write the captions of every captioner. The summary notes how many images have fewer than `min_captions`."""
    samples = representatives(config.samples, config.duplicates)
    min_captions = config.min_captions or len(config.captioners)
    refuse_too_few(config.captioners, min_captions)
    producers = {c.producer for c in config.captioners}
    wanted = _wanted(config, options)
    captioners = [_resolved(config, c) for c in wanted]
    # Recorded with the resolved engines, so that retries use the same ones.
    config = config.model_copy(update={"captioners": tuple(pinned(c) for c in wanted)})
    jobs = {
        captioner.name: _job(config, own.cluster or config.cluster, captioner, samples)
        for own, captioner in zip(wanted, captioners, strict=True)
    }
    result = run_tables(jobs, config, options)
    if isinstance(result, Plan):
        return result
    per_image = captions_per_image(open_table(config.output, CAPTIONS), producers)
    notes = few_captions_notes(per_image, min_captions, config.output)
    return replace(result, facts={"captions_per_image": per_image}, notes=notes)


def _wanted(config: JobConfig, options: RunOptions) -> tuple[PooledCaptioner, ...]:
    """All captioners; in a retry only the one to retry, because models of the others may not be available any more."""
    if (retried := options.retried()) is None:
        return config.captioners
    return tuple(c for c in config.captioners if c.producer == retried[1])


def _resolved(config: JobConfig, captioner: CaptionerConfig) -> Captioner:
    resolved = resolve(captioner, config.checks, config.seed)
    adapters = list(resolved.adapters.values())
    check_model(resolved.llm, resolved.texts, resolved.sampling, resolved.image_size, adapters)
    return resolved


def _job(config: JobConfig, cluster: ClusterConfig, captioner: Captioner, samples: Representatives) -> TableJob:
    return language_job(
        Caption,
        (captioner,),
        captioner.llm,
        cluster,
        job="caption",
        producer=captioner.producer,
        output=config.output,
        row_type=CAPTIONS,
        fields={**samples.identity, **captioner.identity(), "limits": config.limits.identity()},
        parts=samples.inputs(),
        chunk_rows=config.chunk_rows,
        load=Images(RepresentativeRows.of(samples, SOURCE_COLUMNS), captioner.image_size, config.limits),
    )
