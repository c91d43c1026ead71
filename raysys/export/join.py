"""SAMPLES ⋈ CAPTIONS ⋈ DUPLICATES → the rows to export, and the reasons for leaving others out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

from raysys.errors import InputError
from raysys.export.files import CAPTION_FIELDS, CaptionSelection
from raysys.outcomes import KEPT, REJECTED, Counts
from raysys.shards.licenses import UNKNOWN
from raysys.tables import TableView
from raysys.tables.join import AlignedTable
from raysys.tables.read import Part
from raysys.tables.representatives import LEFT_OUT, Representatives

BATCH_ROWS = 64
"""Number of samples whose rows, possibly with images, are in memory at the same time."""

_FROM_SAMPLE = ("sample_id", "row_id", "url", "width", "height", "metadata")
_FOR_READING = ("shard", "member", "offset", "length", "image", "format")


@dataclass
class ExportJoin:
    """The rows to export. SAMPLES parts are joined one by one, with one part in memory.

    counts: outcomes of the SAMPLES rows read so far; the consumer of `rows` counts each row as kept or error.
    n_seen: number of kept samples read so far.
    """

    samples: TableView
    captions: tuple[TableView, ...]
    duplicates: TableView | None
    select: CaptionSelection
    limit: int | None
    counts: Counts = field(default_factory=Counts)
    n_seen: int = 0

    def __post_init__(self) -> None:
        known = {part.origin for part in self.samples.parts}
        for view in self.captions:
            if view.parts and not known & {part.origin for part in view.parts}:
                raise InputError(
                    f"captions {view.store.url} were not made from {self.samples.store.url}",
                    "give the samples table that was captioned",
                )

    @property
    def n_samples(self) -> int:
        """Number of kept samples that will be read."""
        kept = self.samples.counts().kept
        return kept if self.limit is None else min(kept, self.limit)

    def rows(self, with_images: bool = True) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """(SAMPLES row, export row without the image) for every exported sample, in table order."""
        captions = [AlignedTable(view) for view in self.captions]
        join = Representatives(self.samples, self.duplicates)
        for part in self.samples.parts:
            captions_of = [table.all_rows_of(part, CAPTION_FIELDS) for table in captions]
            for outcome in part.read(["outcome"])["outcome"].to_pylist():
                if outcome != KEPT:
                    self.counts.add(REJECTED, f"sample_{outcome}")
            for sample in _samples_of(join, part, with_images):
                if self.n_seen == self.limit:
                    return
                self.n_seen += 1
                row = self._row(sample, [found.get(sample["row_id"], []) for found in captions_of])
                if row is not None:
                    yield sample, row

    def _row(self, sample: dict, captions: list[list[dict]]) -> dict | None:
        """The export row of a kept sample, without the image; None if the sample is left out, which is counted."""
        if sample[LEFT_OUT] is not None:
            self.counts.add(REJECTED, sample[LEFT_OUT])
            return None
        if sample["license"] is None or sample["license"] == UNKNOWN:
            self.counts.add(REJECTED, "license_unknown")
            return None
        rows = list(chain.from_iterable(sorted(some, key=lambda row: row["caption_id"]) for some in captions))
        chosen = self.select.captions_of(rows)
        if len(chosen) < self.select.min_captions:
            self.counts.add(REJECTED, "too_few_captions" if rows else "not_captioned")
            return None
        if len({caption["caption_id"] for caption in chosen}) < len(chosen):
            raise InputError(
                f"sample {sample['row_id']!r} has captions with the same id in two of the captions tables",
                "remove one of the tables, or select captioners with select.captioners",
            )
        main = self.select.main_of(chosen)
        return {name: sample[name] for name in _FROM_SAMPLE} | {
            "caption": main["text"],
            "caption_id": main["caption_id"],
            "captions": chosen,
            "original_caption": sample["caption"],
            "license": sample["license"],
            "license_evidence": sample["license_evidence"],
            "sources": sample["sources"] or [],
        }


def _samples_of(join: Representatives, part: Part, with_images: bool) -> Iterator[dict[str, Any]]:
    columns = [*_FROM_SAMPLE, *_FOR_READING, "caption", "license", "license_evidence", "sources"]
    table = join.with_left_out(part, columns if with_images else [name for name in columns if name != "image"])
    for batch in table.to_batches(max_chunksize=BATCH_ROWS):
        yield from batch.to_pylist()
