"""The rows of one fate: how many there are for each reason, and the rows themselves, part by part."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import InputError
from raysys.outcomes import REJECTED, UNKNOWN_REASON
from raysys.tables.read import Part, TableView, for_parts


@dataclass(frozen=True)
class FateRows:
    """The rows of a table with one fate. reasons: {reason group: rows}. parts: those that hold such rows."""

    parts: tuple[Part, ...]
    outcome: str
    reason: str | None
    reasons: Counter[str]

    @classmethod
    def of(cls, view: TableView, outcome: str, reason: str | None = None) -> FateRows:
        """The rows with `outcome` (rejected or error), only those with `reason` if it is given; reads footers only.

        reason: as counted, e.g. `duplicate_of` for `duplicate_of:<id>`. Raises InputError if no row has this reason.
        """
        reasons: Counter[str] = Counter()
        parts = []
        for part, counts in zip(view.parts, for_parts(Part.counts, view.parts), strict=True):
            found = counts.rejected if outcome == REJECTED else counts.error
            reasons.update(found)
            if found if reason is None else reason in found:
                parts.append(part)
        if reason is not None and reason not in reasons:
            raise InputError(
                f"{view.store.url} has no {outcome} rows with the reason {reason!r}",
                f"give one of its reasons: {in_words(reasons)}" if reasons else f"it has no {outcome} rows at all",
            )
        return cls(tuple(parts), outcome, reason, reasons)

    @property
    def total(self) -> int:
        return self.reasons.total() if self.reason is None else self.reasons[self.reason]

    def tables(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """One table per part that holds such rows. Memory: one part (on object stores, `read.N_READERS` parts)."""
        wanted = list(dict.fromkeys([*columns, "outcome", "reason"]))
        for table in for_parts(lambda part: part.read(wanted), self.parts):
            chosen = pc.equal(table["outcome"], self.outcome)
            if self.reason is not None:
                reason = pc.fill_null(table["reason"], UNKNOWN_REASON)
                in_group = pc.or_(pc.equal(reason, self.reason), pc.starts_with(reason, f"{self.reason}:"))
                chosen = pc.and_(chosen, in_group)
            yield table.filter(chosen).select(list(columns))


def in_words(reasons: Counter[str] | dict[str, int], most: int | None = None) -> str:
    """`too_large 12, truncated 3`: the most frequent reasons first; with `most`, the number of the others."""
    ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
    shown = [f"{reason} {n:,}" for reason, n in ordered[:most]]
    rest = ordered[len(shown) :]
    if rest:
        shown.append(f"{len(rest)} other reasons {sum(n for _, n in rest):,}")
    return ", ".join(shown)
