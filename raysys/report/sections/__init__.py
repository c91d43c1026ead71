"""The sections of a study's report. Each is a package with what it collects, what it says in numbers, and its template.

An evaluation's section has the evaluation's name, and two things more: a headline, and what its numbers do not show.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from raysys.report.folder import RunFolder
from raysys.report.headline import Headline

PARTS = ("data", "captions", "training")
"""Sections of every report, below those of the evaluations, in this order."""


class Section(Protocol):
    """A part of the report. Its template is `<name>/section.html.j2` and sees what `view` returns."""

    def collect(self, run: RunFolder) -> Any | None:
        """What the section shows; None when the run has nothing of it."""
        ...

    def summary(self, data: Any) -> dict[str, Any]:
        """The same in numbers, for `summary.json`. An evaluation's: {"models": {name: …}, "references": {name: …}}."""
        ...

    def view(self, data: Any) -> dict[str, Any]:
        """Plots and pictures: the variables of the template."""
        ...


class EvaluationSection(Section, Protocol):
    """The section of an evaluation. `<name>/result.html.j2` stands at the top of the page."""

    def headline(self, data: Any) -> Headline: ...

    def measured(self, data: Any) -> Sequence[str]:
        """Names of the models that have a result."""
        ...

    def limits(self, data: Any) -> Sequence[str]:
        """Sentences for "What this does not show"."""
        ...

    def table(self, data: Any) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """(column titles, rows) for the terminal."""
        ...


def section(name: str) -> Any:
    """The package of a section."""
    return importlib.import_module(f"raysys.report.sections.{name}")
