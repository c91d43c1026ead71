"""Job `caption`: SAMPLES → CAPTIONS, from any number of captioners, each a producer of its own in one table."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Any

from pydantic import Field, model_validator

from raysys.captions.caption import (
    Caption,
    Captioner,
    CaptionerConfig,
    adapters_of,
    captions_called_for,
    prompts_of,
    resolve,
)
from raysys.captions.checks import ChecksConfig
from raysys.captions.pictures import SOURCE_COLUMNS, Pictures
from raysys.config import Config
from raysys.engine.config import EngineConfig
from raysys.errors import InputError
from raysys.jobs.inputs import KeptRows, complete, with_representatives
from raysys.jobs.llm import check_model, kept_busy, language_stage
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import TableJob, run_tables
from raysys.llm.build import identity
from raysys.rows import CAPTIONS, DUPLICATES, SAMPLES
from raysys.shards.decode import DecodeConfig
from raysys.tables import TableView, open_table
from raysys.tables.read import for_parts


class PooledCaptioner(CaptionerConfig):
    """A captioner and the workers it gets."""

    engine: EngineConfig | None = Field(None, description="use of the cluster by this captioner; null = the job's")


class JobConfig(Config):
    """Caption images with one or several models."""

    samples: str = Field(description="table of SAMPLES rows")
    duplicates: str | None = Field(None, description="table of DUPLICATES rows: only representatives are captioned")
    output: str = Field(description="output table of CAPTIONS rows; every captioner adds its own rows to it")
    captioners: tuple[PooledCaptioner, ...] = Field(min_length=1, description="models and what they are asked")
    min_captions: int = Field(
        2, ge=1, description="captions that an image should have, from different captioners or prompts"
    )
    seed: int = Field(0, ge=0, description="of all sampling, resampling included")
    checks: ChecksConfig = Field(ChecksConfig(), description="what every caption must be")
    limits: DecodeConfig = Field(DecodeConfig(), description="limits that every image must keep")
    chunk_rows: int = Field(128, ge=1, description="images lost at most per worker when it is killed")
    engine: EngineConfig = Field(EngineConfig(), description="use of the cluster")

    @model_validator(mode="after")
    def _names_differ(self) -> JobConfig:
        twice = [name for name, n in Counter(c.name for c in self.captioners).items() if n > 1]
        if twice:
            raise ValueError(f"captioners are named twice: {', '.join(twice)}")
        return self


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write the captions of every captioner; say how many images have fewer than `min_captions`."""
    samples = complete(config.samples, SAMPLES)
    duplicates = complete(config.duplicates, DUPLICATES) if config.duplicates else None
    _refuse_too_few(config)
    names = [c.name for c in config.captioners]
    config = config.model_copy(update={"captioners": _wanted(config, options)})
    captioners = [_resolved(config, c) for c in config.captioners]
    config = _with_engines(config, captioners)
    jobs = [
        _job(config, own.engine or config.engine, captioner, samples, duplicates)
        for own, captioner in zip(config.captioners, captioners, strict=True)
    ]
    done = zip(captioners, run_tables(jobs, config, options), strict=True)
    record: dict[str, Any] = {"captioners": {captioner.name: summary for captioner, summary in done}}
    if not options.dry_run:
        record["captions_per_image"] = captions_per_image(config.output, names)
        _warn_of_few(record["captions_per_image"], config)
    return record


def _wanted(config: JobConfig, options: RunOptions) -> tuple[PooledCaptioner, ...]:
    """All captioners, or the one that is retried: models and servers of the others may be gone by now."""
    if (retried := options.retried()) is None:
        return config.captioners
    return tuple(c for c in config.captioners if _producer(c.name) == retried[1])


def _producer(captioner: str) -> str:
    return f"caption-{captioner}"


def _resolved(config: JobConfig, captioner: CaptionerConfig) -> Captioner:
    resolved = resolve(captioner, config.checks, config.seed)
    prompts, adapters = [*resolved.prompts.values(), *resolved.spare_prompts.values()], list(resolved.adapters.values())
    check_model(resolved.llm, prompts, resolved.sampling, resolved.image_size, adapters)
    return resolved


