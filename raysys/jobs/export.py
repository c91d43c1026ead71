"""Job `export`: SAMPLES ⋈ CAPTIONS ⋈ DUPLICATES → WebDataset tars, or a folder for Hugging Face `datasets`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from pydantic import Field

from raysys.captions.card import card
from raysys.captions.export import (
    CAPTION_FIELDS,
    EXTENSIONS,
    CaptionSelection,
    Contents,
    Layout,
    finish,
    read_manifest,
    write_shards,
)
from raysys.config import Config
from raysys.errors import InputError, RunFailed
from raysys.jobs.inputs import complete, version_of
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import refuse_lost_path
from raysys.outcomes import ERROR, KEPT, REJECTED, Counts, error_from
from raysys.progress import Progress
from raysys.rows import CAPTIONS, DUPLICATES, SAMPLES
from raysys.shards.licences import UNKNOWN
from raysys.shards.references import ImageReader
from raysys.staging import staged
from raysys.tables import TableView
from raysys.tables.join import AlignedTable
from raysys.tables.plan import differences
from raysys.tables.read import Part

ERRORS_BEFORE_STOP = 20
"""As for row jobs: a handful of lost images never stops a run."""

BATCH_ROWS = 64
"""Samples of a materialised table that are in Python's hands at once."""

_FROM_SAMPLE = ("sample_id", "row_id", "url", "width", "height", "metadata")
_FOR_READING = ("shard", "member", "offset", "length", "image", "format")


