"""Job `export`: SAMPLES ⋈ CAPTIONS ⋈ DUPLICATES → WebDataset tars, or a folder for Hugging Face `datasets`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field, field_validator

from raysys.config import OPERATIONAL, Config, Place
from raysys.errors import InputError
from raysys.export.export import export, is_incomplete, planned
from raysys.export.files import CaptionSelection, Layout
from raysys.export.join import ExportJoin
from raysys.jobs.inputs import complete
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import FolderJob, refuse_object_store, run_folder
from raysys.rows import CAPTIONS, DUPLICATES, SAMPLES
from raysys.tables.read import version_of
from raysys.tables.results import FolderSummary, Plan, Summary


class JobConfig(Config):
    """Write the captioned set for other tools."""

    samples: Place = Field(description="table of SAMPLES rows")
    captions: tuple[Place, ...] = Field(
        min_length=1, description="table of CAPTIONS rows, or a list of several, e.g. with translations"
    )
    duplicates: Place | None = Field(
        None,
        description="table of DUPLICATES rows: only representatives, with the strictest license; null = all samples",
    )
    output: Place = Field(description="folder for the export, on a local or mounted disk")
    layout: Layout = Field("webdataset", description="WebDataset tars, or a folder for Hugging Face datasets")
    select: CaptionSelection = Field(CaptionSelection(), description="which captions")
    rows_per_shard: int = Field(10_000, ge=1, description="maximum number of samples per file")
    max_shard_bytes: int = Field(500_000_000, ge=1, description="maximum size of a file in bytes")
    max_error_fraction: Annotated[float, OPERATIONAL] = Field(
        0.01, ge=0, le=1, description="stop if a larger share of the images cannot be read (and at least 20 images)"
    )

    @field_validator("captions", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write the export. It is rewritten as a whole if any of its inputs has changed."""
    refuse_object_store(config.output, "an export")
    if len(set(map(os.path.abspath, config.captions))) < len(config.captions):
        raise InputError(f"captions {list(config.captions)} names a table twice", "name each table once")
    join = ExportJoin(
        complete(config.samples, SAMPLES),
        tuple(complete(path, CAPTIONS) for path in config.captions),
        complete(config.duplicates, DUPLICATES) if config.duplicates else None,
        config.select,
        options.limit,
    )
    sizes = {name: getattr(config, name) for name in ("rows_per_shard", "max_shard_bytes", "max_error_fraction")}
    job = FolderJob(
        "export",
        config.output,
        _fields(config, join),
        write=lambda folder: export(join, folder, config.layout, **sizes),
        facts=lambda: {"layout": config.layout, **planned(join)},
        redo=lambda done: is_incomplete(done.summary, options.limit, options.on_change == "recompute"),
        follows=("contents",),
    )
    result = run_folder(job, config, options)
    step = result.steps["export"]
    if isinstance(step, FolderSummary) and step.state != "done" and (n := step.values["unreadable"]):
        return replace(result, notes=(f"{n} images could not be read; --on-change recompute tries again",))
    return result


def _fields(config: JobConfig, join: ExportJoin) -> dict[str, Any]:
    """Everything that changes the result."""
    views = [join.samples, *join.captions] + ([join.duplicates] if join.duplicates else [])
    return {
        "inputs": {
            "samples": join.samples.identity,
            "captions": [view.identity for view in join.captions],
            "duplicates": join.duplicates.identity if join.duplicates else None,
        },
        "contents": version_of(*views),
        **config.identity(),
    }
