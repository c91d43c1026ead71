"""The evaluations that a study may make: one module each, and a section of the same name in `raysys.report.sections`.

Adding one is a module here, a section there and a name in `EVALUATIONS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from raysys.config import Config
    from raysys.study.plan import Sampled, Shared
    from raysys.study.step import Step

EVALUATIONS = ("replication",)
"""In the order of the report."""


class Evaluation(Protocol):
    """What the module of an evaluation holds."""

    Settings: type[Config]
    """Its configuration. `Settings.prompts` names the prompts whose generations it measures."""

    def steps(self, settings: Any, shared: Shared, models: Sequence[Sampled]) -> list[Step]:
        """The steps that measure `models`, the first of which is the reference. Pure: no file is read.

        `Step.model` says which model a step measures; `Step.reference` names what it gives to compare with.
        """
        ...


def evaluation(name: str) -> Evaluation:
    """The module of an evaluation."""
    return importlib.import_module(f"raysys.study.evaluations.{name}")
