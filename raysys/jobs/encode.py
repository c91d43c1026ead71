"""Job `encode`: SAMPLES → LATENTS, and their captions (or those of a CAPTIONS table) → TEXT_STATES, each once."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raysys.config import Config
from raysys.engine.config import EngineConfig
from raysys.jobs.captions_in import CaptionSource, one_caption_each
from raysys.jobs.inputs import KeptRows, complete, with_representatives
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import TableJob, run_tables
from raysys.jobs.stages import RowStage
from raysys.latents.encode import EncodeLatents, EncodeText, LatentsConfig, TextConfig
from raysys.models.loading import model_hash, part_folder, text_encoder_hashes
from raysys.rows import CAPTIONS, DUPLICATES, LATENTS, SAMPLES, TEXT_STATES


class JobConfig(Config):
    """Encode images to VAE latents and captions to text states."""

    samples: str = Field(description="table of SAMPLES rows")
    duplicates: str | None = Field(None, description="table of DUPLICATES rows: only representatives are encoded")
    latents: str | None = Field(None, description="output table of LATENTS rows; null = only captions are encoded")
    text_states: str = Field(description="output table of TEXT_STATES rows")
    captions: CaptionSource | None = Field(
        None, description="take captions from a CAPTIONS table; null = the original captions of the samples"
    )
    images: LatentsConfig = Field(LatentsConfig(), description="VAE, resolution, crop")
    text: TextConfig = Field(TextConfig(), description="text encoder")
    chunk_rows: int = Field(512, ge=1, description="rows lost at most when a worker is killed")
    engine: EngineConfig = Field(EngineConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write both tables."""
    jobs = {"latents": _latents_job(config)} if config.latents is not None else {}
    jobs["text_states"] = _text_job(config) if config.captions is None else _captions_job(config, config.captions)
    return dict(zip(jobs, run_tables(list(jobs.values()), config, options), strict=True))


def _latents_job(config: JobConfig) -> TableJob:
    fields = {
        # The model counts by its contents, not by where it lies.
        "images": config.images.model_dump(mode="json", exclude={"device", "vae"}),
        "vae_hash": model_hash(part_folder(config.images.vae, "vae")),
    }
    columns = ("row_id", "sample_id", "shard", "member", "offset", "length", "image")
    return _job(config, config.latents, LATENTS, "vae", fields, columns, EncodeLatents, config.images)


def _text_job(config: JobConfig) -> TableJob:
    columns, output = ("row_id", "caption"), config.text_states
    return _job(config, output, TEXT_STATES, "text", _text_fields(config), columns, EncodeText, config.text)


def _text_fields(config: JobConfig) -> dict[str, Any]:
    return {
        "text": config.text.model_dump(mode="json", exclude={"device", "text_encoder", "tokenizer"}),
        **text_encoder_hashes(config.text.text_encoder, config.text.tokenizer),
    }


def _captions_job(config: JobConfig, source: CaptionSource) -> TableJob:
    """The chunks are those of the captions; what was not captioned (duplicates) is not encoded either."""
    captions = complete(source.table, CAPTIONS)
    chosen = source.model_dump(mode="json", exclude={"table"})
    return TableJob(
        job="encode",
        output=config.text_states,
        row_type=TEXT_STATES,
        fields={"captions": captions.lineage, "chosen": chosen, **_text_fields(config)},
        parts=captions.inputs(),
        chunk_rows=config.chunk_rows,
        load=one_caption_each(captions, source),
        stage=(RowStage, ("text", EncodeText, (config.text,))),
        engine=config.engine,
        heavy=True,
    )


def _job(config, output, row_type, name, fields, columns, build, build_config) -> TableJob:
    samples = complete(config.samples, SAMPLES)
    duplicates = complete(config.duplicates, DUPLICATES) if config.duplicates else None
    source = {"samples": samples.identity, "duplicates": duplicates.identity if duplicates else None}
    return TableJob(
        job="encode",
        output=output,
        row_type=row_type,
        fields={**source, **fields},
        parts=samples.inputs() if duplicates is None else with_representatives(samples, duplicates),
        chunk_rows=config.chunk_rows,
        load=KeptRows.of(samples, duplicates, columns),
        stage=(RowStage, (name, build, (build_config,))),
        engine=config.engine,
        heavy=True,
    )
