"""How the command line and studies find a job: its name, its module and its packaged configurations."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from raysys.errors import InputError

if TYPE_CHECKING:
    from raysys.config import Config
    from raysys.jobs.options import RunOptions
    from raysys.tables.results import Plan, Summary

CONFIGS = Path(__file__).parent / "configs"
"""The packaged configurations: <job>/demo.yaml and <job>/full.yaml."""


class JobModule(Protocol):
    """The interface of a job module."""

    JobConfig: type[Config]

    def run(self, config: Config, options: RunOptions) -> Plan | Summary: ...


@dataclass(frozen=True)
class JobInfo:
    """A job's name on the command line, its module, one line of help and one example command."""

    name: str
    module: str
    help: str
    example: str
    has_only: bool = False
    """Whether `--only NAME` chooses models."""

    def load(self) -> JobModule:
        """Import the module. Heavy libraries are imported here, not for `raysys --help`."""
        return importlib.import_module(self.module)

    def packaged_config(self, name: str) -> Path:
        """Path of the packaged `demo` or `full` configuration. Raises InputError if the job does not have it."""
        path = CONFIGS / self.name / f"{name}.yaml"
        if not path.is_file():
            have = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
            raise InputError(
                f"{self.name} has no packaged config {name!r} (it has: {have})", "give a YAML file with --config"
            )
        return path
