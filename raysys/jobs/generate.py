"""Job `generate`: prompts → GENERATIONS, seeded per prompt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from raysys.config import Config, Place
from raysys.engine.config import ClusterConfig
from raysys.errors import InputError
from raysys.generation.export import export_images
from raysys.generation.generate import Generate, GenerateConfig
from raysys.generation.prompts import prompt_source
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import run_table
from raysys.models.loading import model_hash
from raysys.rows import GENERATIONS
from raysys.tables.job import TableJob
from raysys.tables.results import Plan, Summary


class JobConfig(Config):
    """Generate images for a table of prompts."""

    prompts: Place = Field(
        description="an assembled training set, a table with captions, a .txt file (one prompt per line) or a "
        ".jsonl file ({prompt_id, prompt} per line)"
    )
    output: Place = Field(description="output table of GENERATIONS rows")
    generate: GenerateConfig = Field(description="model, seed, guidance, steps")
    chunk_rows: int = Field(
        64, ge=1, description="prompts per chunk; batches do not cross chunks, so this affects the bytes of images"
    )
    export: Place | None = Field(
        None, description="also write PNG files and metadata.jsonl (diffusers' imagefolder) here"
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write the GENERATIONS table. The same prompt id and seed give the same image bytes."""
    if config.export is not None and "://" in config.export:
        raise InputError(
            f"export {config.export!r} is not a local folder", "only the table itself may be on an object store"
        )
    parts, load, source = prompt_source(config.prompts)
    generate = config.generate
    fields = {**config.identity(), "model_hash": model_hash(generate.model), "prompts": source}
    result = run_table(
        TableJob(
            job="generate",
            output=config.output,
            row_type=GENERATIONS,
            fields=fields,
            parts=parts,
            chunk_rows=config.chunk_rows,
            load=load,
            stage=Generate,
            args=(generate,),
            cluster=config.cluster,
        ),
        config,
        options,
    )
    if config.export is not None and isinstance(result, Summary):
        return replace(result, facts={"exported": export_images(config.output, Path(config.export))})
    return result
