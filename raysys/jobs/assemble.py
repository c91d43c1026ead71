"""Job `assemble`: SAMPLES ⋈ DUPLICATES ⋈ LATENTS ⋈ TEXT_STATES → the shuffled training set."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import Field

from raysys.config import Config
from raysys.errors import InputError
from raysys.jobs.inputs import complete, version_of
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import refuse_limit, refuse_lost_path
from raysys.latents.assemble import assemble
from raysys.latents.parts import MANIFEST, read_manifest
from raysys.outcomes import KEPT, rejected
from raysys.rows import DUPLICATES, LATENTS, SAMPLES, TEXT_STATES, TRAINING_SET
from raysys.tables import TableView
from raysys.tables.join import AlignedTable
from raysys.tables.plan import differences

FROM_LATENTS = ("latents", "latents_shape")
FROM_TEXT = ("caption", "prompt_embeds", "prompt_embeds_shape")
REQUIRED = "required_text_states"
COLUMNS = {REQUIRED: ("outcome", "reason")}
"""What is read of a table of which not everything is used."""

JOINED_AS = 2
"""Counts up when the same inputs make other rows, so that an older set is not taken for a finished one.
2: the caption is the one that was encoded, not the sample's."""


class JobConfig(Config):
    """Join and shuffle the training set."""

    samples: str = Field(description="table of SAMPLES rows")
    duplicates: str | None = Field(None, description="table of DUPLICATES rows; null = every kept sample is its own")
    latents: str = Field(description="table of LATENTS rows")
    text_states: str = Field(description="table of TEXT_STATES rows")
    required_text_states: str | None = Field(
        None, description="a second table of TEXT_STATES rows: only what is kept in it too, for sets of the same images"
    )
    output: str = Field(description="folder for the assembled set")
    keep_duplicates: bool = Field(
        False, description="repeat a representative once per member of its cluster, as a set without dedup would"
    )
    seed: int = Field(0, ge=0, description="seed of the shuffle")
    part_rows: int = Field(4096, ge=1, description="rows per part")
    n_spills: int = Field(
        32,
        ge=1,
        description="temporary files the shuffle sorts one by one in memory; more for larger sets, same result",
    )


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write the assembled set; done again as a whole when any of its inputs changed."""
    refuse_limit("assemble", options)
    refuse_lost_path(config.output)
    if "://" in config.output:
        raise InputError(f"output {config.output!r}: the shuffle needs a local or mounted folder", "give one")
    views = {
        "samples": complete(config.samples, SAMPLES),
        "duplicates": complete(config.duplicates, DUPLICATES) if config.duplicates else None,
        "latents": complete(config.latents, LATENTS),
        "text_states": complete(config.text_states, TEXT_STATES),
        REQUIRED: complete(config.required_text_states, TEXT_STATES) if config.required_text_states else None,
    }
    notes = {
        "joined_as": JOINED_AS,
        "inputs": {name: view.identity if view else None for name, view in views.items()},
        "contents": version_of(*views.values()),
        "keep_duplicates": config.keep_duplicates,
        "seed": config.seed,
        "part_rows": config.part_rows,
    }
    if (done := _already(config, notes, options)) is not None:
        return done
    if options.dry_run:
        print(f"assemble would join {len(views['samples'].parts)} parts into {config.output} (nothing was written)")
        return {}
    manifest = assemble(
        _joined(views, config.keep_duplicates),
        config.output,
        seed=config.seed,
        part_rows=config.part_rows,
        n_spills=config.n_spills,
        notes=notes,
    )
    return _summary(config, manifest)


def _already(config: JobConfig, notes: dict[str, Any], options: RunOptions) -> dict[str, Any] | None:
    """The summary of a finished set made from the same inputs; None when there is work."""
    if not (Path(config.output) / MANIFEST).is_file():
        return None
    manifest = read_manifest(config.output)
    changed = differences(manifest["notes"], notes)
    if changed and options.on_change == "recompute":
        return None
    if changed and options.on_change == "refuse":
        raise InputError(
            f"{config.output} was assembled from something else:" + "".join(f"\n  - {c}" for c in changed),
            "--on-change recompute replaces it, --on-change keep uses it; or give another output folder",
        )
    print(f"assemble: nothing to do, {config.output} is finished", file=sys.stderr)
    return _summary(config, manifest)


def _summary(config: JobConfig, manifest: dict[str, Any]) -> dict[str, Any]:
    return {"output": config.output, "rows": manifest["rows"], "buckets": manifest["buckets"]}


def _joined(views: dict[str, TableView | None], keep_duplicates: bool) -> Iterator[pa.Table]:
    """TRAINING_SET rows, one table per part of samples: nothing crosses parts."""
    aligned = {name: AlignedTable(view) for name, view in views.items() if view is not None and name != "samples"}
    columns = ["row_id", "sample_id", "caption", "licence", "url", "outcome"]
    for part in views["samples"].parts:
        others = {name: table.rows_of(part, COLUMNS.get(name)) for name, table in aligned.items()}
        rows = []
        for sample in part.read(columns).to_pylist():
            if sample["outcome"] == KEPT:
                rows += _training_rows(sample, others, keep_duplicates)
        yield TRAINING_SET.table(rows)


def _training_rows(sample: dict, others: dict[str, dict[str, dict]], keep_duplicates: bool) -> list[dict[str, Any]]:
    """The rows of one kept sample: none for a duplicate, one or (with its duplicates) several for a representative."""
    row_id, copies, licence = sample["row_id"], 1, sample["licence"]
    base = {k: sample[k] for k in ("row_id", "sample_id", "caption", "url")} | {"licence": licence, "copy": 0}
    if "duplicates" in others:
        cluster = others["duplicates"].get(row_id)
        if cluster is None or cluster["outcome"] != KEPT:
            return [] if cluster else [{**base, **rejected("not_deduplicated")}]
        base["licence"] = cluster["licence"]
        copies = cluster["cluster_size"] if keep_duplicates else 1
    for name in (name for name in ("latents", "text_states", REQUIRED) if name in others):
        made = others[name].get(row_id)
        if made is None or made["outcome"] != KEPT:
            return [{**base, **rejected(f"no_{name}", made and made["reason"])}]
    latents, text = others["latents"][row_id], others["text_states"][row_id]
    height, width = latents["latents_shape"][-2:]
    base |= {k: latents[k] for k in FROM_LATENTS} | {k: text[k] for k in FROM_TEXT}
    base |= {"bucket": f"{height}x{width}", "outcome": KEPT}
    return [{**base, "copy": i} for i in range(copies)]
