"""A step: one job of a study, with its configuration and the steps that must be done before it."""

from __future__ import annotations

from dataclasses import dataclass

from raysys.config import Config


@dataclass(frozen=True)
class Step:
    """One job of a study."""

    name: str
    """Unique in the study, e.g. `train mitigated`."""

    job: str
    """The job's name on the command line."""

    config: Config
    """The job's own configuration, complete."""

    output: str
    """The main output: a folder, as the configuration names it."""

    needs: tuple[str, ...] = ()
    """Names of the steps whose outputs it reads."""

    model: str | None = None
    """The model that it works for; None = it is shared. When it fails, only this model fails."""

    evaluation: str | None = None
    """The evaluation that it belongs to."""

    reference: str | None = None
    """Of an evaluation: what it gives to compare all models with; None = the model's own measurement."""
