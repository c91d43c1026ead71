"""Job `encode`: SAMPLES → LATENTS, and their captions (or those of a CAPTIONS table) → TEXT_STATES."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raysys.captions.source import CaptionSource, OwnCaptions, captions_to_encode
from raysys.config import OPERATIONAL, Config, Place
from raysys.engine.config import ClusterConfig
from raysys.jobs.inputs import complete, representatives
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import run_tables
from raysys.latents.encode import EncodeLatents, EncodeText, LatentsConfig, TextConfig
from raysys.models.families import family
from raysys.rows import CAPTIONS, LATENTS, TEXT_STATES
from raysys.tables.job import TableJob
from raysys.tables.representatives import RepresentativeRows, Representatives
from raysys.tables.results import Plan, Summary


class JobConfig(Config):
    """Encode images to VAE latents and captions to text states."""

    samples: Place = Field(description="table of SAMPLES rows")
    duplicates: Place | None = Field(None, description="table of DUPLICATES rows: only representatives are encoded")
    latents: Place | None = Field(None, description="output table of LATENTS rows; null = encode only captions")
    text_states: Place = Field(description="output table of TEXT_STATES rows")
    captions: CaptionSource | None = Field(
        None, description="captions from a CAPTIONS table; null = the original captions of the samples"
    )
    images: LatentsConfig = Field(LatentsConfig(), description="VAE, resolution, crop")
    text: TextConfig = Field(TextConfig(), description="text encoder")
    chunk_rows: Annotated[int, OPERATIONAL] = Field(
        512, ge=1, description="rows per chunk; a chunk is redone if its worker is killed"
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write the LATENTS and TEXT_STATES tables."""
    samples = representatives(config.samples, config.duplicates)
    jobs = {"latents": _latents_job(config, samples)} if config.latents is not None else {}
    jobs["text_states"] = _text_job(config, samples)
    return run_tables(jobs, config, options)


def _latents_job(config: JobConfig, samples: Representatives) -> TableJob:
    images = config.images
    fields = {"images": images.identity(), "vae_hash": family(images.family).autoencoder_hash(images.vae)}
    columns = ("row_id", "sample_id", "shard", "member", "offset", "length", "image")
    load = RepresentativeRows.of(samples, columns)
    return _job(config, samples, config.latents, LATENTS, fields, load, EncodeLatents, images)


def _text_job(config: JobConfig, samples: Representatives) -> TableJob:
    text = config.text
    hashes = family(text.family).text_encoder_hashes(text.text_encoder, text.tokenizer)
    fields = {"text": text.identity(), **hashes}
    if config.captions is None:
        return _job(config, samples, config.text_states, TEXT_STATES, fields, OwnCaptions.of(samples), EncodeText, text)
    # The chunks are those of the captions. Samples without captions (duplicates) are not encoded.
    captions = complete(config.captions.table, CAPTIONS)
    return TableJob(
        job="encode",
        output=config.text_states,
        row_type=TEXT_STATES,
        fields={"captions": captions.lineage, "chosen": config.captions.identity(), **fields},
        parts=captions.inputs(),
        chunk_rows=config.chunk_rows,
        load=captions_to_encode(captions, config.captions),
        stage=EncodeText,
        args=(text,),
        cluster=config.cluster,
    )


def _job(config, samples: Representatives, output, row_type, fields, load, stage, stage_config) -> TableJob:
    """A job over samples, or over the representatives among them."""
    return TableJob(
        job="encode",
        output=output,
        row_type=row_type,
        fields={**samples.identity, **fields},
        parts=samples.inputs(),
        chunk_rows=config.chunk_rows,
        load=load,
        stage=stage,
        args=(stage_config,),
        cluster=config.cluster,
    )
