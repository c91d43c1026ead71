"""Job `translate`: CAPTIONS in one language → CAPTIONS in another."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raysys.captions.translate import Translate, TranslateConfig, translation_called_for
from raysys.config import Config
from raysys.engine.config import EngineConfig
from raysys.jobs.captions_in import CaptionFilter, CaptionRows, refuse_own_output
from raysys.jobs.inputs import complete
from raysys.jobs.llm import check_model, kept_busy, language_stage, pinned
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import TableJob, run_table
from raysys.llm.build import identity, revision
from raysys.llm.instructions import translate_prompt
from raysys.rows import CAPTIONS


class JobConfig(Config):
    """Translate captions with a language model."""

    captions: str = Field(description="table of CAPTIONS rows")
    output: str = Field(description="output table of CAPTIONS rows")
    translate: TranslateConfig = Field(TranslateConfig(), description="languages, model, checks")
    chunk_rows: int = Field(256, ge=1, description="captions lost at most per worker when it is killed")
    engine: EngineConfig = Field(EngineConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write one translation per caption of the source language; the others are left alone."""
    refuse_own_output(config.captions, config.output)
    config = config.model_copy(update={"translate": pinned(config.translate)})
    translate, captions = config.translate, complete(config.captions, CAPTIONS)
    load, parts = CaptionRows.of(captions, CaptionFilter(language=translate.source)), captions.inputs()
    prompts = [translate_prompt(text, translate.source, translate.target) for text in ("caption", *load.tried(parts))]
    check_model(translate.llm, prompts[:1], translate.sampling, adapters=[translate.adapter], sample=prompts[1:])
    args = (translate, revision(translate.llm))
    job = TableJob(
        job="translate",
        output=config.output,
        row_type=CAPTIONS,
        fields={
            "captions": captions.lineage,
            "llm": identity(translate.llm),
            "translate": translate.model_dump(mode="json", exclude={"llm"}),
            "prompt": translate_prompt("{caption}", translate.source, translate.target),
        },
        parts=parts,
        chunk_rows=config.chunk_rows,
        load=load,
        stage=language_stage("translate", Translate, args, translation_called_for, config.engine.pool),
        engine=kept_busy(translate.llm, config.engine),
        heavy=True,
    )
    return run_table(job, config, options)
