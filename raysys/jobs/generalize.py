"""Job `generalize`: captions → more general captions, with their generality score before and after."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from pydantic import Field

from raysys.captions.generalize import Generalize, GeneralizeConfig, generalizations_called_for
from raysys.captions.nlp import load_pipeline, pipeline_name, resolve_pipeline
from raysys.config import Config
from raysys.engine.config import EngineConfig
from raysys.errors import InputError
from raysys.jobs.captions_in import NOT_GENERALIZED, CaptionFilter, CaptionRows, refuse_own_output
from raysys.jobs.inputs import complete, with_representatives
from raysys.jobs.llm import check_model, kept_busy, language_stage, pinned
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import TableJob, run_table
from raysys.llm.build import identity, revision
from raysys.llm.instructions import GENERALIZE, generalize_prompt
from raysys.outcomes import KEPT
from raysys.rows import CAPTIONS, DUPLICATES, SAMPLES
from raysys.similarity.texts import text_embedder_identity
from raysys.tables import TableView, open_table

PRODUCER = "generalize"


class JobConfig(Config):
    """Make captions more general."""

    captions: str = Field(description="table of CAPTIONS rows, or of SAMPLES rows for the original captions")
    duplicates: str | None = Field(None, description="with SAMPLES: table of DUPLICATES rows, only representatives")
    which: str | None = Field(
        None, description="only captions made this way, as caption_id says after the row_id: blip2/photo …; null = all"
    )
    output: str = Field(description="output table of CAPTIONS rows")
    generalize: GeneralizeConfig = Field(GeneralizeConfig(), description="model, levels, score-guided choice")
    chunk_rows: int = Field(256, ge=1, description="captions lost at most per worker when it is killed")
    engine: EngineConfig = Field(EngineConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write one caption per level for every English caption that is not generalized yet."""
    refuse_own_output(config.captions, config.output)
    pipeline = resolve_pipeline(config.generalize.pipeline)
    generalize = pinned(config.generalize).model_copy(update={"pipeline": pipeline})
    config = config.model_copy(update={"generalize": generalize})
    record = run_table(_job(config), config, options)
    if record and not options.dry_run:
        record["levels"] = summary_of_levels(config.output)
        _print_levels(record["levels"])
    return record


def _job(config: JobConfig) -> TableJob:
    generalize, captions = config.generalize, _captions(config)
    duplicates = complete(config.duplicates, DUPLICATES) if config.duplicates else None
    parts = captions.inputs() if duplicates is None else with_representatives(captions, duplicates)
    load = CaptionRows.of(captions, CaptionFilter("en", NOT_GENERALIZED, config.which), duplicates)
    prompts = [generalize_prompt(level, "caption") for level in generalize.levels]
    sample = [generalize_prompt(level, text) for level in generalize.levels for text in load.tried(parts)]
    check_model(generalize.llm, prompts, generalize.sampling, adapters=[generalize.adapter], sample=sample)
    args = (generalize, revision(generalize.llm))
    return TableJob(
        job=PRODUCER,
        output=config.output,
        row_type=CAPTIONS,
        fields={
            "captions": captions.lineage,
            "duplicates": duplicates.identity if duplicates else None,
            "which": config.which,
            "llm": identity(generalize.llm),
            "generalize": generalize.model_dump(mode="json", exclude={"llm", "device", "pipeline"})
            | {"similarity_model": text_embedder_identity(generalize.similarity_model)},
            "prompts": {level: GENERALIZE[level] for level in generalize.levels},
            "generality": pipeline_name(load_pipeline(generalize.pipeline)),
        },
        parts=parts,
        chunk_rows=config.chunk_rows,
        load=load,
        stage=language_stage(PRODUCER, Generalize, args, generalizations_called_for, config.engine.pool),
        engine=kept_busy(generalize.llm, config.engine),
        heavy=True,
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


def summary_of_levels(table: str) -> dict[str, dict[str, float]]:
    """{level: {"n", "gs_before", "gs_after", "similarity", "changed"}}: means over the `n` kept rows, part by part.

    Of a level without kept rows there is nothing but "n": 0; similarity is there where it was measured.
    """
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    columns = ["level", "text", "source_text", "gs", "source_gs", "similarity", "outcome"]
    for rows in open_table(table, CAPTIONS).of(PRODUCER).rows(columns, outcome=None):
        for row in rows.to_pylist():
            level = sums[row["level"]]
            if row["outcome"] != KEPT:
                continue
            level["n"] += 1
            level["gs_before"] += row["source_gs"]
            level["gs_after"] += row["gs"]
            level["changed"] += row["text"] != row["source_text"]
            if row["similarity"] is not None:
                level["similarity"] += row["similarity"]
    return {
        level: {"n": int(s["n"])} | {name: round(value / s["n"], 4) for name, value in s.items() if name != "n"}
        for level, s in sorted(sums.items())
    }


def _print_levels(levels: dict[str, dict[str, float]]) -> None:
    print(f"{'level':<12} {'captions':>9} {'GS before':>10} {'after':>7} {'similarity':>11} {'changed':>8}")
    for level, s in levels.items():
        shown = {"gs_before": (10, ".2f"), "gs_after": (7, ".2f"), "similarity": (11, ".3f"), "changed": (8, ".0%")}
        means = [f"{format(s[name], spec) if name in s else '–':>{width}}" for name, (width, spec) in shown.items()]
        print(f"{level:<12} {s['n']:>9,}", *means)
