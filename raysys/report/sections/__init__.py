"""The sections of a study's report. Each is a package with functions that collect its data, and a template.

The section of an evaluation has the evaluation's name, and also a headline and sentences about its limits.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any, Protocol

from raysys.report.folder import RunFolder
from raysys.report.headline import Headline

PARTS = ("data", "captions", "training")
"""Sections of every report, in this order, below those of the evaluations."""


class Section(Protocol):
    """A part of the report. Its template, `<name>/section.html.j2`, is rendered with the result of `view`."""

    def collect(self, run: RunFolder) -> Any | None:
        """The data of the section; None if the run has none."""
        ...

    def summary(self, data: Any) -> dict[str, Any]:
        """Numbers for `summary.json`. For an evaluation: {"models": {name: …}, "references": {name: …}}."""
        ...

    def view(self, data: Any) -> dict[str, Any]:
        """The variables of the template, including plots and pictures."""
        ...


class EvaluationSection(Section, Protocol):
    """The section of an evaluation. Its second template, `<name>/result.html.j2`, is at the top of the page."""

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
