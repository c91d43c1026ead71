"""Captions as the input of a job: kept rows of a CAPTIONS table, or the original captions of SAMPLES."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field

from raysys.captions.caption import ORIGINAL
from raysys.config import Config, Place
from raysys.errors import InputError
from raysys.rows import CAPTIONS
from raysys.tables import Chunk, InputPart, Store, TableView
from raysys.tables.kept_rows import KeptRows
from raysys.tables.representatives import RepresentativeRows, Representatives

N_TRIED = 256
"""Captions whose length is measured before a run."""

COLUMNS = ("caption_id", "row_id", "sample_id", "text", "language", "captioner", "level")
"""Columns of every item, whichever table it comes from."""

NOT_GENERALIZED = "none"
"""In filters, the level of captions that have none."""


@dataclass(frozen=True)
class CaptionFilter:
    """Which captions are taken; None = any. level `none` = not generalized.

    which: how a caption was made, its caption_id without the row_id: "blip2/photo", "original/general"; or several of
    these. At most one caption of an image is made in each way.
    """

    language: str | None = None
    level: str | None = None
    which: str | tuple[str, ...] | None = None

    def __call__(self, rows: pa.Table) -> pa.Table:
        if self.language is not None:
            rows = rows.filter(pc.equal(rows["language"], self.language))
        if self.level is not None:
            rows = rows.filter(pc.equal(pc.fill_null(rows["level"], NOT_GENERALIZED), self.level))
        if self.which is not None:
            ways = (self.which,) if isinstance(self.which, str) else self.which
            named = [pc.binary_join_element_wise(rows["row_id"], way, "/") for way in ways]
            rows = rows.filter(reduce(pc.or_, [pc.equal(rows["caption_id"], names) for names in named]))
        return rows


@dataclass(frozen=True)
class CaptionRows:
    """chunk → [caption_id, row_id, sample_id, text, language, captioner, level] of the captions that are taken."""

    rows: KeptRows | RepresentativeRows
    chosen: CaptionFilter
    from_samples: bool

    @classmethod
    def of(cls, view: TableView, chosen: CaptionFilter, duplicates: TableView | None = None) -> CaptionRows:
        """`view` holds CAPTIONS or SAMPLES; of samples, those without a caption are left out."""
        if view.row_type.name == CAPTIONS.name:
            return cls(KeptRows.of(view, COLUMNS), chosen, False)
        samples = Representatives(view, duplicates)
        return cls(RepresentativeRows.of(samples, ("row_id", "sample_id", "caption")), chosen, True)

    def __call__(self, chunk: Chunk) -> pa.Table:
        rows = self.rows(chunk)
        if self.from_samples:
            rows = _as_captions(rows)
        return self.chosen(rows).select(COLUMNS)

    def tried(self, parts: Sequence[InputPart]) -> list[str]:
        """Texts of the first part that has any, 256 at most. InputError when none has: to take nothing is a slip.

        Few parts are read where captions are found, all of them only before the error.
        """
        for part in parts:
            if (taken := self(Chunk(part.name, part, 0, part.n_items))).num_rows:
                return taken["text"].slice(0, N_TRIED).to_pylist()
        wanted = ", ".join(f"{name} = {value!r}" for name, value in asdict(self.chosen).items() if value is not None)
        raise InputError(f"no caption is taken: none has {wanted or 'a text'}", "correct that, or give another table")


def refuse_own_output(captions: str, output: str) -> None:
    """Captions may be made from the captions of several tables, but not written into the one that is read: each run
    would find the last one's rows as new input."""
    if Store(captions).url == Store(output).url:
        raise InputError(f"captions and output are both {output}", "give the new captions a table of their own")


def _as_captions(samples: pa.Table) -> pa.Table:
    """SAMPLES rows as if their own captions were CAPTIONS rows, in English."""
    samples = samples.filter(pc.greater(pc.utf8_length(pc.fill_null(samples["caption"], "")), 0))
    n = samples.num_rows
    ids = [f"{row_id}/{ORIGINAL}" for row_id in samples["row_id"].to_pylist()]
    columns = {
        "caption_id": pa.array(ids, pa.string()),
        "row_id": samples["row_id"],
        "sample_id": samples["sample_id"],
        "text": samples["caption"],
        "language": pa.array(["en"] * n, pa.string()),
        "captioner": pa.array([ORIGINAL] * n, pa.string()),
        "level": pa.nulls(n, pa.string()),
    }
    return pa.table(columns)


class CaptionSource(Config):
    """Captions out of a CAPTIONS table."""

    table: Place = Field(description="table of CAPTIONS rows")
    which: str | tuple[str, ...] | None = Field(
        None,
        description="the captions made this way or in these ways, as caption_id says after the row_id: blip2/photo, "
        "original/general … null = all captions",
    )


@dataclass(frozen=True)
class CaptionsToEncode:
    """chunk → [caption_id, row_id, caption]."""

    rows: CaptionRows

    def __call__(self, chunk: Chunk) -> pa.Table:
        table = self.rows(chunk).select(["caption_id", "row_id", "text"])
        return table.rename_columns(["caption_id", "row_id", "caption"])


def captions_to_encode(view: TableView, source: CaptionSource) -> CaptionsToEncode:
    """InputError when `which` names captions that the table does not have."""
    wanted = (source.which,) if isinstance(source.which, str) else source.which or ()
    ways = _ways(view)
    if not ways or not set(wanted) <= set(ways):
        raise InputError(
            f"captions.which = {source.which!r}: the captions of {source.table} are {', '.join(ways) or 'none yet'}",
            "name one of them",
        )
    return CaptionsToEncode(CaptionRows.of(view, CaptionFilter(which=source.which)))


@dataclass(frozen=True)
class OwnCaptions:
    """chunk of SAMPLES → [caption_id, row_id, caption] of their own captions, those without one included."""

    rows: RepresentativeRows

    @classmethod
    def of(cls, samples: Representatives) -> OwnCaptions:
        return cls(RepresentativeRows.of(samples, ("row_id", "caption")))

    def __call__(self, chunk: Chunk) -> pa.Table:
        table = self.rows(chunk).select(["row_id", "caption"])
        ids = [f"{row_id}/{ORIGINAL}" for row_id in table["row_id"].to_pylist()]
        return table.add_column(0, "caption_id", pa.array(ids, pa.string()))


def _ways(view: TableView) -> list[str]:
    """How the captions of a table were made. Of every producer, and of every producer before it, the first part that
    holds rows is read: one part of `generalize` stands for one captioner only."""
    found: dict[str, None] = {}
    seen: set[tuple[str, str]] = set()
    for part in view.parts:
        line = (part.output.producer, part.chunk.part.name.rpartition("/")[0])
        if line in seen:
            continue
        for row in part.read(["row_id", "caption_id"]).to_pylist():
            seen.add(line)
            found[row["caption_id"].removeprefix(row["row_id"] + "/")] = None
    return sorted(found)
