"""Job `generalize`: captions → more general captions, with their generality score before and after."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from pydantic import Field

from raysys.captions.generalize import Generalize, GeneralizeConfig
from raysys.captions.level_means import PRODUCER, level_means
from raysys.captions.source import NOT_GENERALIZED, CaptionFilter, CaptionRows, refuse_own_output
from raysys.config import OPERATIONAL, Config, Place
from raysys.engine.config import ClusterConfig
from raysys.errors import InputError
from raysys.jobs.inputs import complete
from raysys.jobs.llm import check_model, language_job, pinned
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import run_table
from raysys.language.nlp import load_pipeline, pipeline_name, resolve_pipeline
from raysys.llm.build import identity, revision
from raysys.llm.instructions import GENERALIZE, generalize_prompt
from raysys.rows import CAPTIONS, DUPLICATES, SAMPLES
from raysys.similarity.texts import text_embedder_identity
from raysys.tables import TableView
from raysys.tables.job import TableJob
from raysys.tables.representatives import Representatives
from raysys.tables.results import Plan, Summary


class JobConfig(Config):
    """Make captions more general."""

    captions: Place = Field(description="table of CAPTIONS rows, or of SAMPLES rows for the original captions")
    duplicates: Place | None = Field(None, description="with SAMPLES: DUPLICATES table, to use only representatives")
    which: str | None = Field(
        None, description="captions to use, by the part of caption_id after the row_id: blip2/photo …; null = all"
    )
    output: Place = Field(description="output table of CAPTIONS rows")
    generalize: GeneralizeConfig = Field(GeneralizeConfig(), description="model, levels, score-guided choice")
    chunk_rows: Annotated[int, OPERATIONAL] = Field(
        256, ge=1, description="captions per chunk; chunks in flight are redone if their worker is killed"
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write one caption per level for every English caption that is not itself generalized."""
    refuse_own_output(config.captions, config.output)
    pipeline = resolve_pipeline(config.generalize.pipeline)
    generalize = pinned(config.generalize).model_copy(update={"pipeline": pipeline})
    config = config.model_copy(update={"generalize": generalize})
    result = run_table(_job(config), config, options)
    if isinstance(result, Plan) or not result.steps:
        return result
    levels = level_means(config.output)
    rows = [{"level": level, **dict.fromkeys(_MEANS), **means} for level, means in levels.items()]
    return replace(result, facts={"levels": levels}, tables={"generality score (GS) by level, means": rows})


_MEANS = ("n", "gs_before", "gs_after", "similarity", "changed")


def _job(config: JobConfig) -> TableJob:
    generalize, captions = config.generalize, _captions(config)
    duplicates = complete(config.duplicates, DUPLICATES) if config.duplicates else None
    parts = Representatives(captions, duplicates).inputs()
    load = CaptionRows.of(captions, CaptionFilter("en", NOT_GENERALIZED, config.which), duplicates)
    prompts = [generalize_prompt(level, "caption") for level in generalize.levels]
    sample = [generalize_prompt(level, text) for level in generalize.levels for text in load.tried(parts)]
    check_model(generalize.llm, prompts, generalize.sampling, adapters=[generalize.adapter], sample=sample)
    return language_job(
        Generalize,
        (generalize, revision(generalize.llm)),
        generalize.llm,
        config.cluster,
        job=PRODUCER,
        output=config.output,
        row_type=CAPTIONS,
        fields={
            "captions": captions.lineage,
            "duplicates": duplicates.identity if duplicates else None,
            "llm": identity(generalize.llm),
            **config.identity(),
            "similarity_model": text_embedder_identity(generalize.similarity_model),
            "prompts": {level: GENERALIZE[level] for level in generalize.levels},
            "generality": pipeline_name(load_pipeline(generalize.pipeline)),
        },
        parts=parts,
        chunk_rows=config.chunk_rows,
        load=load,
    )


def _captions(config: JobConfig) -> TableView:
    view = complete(config.captions, None)
    if view.row_type.name not in (CAPTIONS.name, SAMPLES.name):
        raise InputError(f"captions: {config.captions} holds {view.row_type.name} rows", "give CAPTIONS or SAMPLES")
    if config.duplicates and view.row_type.name != SAMPLES.name:
        raise InputError(
            f"duplicates = {config.duplicates}: {config.captions} holds captions", "caption only representatives"
        )
    return view
