"""The first thing on a page: what the numbers say in one sentence, and why not to believe them, or not yet."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Headline:
    """`verdict` is one sentence, `numbers` the same in figures. `lower`: whether every other model is below the first;
    None where there is nothing to compare."""

    verdict: str
    numbers: str
    explanation: str
    warnings: tuple[str, ...] = ()
    lower: bool | None = None
