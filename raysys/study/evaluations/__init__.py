"""The evaluations of a study: one module each, with a section of the same name in `raysys.report.sections`.

To add one, add a module here, a section there and a name to `EVALUATIONS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from raysys.config import Config
    from raysys.study.shared import Sampled, Shared
    from raysys.study.step import Step

EVALUATIONS = ("replication",)
"""In the order of the report."""


class Evaluation(Protocol):
    """The interface of an evaluation's module."""

    Settings: type[Config]
    """The configuration. `Settings.prompts` names the prompts whose generations are measured."""

    def steps(self, settings: Any, shared: Shared, models: Sequence[Sampled]) -> list[Step]:
        """The steps that measure `models`, the first of which is the reference. Must not read files.

        A step that measures a model has `Step.model` and `Step.evaluation`; other steps make what several models need.
        """
        ...


def evaluation(name: str) -> Evaluation:
    """The module of an evaluation."""
    return importlib.import_module(f"raysys.study.evaluations.{name}")
