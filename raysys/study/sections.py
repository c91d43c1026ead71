"""Sections of a study's configuration: a job's configuration without its paths, which the study fills in."""

from __future__ import annotations

from typing import Any

from pydantic import create_model

from raysys.config import Config, validate


def section_of(job_config: type[Config], *left_out: str, **changed: tuple[Any, Any]) -> type[Config]:
    """A configuration class with the fields of `job_config` except `left_out`.

    changed: {name: (type, Field)}, fields to add or replace. Validators of the whole class do not run here; they run
    when `configure` makes the job's configuration.
    """
    fields = {
        name: (info.annotation, info)
        for name, info in job_config.model_fields.items()
        if name not in left_out and name not in changed
    }
    name = f"{job_config.__module__.rpartition('.')[2].title().replace('_', '')}Section"
    return create_model(name, __base__=Config, __doc__=job_config.__doc__, **fields, **changed)


def configure(job_config: type[Config], section: Config | None, origin: str, **given: Any) -> Any:
    """The configuration of a job: the values set in `section`, overridden by `given`; the job's defaults otherwise.

    Fields of the section that the job does not have belong to the study and are dropped. Raises InputError, naming
    `origin` (the section's key in the study), if the result is not valid for the job.
    """
    data = {} if section is None else as_set(section)
    data = {name: value for name, value in data.items() if name in job_config.model_fields}
    return validate(job_config, merged(data, _plain(given)), origin)


def is_set(section: Config, *names: str) -> bool:
    """Whether the field at `names` (a path into nested sections) was set explicitly."""
    for name in names:
        if name not in section.model_fields_set:
            return False
        section = getattr(section, name)
    return True


def as_set(section: Config) -> dict[str, Any]:
    """The explicitly set fields as nested plain mappings, without defaults."""
    return {name: _plain(getattr(section, name)) for name in section.model_fields_set}


def _plain(value: Any) -> Any:
    if isinstance(value, Config):
        return as_set(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def merged(below: Any, above: Any) -> Any:
    """Merge `above` over `below`: mappings recursively; everything else, including lists, is replaced."""
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return below | {key: merged(below[key], value) if key in below else value for key, value in above.items()}
