"""The top of a page: what the numbers say in one sentence, and warnings about their interpretation."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Headline:
    """verdict: one sentence; numbers: the same in figures. lower: whether every other model is below the first; None if
    there is nothing to compare."""

    verdict: str
    numbers: str
    explanation: str
    warnings: tuple[str, ...] = ()
    lower: bool | None = None
