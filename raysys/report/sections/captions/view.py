"""The captions section of a report: pictures, plot, and a one-line summary of the generality scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from raysys.language.generality import REFERENCE
from raysys.report.data import ImageOf
from raysys.report.images import Picture, pictures
from raysys.report.plots import Generality, generality_plot
from raysys.report.sections.captions.data import CaptionExample, CaptionsReport, CaptionText, LevelScores
from raysys.report.text import number, plain

N_OPEN = 2
"""Examples that are not folded; the report is not primarily about captions."""

EXAMPLES_BUDGET_BYTES = 300_000
"""With this, the gallery and the clusters, the page stays below 5 MB."""

PAPER = ", ".join(f"{plain(name)} {number(value)}" for name, value in REFERENCE.items())
"""The paper's mean GS of original and generalized captions, in words."""


@dataclass(frozen=True)
class Example:
    """An example with its picture."""

    name: str
    picture: Picture
    captions: tuple[CaptionText, ...]


def view(report: CaptionsReport) -> dict[str, Any]:
    """Variables of `section.html.j2`."""
    learned: dict[str, list[str]] = {}
    for model, kind in report.learned.items():
        learned.setdefault(kind, []).append(model)
    return {
        "report": report,
        "learned": learned if len(learned) > 1 else {},
        "examples": _with_pictures(report.examples, report.training_image),
        "plot": _plot(report.scores),
        "n_open": N_OPEN,
        "paper": PAPER,
    }


def scores_in_words(scores: Sequence[LevelScores]) -> str:
    """`general 4.31 → 6.02 (512 captions), five words …`; "" if no caption was kept."""
    return ", ".join(
        f"{plain(s.level)} {number(s.gs_before, 2)} → {number(s.gs_after, 2)} ({s.n:,} captions)" for s in scores if s.n
    )


def _with_pictures(examples: Sequence[CaptionExample], training_image: ImageOf) -> list[Example]:
    shown = pictures([(training_image, example.name) for example in examples], EXAMPLES_BUDGET_BYTES)
    return [Example(example.name, picture, example.captions) for example, picture in zip(examples, shown, strict=True)]


def _plot(scores: Sequence[LevelScores]) -> Markup | None:
    rows = [
        Generality(
            plain(s.level),
            s.before,
            s.after,
            (s.gs_before, s.gs_after),
            (REFERENCE["original"], REFERENCE[s.level]),
        )
        for s in scores
        if s.gs_before is not None and s.gs_after is not None
    ]
    if not rows:
        return None
    words = f"Generality score before and after generalization, means: {scores_in_words(scores)}. The paper: {PAPER}."
    return generality_plot(rows, words)