def _with_engines(config: JobConfig, captioners: list[Captioner]) -> JobConfig:
    """The configuration as it is recorded, for retries: with the engines that were chosen."""
    pairs = zip(config.captioners, captioners, strict=True)
    chosen = tuple(own.model_copy(update={"llm": captioner.llm}) for own, captioner in pairs)
    return config.model_copy(update={"captioners": chosen})


def _refuse_too_few(config: JobConfig) -> None:
    """A prompt that stands there twice, for the same model, brings the same caption twice."""
    asked = {
        (c.llm.model_dump_json(), c.sampling.model_dump_json(), adapters_of(c)[name], text)
        for c in config.captioners
        for name, text in prompts_of(c)[0].items()
    }
    if len(asked) < config.min_captions:
        raise InputError(
            f"min_captions = {config.min_captions}, but the captioners have {len(asked)} different prompts in all",
            "add a captioner or a prompt, or lower min_captions",
        )


def _job(
    config: JobConfig,
    engine: EngineConfig,
    captioner: Captioner,
    samples: TableView,
    duplicates: TableView | None,
) -> TableJob:
    return TableJob(
        job="caption",
        producer=_producer(captioner.name),
        output=config.output,
        row_type=CAPTIONS,
        fields={
            "samples": samples.identity,
            "duplicates": duplicates.identity if duplicates else None,
            "llm": identity(captioner.llm),
            # As lists: the order decides for which rejected caption which spare prompt stands in.
            "prompts": list(captioner.prompts.items()),
            "spare_prompts": list(captioner.spare_prompts.items()),
            "adapters": captioner.adapters,
            "language": captioner.language,
            "image_size": captioner.image_size,
            "sampling": captioner.sampling.model_dump(mode="json"),
            "seed": config.seed,
            "checks": config.checks.model_dump(mode="json"),
            "limits": config.limits.model_dump(mode="json"),
        },
        parts=samples.inputs() if duplicates is None else with_representatives(samples, duplicates),
        chunk_rows=config.chunk_rows,
        load=Pictures(KeptRows.of(samples, duplicates, SOURCE_COLUMNS), captioner.image_size, config.limits),
        stage=language_stage(_producer(captioner.name), Caption, (captioner,), captions_called_for, engine.pool),
        engine=kept_busy(captioner.llm, engine),
        heavy=True,
    )


def captions_per_image(table: str, captioners: list[str]) -> dict[int, int]:
    """{kept captions: images} over the given captioners. Memory: one number per image of one part at a time."""
    found: Counter[int] = Counter()
    view = open_table(table, CAPTIONS)
    by_origin: dict[str, Counter[str]] = {}
    wanted = {_producer(name) for name in captioners}
    parts = sorted((p for p in view.parts if p.output.producer in wanted), key=lambda p: p.origin)
    tables = for_parts(lambda part: part.read(["row_id", "outcome"]), parts)
    for part, table in zip(parts, tables, strict=True):
        if part.origin not in by_origin:
            found.update(n for counts in by_origin.values() for n in counts.values())
            by_origin = {part.origin: Counter()}
        rows = table.to_pylist()
        by_origin[part.origin].update({row["row_id"]: 0 for row in rows})
        by_origin[part.origin].update(row["row_id"] for row in rows if row["outcome"] == "kept")
    found.update(n for counts in by_origin.values() for n in counts.values())
    return dict(sorted(found.items()))


def _warn_of_few(per_image: dict[int, int], config: JobConfig) -> None:
    few = sum(images for n, images in per_image.items() if n < config.min_captions)
    if few:
        print(
            f"caption: {few:,} of {sum(per_image.values()):,} images have fewer than {config.min_captions} captions; "
            f"`raysys status {config.output}` shows why, another captioner in the same table adds to them",
            file=sys.stderr,
        )
