"""Job `translate`: CAPTIONS in one language → CAPTIONS in another."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raysys.captions.source import CaptionFilter, CaptionRows, refuse_own_output
from raysys.captions.translate import Translate, TranslateConfig
from raysys.config import OPERATIONAL, Config, Place
from raysys.engine.config import ClusterConfig
from raysys.jobs.inputs import complete
from raysys.jobs.llm import check_model, language_job, pinned
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import run_table
from raysys.llm.build import identity, revision
from raysys.llm.instructions import translate_prompt
from raysys.rows import CAPTIONS
from raysys.tables.results import Plan, Summary


class JobConfig(Config):
    """Translate captions with a language model."""

    captions: Place = Field(description="table of CAPTIONS rows")
    output: Place = Field(description="output table of CAPTIONS rows")
    translate: TranslateConfig = Field(TranslateConfig(), description="languages, model, checks")
    chunk_rows: Annotated[int, OPERATIONAL] = Field(
        256, ge=1, description="captions per chunk; chunks in flight are redone if their worker is killed"
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write one translation for each caption in the source language; other captions are skipped."""
    refuse_own_output(config.captions, config.output)
    config = config.model_copy(update={"translate": pinned(config.translate)})
    translate, captions = config.translate, complete(config.captions, CAPTIONS)
    load, parts = CaptionRows.of(captions, CaptionFilter(language=translate.source)), captions.inputs()
    prompts = [translate_prompt(text, translate.source, translate.target) for text in ("caption", *load.tried(parts))]
    check_model(translate.llm, prompts[:1], translate.sampling, adapters=[translate.adapter], sample=prompts[1:])
    job = language_job(
        Translate,
        (translate, revision(translate.llm)),
        translate.llm,
        config.cluster,
        job="translate",
        output=config.output,
        row_type=CAPTIONS,
        fields={
            "captions": captions.lineage,
            "llm": identity(translate.llm),
            **config.identity(),
            "prompt": translate_prompt("{caption}", translate.source, translate.target),
        },
        parts=parts,
        chunk_rows=config.chunk_rows,
        load=load,
    )
    return run_table(job, config, options)
