"""Job `assemble`: SAMPLES ⋈ DUPLICATES ⋈ LATENTS ⋈ TEXT_STATES → the shuffled training set."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from raysys.config import OPERATIONAL, Config, Place
from raysys.jobs.inputs import complete
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import FolderJob, refuse_limit, refuse_lost_path, refuse_object_store, run_folder
from raysys.latents.assemble import assemble
from raysys.latents.join import SetTables, encoders_of, training_rows
from raysys.rows import DUPLICATES, LATENTS, SAMPLES, TEXT_STATES
from raysys.tables import TableView
from raysys.tables.read import version_of
from raysys.tables.results import Plan, Summary

JOINED_AS = 3
"""Version of the join: increased when the same inputs give different rows, so that older sets are not reused.
3: a row holds a list of captions."""


class JobConfig(Config):
    """Join and shuffle the training set."""

    samples: Place = Field(description="table of SAMPLES rows")
    duplicates: Place | None = Field(None, description="table of DUPLICATES rows; null = no dedup")
    latents: Place = Field(description="table of LATENTS rows")
    text_states: Place | tuple[Place, ...] = Field(description="table of TEXT_STATES rows, or several")
    which: str | tuple[str, ...] | None = Field(
        None,
        description="captions to use, by the part of caption_id after the row_id: original, blip2/photo … With "
        "several, each training step draws one of an image's captions; null = the only caption of each image",
    )
    required_text_states: Place | tuple[Place, ...] | None = Field(
        None,
        description="additional tables of TEXT_STATES rows: samples without a kept row in each are left out, so that "
        "several sets contain the same images",
    )
    output: Place = Field(description="folder for the assembled set")
    keep_duplicates: bool = Field(
        False, description="repeat a representative once per member of its cluster, as in a set without dedup"
    )
    seed: int = Field(0, ge=0, description="seed of the shuffle")
    part_rows: int = Field(4096, ge=1, description="rows per part")
    n_spills: Annotated[int, OPERATIONAL] = Field(
        32,
        ge=1,
        description="temporary files of the shuffle, each sorted in memory: more for larger sets, with the same result",
    )


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write the assembled set. It is rewritten as a whole if any of its inputs has changed."""
    refuse_limit("assemble", options)
    refuse_lost_path(config.output, options)
    refuse_object_store(config.output, "the shuffle")
    tables = _tables(config)
    views = {
        "samples": tables.samples,
        "duplicates": tables.duplicates,
        "latents": tables.latents,
        **{f"text_states.{k}": view for k, view in enumerate(tables.text_states)},
        **_required_views(tables),
    }
    fields = {
        "joined_as": JOINED_AS,
        "inputs": {name: view.identity if view else None for name, view in views.items()},
        "contents": version_of(*views.values()),
        **config.identity(),
    }
    job = FolderJob("assemble", config.output, fields, partial(_write, config, tables), partial(_facts, tables.samples))
    return run_folder(job, config, options)


def _facts(samples: TableView) -> Mapping[str, Any]:
    return {"parts to join": len(samples.parts), "samples": samples.counts().kept}


def _write(config: JobConfig, tables: SetTables, folder: Path) -> dict[str, Any]:
    manifest = assemble(
        training_rows(tables, _several(config.which), config.keep_duplicates),
        folder,
        seed=config.seed,
        part_rows=config.part_rows,
        n_spills=config.n_spills,
        encoders=encoders_of(tables),
    )
    return {name: manifest[name] for name in ("rows", "captions", "buckets")}


def _tables(config: JobConfig) -> SetTables:
    return SetTables(
        samples=complete(config.samples, SAMPLES),
        duplicates=complete(config.duplicates, DUPLICATES) if config.duplicates else None,
        latents=complete(config.latents, LATENTS),
        text_states=tuple(complete(path, TEXT_STATES) for path in _several(config.text_states) or ()),
        required=tuple(complete(path, TEXT_STATES) for path in _several(config.required_text_states) or ()),
    )


def _required_views(tables: SetTables) -> dict[str, TableView | None]:
    """By name. One table or none keeps the name that older versions recorded, so that their sets remain valid."""
    if len(tables.required) < 2:
        return {"required_text_states": next(iter(tables.required), None)}
    return {f"required_text_states.{k}": view for k, view in enumerate(tables.required)}


def _several(names: str | tuple[str, ...] | None) -> tuple[str, ...] | None:
    """A single name as a tuple of one; tuples and None unchanged."""
    return (names,) if isinstance(names, str) else names
