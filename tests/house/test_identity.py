"""One rule for what changes a result: a config field says it itself, and nobody makes a list of exceptions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from raysys.config import Config, Place, is_operational, load
from raysys.jobs import JOBS
from raysys.jobs.registry import JobInfo

REPO = Path(__file__).resolve().parents[2]

NOT_OURS = {"study", "pipeline", "report", "train-diffusion"}
"""They have no fingerprint: they write what the other jobs write, each with its own."""

PATHS = {"output", "samples", "duplicates", "captions", "latents", "text_states", "features", "input", "prompts"} | {
    *("images", "generated", "training", "held_out", "training_set"),
}
"""Keys of jobs under which a table or folder is named."""


def sections(config: type[BaseModel], key: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """(dotted key, field) of every field below a config class that is not operational itself."""
    for name, info in config.model_fields.items():
        yield f"{key}{name}", info
        inner = _config_in(info.annotation)
        if inner is not None and not is_operational(info):
            yield from sections(inner, f"{key}{name}.")


def _config_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for arg in getattr(annotation, "__args__", ()) if (found := _config_in(arg))), None)


def keys_of(identity: Any, key: str = "") -> set[str]:
    if not isinstance(identity, dict):
        return {key.rstrip(".")}
    return {key.rstrip(".")} | {found for name, value in identity.items() for found in keys_of(value, f"{key}{name}.")}


@pytest.mark.parametrize("job", [job for job in JOBS.values() if job.name not in NOT_OURS], ids=lambda j: j.name)
def test_every_field_is_in_the_identity_or_says_why_not(job: JobInfo) -> None:
    config = load(job.load().JobConfig, job.packaged_config("demo"))
    identity = keys_of(config.identity())
    for key, info in sections(type(config)):
        is_there = all(isinstance(_value(config.identity(), part), dict) for part in _parents(key))
        assert key in identity or is_operational(info) or not is_there, key
        if key in PATHS and _config_in(info.annotation) is None:
            assert is_operational(info), f"{job.name}: {key} is a path: its contents count, not where they lie"


def _value(identity: Any, key: str) -> Any:
    for part in key.split("."):
        identity = identity.get(part) if isinstance(identity, dict) else None
    return identity


def _parents(key: str) -> list[str]:
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


@pytest.mark.parametrize("job", [job for job in JOBS.values() if job.name not in NOT_OURS], ids=lambda j: j.name)
def test_places_and_the_cluster_change_no_identity(job: JobInfo) -> None:
    cls = job.load().JobConfig
    path = job.packaged_config("demo")
    fields = cls.model_fields
    elsewhere = ["output=elsewhere"] if "output" in fields else []
    cluster = ["cluster.progress_interval_s=9"] if "progress_interval_s" in str(fields.get("cluster")) else []
    assert load(cls, path, [*elsewhere, *cluster]).identity() == load(cls, path).identity()


def test_no_list_of_exceptions_is_written_anywhere() -> None:
    found = [
        f"{path.relative_to(REPO)}: {line.strip()}"
        for path in sorted((REPO / "raysys").rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(r"model_dump(_json)?\([^)]*exclude", line)
    ]
    assert found == [], "mark the field OPERATIONAL (or Place), and use identity()"


def test_places_may_be_optional_or_several() -> None:
    class Job(Config):
        one: Place = "a"
        maybe: Place | None = None
        many: tuple[Place, ...] = ()
        seed: int = 0

    assert Job(one="b", maybe="c", many=("d",)).identity() == {"seed": 0}