class JobConfig(Config):
    """Write the captioned set for other tools."""

    samples: str = Field(description="table of SAMPLES rows")
    captions: tuple[str, ...] = Field(min_length=1, description="tables of CAPTIONS rows, also made from one another")
    duplicates: str | None = Field(
        None, description="table of DUPLICATES rows: only representatives, with the strictest licence; null = every one"
    )
    output: str = Field(description="folder for the export; local or mounted")
    layout: Layout = Field("webdataset", description="WebDataset tars, or a folder for Hugging Face datasets")
    select: CaptionSelection = Field(CaptionSelection(), description="which captions")
    rows_per_shard: int = Field(10_000, ge=1, description="samples per file at most")
    max_shard_bytes: int = Field(500_000_000, ge=1, description="bytes per file at most")
    max_error_fraction: float = Field(
        0.01, ge=0, le=1, description="stop when more of the images than this cannot be read (20 at least)"
    )


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write the export; done again as a whole when any of its inputs changed."""
    refuse_lost_path(config.output)
    if "://" in config.output:
        raise InputError(f"output {config.output!r}: an export is written into a local or mounted folder", "give one")
    if len(set(map(os.path.abspath, config.captions))) < len(config.captions):
        raise InputError(f"captions {list(config.captions)} names a table twice", "give each once")
    folder = Path(os.path.abspath(config.output))
    join = _Join.open(config, options.limit)
    notes = join.notes(config)
    if (done := _already(folder, notes, options)) is not None:
        return done
    if options.dry_run:
        return _dry_run(join, config)
    with staged(folder) as staging, closing(_Images(join, config.max_error_fraction)) as images:
        with Progress("export", join.n_samples, "samples") as progress:
            rows = images.rows(progress)
            contents = write_shards(
                rows,
                staging,
                config.layout,
                rows_per_shard=config.rows_per_shard,
                max_shard_bytes=config.max_shard_bytes,
            )
        images.check_errors(join.counts.kept + len(images.errors))
        join.refuse_empty(contents, config)
        manifest = {
            "layout": config.layout,
            **contents.as_dict(),
            "rows": join.counts.as_dict(),
            "errors": images.errors,
            "limit": options.limit,
            "notes": notes,
        }
        finish(staging, card(manifest, manifest["rows"], config.layout), manifest)
    return _summary(folder, manifest)


def _already(folder: Path, notes: dict[str, Any], options: RunOptions) -> dict[str, Any] | None:
    """The summary of a finished export of the same inputs; None when there is work."""
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    changed = differences(manifest["notes"], notes)
    if changed and options.on_change == "refuse":
        raise InputError(
            f"{folder} was exported from something else:" + "".join(f"\n  - {c}" for c in changed),
            "--on-change recompute replaces it, --on-change keep uses it; or give another output folder",
        )
    n_errors = len(manifest["errors"])
    if options.on_change == "recompute" and (changed or n_errors):
        return None
    was, limit = manifest["limit"], options.limit
    if not changed and was is not None and (limit is None or limit > was):
        return None  # a trial, and now more is asked for
    note = f"; {n_errors} images could not be read, --on-change recompute tries again" if n_errors else ""
    print(f"export: nothing to do, {folder} is finished{note}", file=sys.stderr)
    return _summary(folder, manifest)


def _summary(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    return {
        "output": str(folder),
        "rows": manifest["rows"],
        **{name: manifest[name] for name in ("samples", "captions", "licences")},
        "shards": len(manifest["shards"]),
    }


def _dry_run(join: _Join, config: JobConfig) -> dict[str, Any]:
    contents = Contents()
    for _, row in join.rows(with_images=False):
        join.counts.add(KEPT)
        contents.add(row)
    rows = join.counts.as_dict()
    plan = {"output": config.output, "layout": config.layout, "rows": rows["in"], "samples": contents.samples}
    plan |= {"captions": contents.captions.total()}
    plan |= {f"left out: {reason}": n for reason, n in rows["rejected"].items()}
    print("export would write (nothing was written):")
    for name, value in plan.items():
        print(f"  {name:<30} {value:,}" if isinstance(value, int) else f"  {name:<30} {value}")
    return plan


@dataclass
class _Join:
    """The rows to export, part of samples by part: nothing crosses parts, one part is in memory.

    counts: the fate of every row of samples that was looked at; whoever takes a row counts it as kept or error.
    n_seen: kept samples looked at.
    """

    samples: TableView
    captions: tuple[TableView, ...]
    duplicates: TableView | None
    select: CaptionSelection
    limit: int | None
    counts: Counts = field(default_factory=Counts)
    n_seen: int = 0

    @classmethod
    def open(cls, config: JobConfig, limit: int | None) -> _Join:
        samples = complete(config.samples, SAMPLES)
        captions = tuple(complete(path, CAPTIONS) for path in config.captions)
        known = {part.origin for part in samples.parts}
        for view in captions:
            if view.parts and not known & {part.origin for part in view.parts}:
                raise InputError(
                    f"captions {view.store.url} were not made from {samples.store.url}",
                    "give the samples table that was captioned",
                )
        duplicates = complete(config.duplicates, DUPLICATES) if config.duplicates else None
        return cls(samples, captions, duplicates, config.select, limit)

    @property
    def n_samples(self) -> int:
        """Kept samples that will be looked at."""
        kept = self.samples.counts().kept
        return kept if self.limit is None else min(kept, self.limit)

    def notes(self, config: JobConfig) -> dict[str, Any]:
        """Everything that changes the result."""
        views = [self.samples, *self.captions] + ([self.duplicates] if self.duplicates else [])
        settings = ("layout", "select", "rows_per_shard", "max_shard_bytes")
        return {
            "inputs": {
                "samples": self.samples.identity,
                "captions": [view.identity for view in self.captions],
                "duplicates": self.duplicates.identity if self.duplicates else None,
            },
            "contents": version_of(*views),
            **{name: value for name, value in config.model_dump(mode="json").items() if name in settings},
        }

    def rows(self, with_images: bool = True) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """(SAMPLES row, its export row without the image) of every sample that is exported, in table order."""
        captions = [AlignedTable(view) for view in self.captions]
        duplicates = AlignedTable(self.duplicates) if self.duplicates else None
        for part in self.samples.parts:
            captions_of = [table.all_rows_of(part, CAPTION_FIELDS) for table in captions]
            clusters = duplicates.rows_of(part, ["licence", "sources"]) if duplicates else None
            for sample in _samples_of(part, with_images):
                if sample["outcome"] != KEPT:
                    self.counts.add(REJECTED, f"sample_{sample['outcome']}")
                    continue
                if self.n_seen == self.limit:
                    return
                self.n_seen += 1
                row = self._row(sample, [found.get(sample["row_id"], []) for found in captions_of], clusters)
                if row is not None:
                    yield sample, row

    def _row(self, sample: dict, captions: list[list[dict]], clusters: dict[str, dict] | None) -> dict | None:
        """The export row of a kept sample, without the image; None, and counted, when it is left out."""
        licence, evidence, sources = sample["licence"], sample["licence_evidence"], []
        if clusters is not None:
            cluster = clusters.get(sample["row_id"])
            if cluster is None or cluster["outcome"] != KEPT:
                self.counts.add(REJECTED, "not_deduplicated" if cluster is None else cluster["reason"])
                return None
            sources = cluster["sources"] or []
            if cluster["licence"] != licence:
                licence = cluster["licence"]
                evidence = f"the strictest of {len(sources)} copies; this one: {evidence}"
        if licence is None or licence == UNKNOWN:
            self.counts.add(REJECTED, "licence_unknown")
            return None
        rows = list(chain.from_iterable(sorted(some, key=lambda row: row["caption_id"]) for some in captions))
        chosen = self.select.captions_of(rows)
        if len(chosen) < self.select.min_captions:
            self.counts.add(REJECTED, "too_few_captions" if rows else "not_captioned")
            return None
        if len({caption["caption_id"] for caption in chosen}) < len(chosen):
            raise InputError(
                f"sample {sample['row_id']!r} has captions with the same id in two of the captions tables",
                "leave one table out, or choose its captioners by select.captioners",
            )
        main = self.select.main_of(chosen)
        return {name: sample[name] for name in _FROM_SAMPLE} | {
            "caption": main["text"],
            "caption_id": main["caption_id"],
            "captions": chosen,
            "original_caption": sample["caption"],
            "licence": licence,
            "licence_evidence": evidence,
            "sources": sources,
        }

    def refuse_empty(self, contents: Contents, config: JobConfig) -> None:
        """InputError when nothing is left to export."""
        if contents.samples == 0:
            raise InputError(
                f"no sample to export into {config.output} ({self.counts.as_dict()})",
                "look at `select` and at the outcomes of the tables it joins",
            )


def _samples_of(part: Part, with_images: bool) -> Iterator[dict[str, Any]]:
    columns = [*_FROM_SAMPLE, *_FOR_READING, "caption", "licence", "licence_evidence", "outcome"]
    table = part.read(columns if with_images else [name for name in columns if name != "image"])
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield from batch.to_pylist()


class _Images:
    """Gives export rows their image bytes; rows whose bytes cannot be read any more are counted, with their ids."""

    def __init__(self, join: _Join, max_error_fraction: float) -> None:
        self._join, self._max_fraction = join, max_error_fraction
        self._reader = ImageReader()
        self._n_samples = join.n_samples
        self.errors: list[dict[str, str]] = []

    def rows(self, progress: Progress) -> Iterator[dict[str, Any]]:
        counts = self._join.counts
        for sample, row in self._join.rows():
            data = self._read(sample)
            if data is not None:
                # The number makes keys unique and sorts them, the hash tells whose picture it is.
                key = f"{counts.kept:09d}-{sample['sample_id'][:12]}"
                counts.add(KEPT)
                yield row | {"image": {"bytes": data, "path": f"{key}.{EXTENSIONS[sample['format']]}"}}
            progress.update(self._join.n_seen, counts)
        progress.update(self._join.n_seen, counts)

    def _read(self, sample: dict[str, Any]) -> bytes | None:
        try:
            return self._reader.read(sample)
        except (OSError, ValueError) as exc:  # gone, or not the picture that was ingested
            fate = error_from("read", exc)
            self._join.counts.add(ERROR, fate["reason"])
            self.errors.append({"row_id": sample["row_id"], "reason": fate["reason"], "detail": fate["detail"]})
            self.check_errors(self._n_samples)
            return None

    def check_errors(self, of: int) -> None:
        """RunFailed when more images than allowed, of so many, could not be read."""
        n = len(self.errors)
        if n >= ERRORS_BEFORE_STOP and n > self._max_fraction * of:
            first = self.errors[0]
            raise RunFailed(
                f"the images of {n} samples cannot be read, more than max_error_fraction = {self._max_fraction:g} of "
                f"{of}; the first: {first['row_id']}: {first['detail']}\n"
                "  fix: bring the ingested files back to their place, or ingest again; nothing was exported"
            )

    def close(self) -> None:
        self._reader.close()
