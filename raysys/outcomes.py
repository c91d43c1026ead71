"""The fate of every work item: kept, rejected(reason) or error(stage, reason, detail).

Rejected: the input is bad, and a rerun would give the same. Error: a failure of raysys; `raysys retry` redoes it.
Checked after each run: n_items = kept + rejected + error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

KEPT = "kept"
REJECTED = "rejected"
ERROR = "error"
OUTCOMES = (KEPT, REJECTED, ERROR)

DETAIL_MAX_CHARS = 500
"""Longer details are truncated, because decoders may print pages of text."""


UNKNOWN_REASON = "unknown"
"""Counted for a row without a reason."""


def kept() -> dict[str, str | None]:
    """The fate columns of a kept row."""
    return {"outcome": KEPT, "stage": None, "reason": None, "detail": None}


def rejected(reason: str, detail: object = None) -> dict[str, str | None]:
    """The fate columns of a row whose input is bad, e.g. rejected("too_large", "40000x40000 px")."""
    return {"outcome": REJECTED, "stage": None, "reason": reason, "detail": _clip(detail)}


def error(stage: str, reason: str, detail: object = None) -> dict[str, str | None]:
    """The fate columns of a row that failed although its input may be good: it can be retried."""
    return {"outcome": ERROR, "stage": stage, "reason": reason, "detail": _clip(detail)}


def error_from(stage: str, exc: BaseException) -> dict[str, str | None]:
    """The fate columns for an exception: reason = its type, detail = its message."""
    return error(stage, type(exc).__name__, str(exc))


def _clip(detail: object) -> str | None:
    if detail is None:
        return None
    text = str(detail)
    return text if len(text) <= DETAIL_MAX_CHARS else text[: DETAIL_MAX_CHARS - 1] + "…"


def reason_group(reason: str | None) -> str:
    """The part of a reason before the colon: `duplicate_of:<id>` is counted as `duplicate_of`."""
    return (reason or UNKNOWN_REASON).split(":", 1)[0]


@dataclass
class Counts:
    """The number of items per fate. `merge` adds the counts of chunks; `as_dict` is the format of summary.json."""

    kept: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    error: Counter[str] = field(default_factory=Counter)

    @property
    def n_rejected(self) -> int:
        return sum(self.rejected.values())

    @property
    def n_error(self) -> int:
        return sum(self.error.values())

    @property
    def total(self) -> int:
        return self.kept + self.n_rejected + self.n_error

    def add(self, outcome: str, reason: str | None = None, n: int = 1) -> None:
        if outcome == KEPT:
            self.kept += n
        elif outcome == REJECTED:
            self.rejected[reason_group(reason)] += n
        elif outcome == ERROR:
            self.error[reason_group(reason)] += n
        else:
            raise ValueError(f"outcome {outcome!r} is not one of {OUTCOMES}")

    def merge(self, other: Counts) -> None:
        self.kept += other.kept
        self.rejected.update(other.rejected)
        self.error.update(other.error)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Counts:
        """Count rows (any mappings with `outcome` and `reason`)."""
        counts = cls()
        for row in rows:
            counts.add(row["outcome"], row["reason"])
        return counts

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Counts:
        return cls(data["kept"], Counter(data["rejected"]), Counter(data["error"]))

    def as_dict(self) -> dict[str, Any]:
        """{"in": n, "kept": n, "rejected": {reason: n}, "error": {reason: n}}"""
        return {
            "in": self.total,
            "kept": self.kept,
            "rejected": dict(sorted(self.rejected.items())),
            "error": dict(sorted(self.error.items())),
        }
