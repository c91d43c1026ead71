"""A step: one job of a study, with its configuration and the steps that it needs."""

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
    """The job's complete configuration."""

    output: str
    """The main output folder, as given in the configuration."""

    needs: tuple[str, ...] = ()
    """Names of the steps whose outputs this step reads."""

    model: str | None = None
    """The model that the step belongs to: if the step fails, only this model fails. None = shared by all models."""

    evaluation: str | None = None
    """The evaluation that measures `model` by this step, if any."""
