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
"""Number of captions whose length is checked before a run."""

COLUMNS = ("caption_id", "row_id", "sample_id", "text", "language", "captioner", "level")
"""Columns of every item, from either kind of table."""

NOT_GENERALIZED = "none"
"""In filters, the level of captions that are not generalized."""


@dataclass(frozen=True)
class CaptionFilter:
    """Selects captions; None = any. Level `none` = not generalized.

    which: the caption_id without the row_id, e.g. "blip2/photo" or "original/general", or several of these. An image
    has at most one caption for each.
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
    """chunk → [caption_id, row_id, sample_id, text, language, captioner, level] of the selected captions."""

    rows: KeptRows | RepresentativeRows
    chosen: CaptionFilter
    from_samples: bool

    @classmethod
    def of(cls, view: TableView, chosen: CaptionFilter, duplicates: TableView | None = None) -> CaptionRows:
        """`view`: a CAPTIONS or SAMPLES table; samples without a caption are skipped."""
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
        """Texts of the first part that has any, at most 256. Raises InputError if no caption is selected.

        Reads parts until captions are found, so all parts are read only before the error.
        """
        for part in parts:
            if (taken := self(Chunk(part.name, part, 0, part.n_items))).num_rows:
                return taken["text"].slice(0, N_TRIED).to_pylist()
        wanted = ", ".join(f"{name} = {value!r}" for name, value in asdict(self.chosen).items() if value is not None)
        raise InputError(f"no caption is selected: none has {wanted or 'a text'}", "correct it, or give another table")


def refuse_own_output(captions: str, output: str) -> None:
    """Raise InputError if captions would be written to the table from which they are made: each run would read the rows
    of the previous one as new input."""
    if Store(captions).url == Store(output).url:
        raise InputError(f"captions and output are both {output}", "write the new captions to another table")


def _as_captions(samples: pa.Table) -> pa.Table:
    """The original captions of SAMPLES rows as CAPTIONS rows, in English."""
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
    """Captions from a CAPTIONS table."""

    table: Place = Field(description="table of CAPTIONS rows")
    which: str | tuple[str, ...] | None = Field(
        None,
        description="captions to use, by the part of caption_id after the row_id: blip2/photo, original/general …, or "
        "several of these; null = all captions",
    )


@dataclass(frozen=True)
class CaptionsToEncode:
    """chunk → [caption_id, row_id, caption]."""

    rows: CaptionRows

    def __call__(self, chunk: Chunk) -> pa.Table:
        table = self.rows(chunk).select(["caption_id", "row_id", "text"])
        return table.rename_columns(["caption_id", "row_id", "caption"])


def captions_to_encode(view: TableView, source: CaptionSource) -> CaptionsToEncode:
    """Loads the captions of `source`. Raises InputError if the table does not have captions `which`."""
    wanted = (source.which,) if isinstance(source.which, str) else source.which or ()
    ways = _ways(view)
    if not ways or not set(wanted) <= set(ways):
        raise InputError(
            f"captions.which = {source.which!r}: the captions of {source.table} are {', '.join(ways) or 'none yet'}",
            "use one of these",
        )
    return CaptionsToEncode(CaptionRows.of(view, CaptionFilter(which=source.which)))


@dataclass(frozen=True)
class OwnCaptions:
    """chunk of SAMPLES → [caption_id, row_id, caption] of the original captions, including rows without a caption."""

    rows: RepresentativeRows

    @classmethod
    def of(cls, samples: Representatives) -> OwnCaptions:
        return cls(RepresentativeRows.of(samples, ("row_id", "caption")))

    def __call__(self, chunk: Chunk) -> pa.Table:
        table = self.rows(chunk).select(["row_id", "caption"])
        ids = [f"{row_id}/{ORIGINAL}" for row_id in table["row_id"].to_pylist()]
        return table.add_column(0, "caption_id", pa.array(ids, pa.string()))


def _ways(view: TableView) -> list[str]:
    """The values that `which` can have for a table. Reads the first non-empty part of every producer and of every
    producer before it, because a part of `generalize` has the captions of only one captioner."""
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
