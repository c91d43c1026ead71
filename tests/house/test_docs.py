"""Every command in the documents and in the packaged YAML files is one that the program accepts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import click
import pytest
import yaml
from pydantic import BaseModel

from raysys.cli import cli
from raysys.cli.job import config_path, load_config
from raysys.config import load
from raysys.errors import InputError
from raysys.jobs import JOBS
from raysys.jobs.registry import CONFIGS

REPO = Path(__file__).resolve().parents[2]
DOCUMENTS = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]

PLACEHOLDERS = {
    "$SSCD_SHA256": "ab" * 32,
    "HEX": "ab" * 32,
    "…": "x",
}
"""What stands in a document where a reader puts a value of their own."""


def commands() -> Iterator[tuple[str, str]]:
    """(file, command) for `raysys …` lines of shell blocks and of the header comments of YAML files."""
    for path in DOCUMENTS:
        for block in re.findall(r"^```sh\n(.*?)^```", path.read_text(), re.S | re.M):
            for line in block.replace("\\\n", " ").splitlines():
                yield from _found(path, line)
    for path in sorted(CONFIGS.rglob("*.yaml")):
        for line in path.read_text().splitlines():
            if line.startswith("#   "):
                yield from _found(path, line[4:])


def _found(path: Path, line: str) -> Iterator[tuple[str, str]]:
    words = line.split("  #")[0].strip().removeprefix(".venv/bin/").removeprefix("RAY_AUTH_MODE=token ")
    if words.startswith("raysys "):
        yield path.relative_to(REPO).as_posix(), words


@pytest.mark.parametrize(("file", "command"), list(commands()))
def test_the_command_is_accepted(file: str, command: str) -> None:
    for placeholder, value in PLACEHOLDERS.items():
        command = command.replace(placeholder, value)
    _, name, *args = shlex.split(command)
    root = click.Context(cli, info_name="raysys")
    context = cli.get_command(root, name).make_context(name, args, parent=root)
    job = JOBS.get(context.params.get("job", name))
    if job is None:
        return
    config, overrides = context.params.get("config"), context.params["overrides"]
    if config in (None, "demo", "full"):
        load_config(job, config_path(job, config), overrides)
    else:  # a reader's own file, which is made for the same keys
        load(job.load().JobConfig, job.packaged_config("demo"), overrides)


def test_there_are_commands_to_check() -> None:
    assert len(list(commands())) > 40


# --- settings: in blocks of YAML, and named as `a.b=value` or `a.b: value` in the text ---


def yaml_blocks() -> list[tuple[str, str]]:
    """(file, text) of the YAML blocks of the documents."""
    found = [(p, text) for p in DOCUMENTS for text in re.findall(r"^```yaml\n(.*?)^```", p.read_text(), re.S | re.M)]
    return [(path.relative_to(REPO).as_posix(), text) for path, text in found]


def test_every_block_of_yaml_is_a_configuration(tmp_path: Path) -> None:
    """The first of "Captioning your own images" is a whole file; the others take the place of its captioners."""
    (_, whole), *others = yaml_blocks()
    path = tmp_path / "my_captions.yaml"
    configurations = [whole, *(yaml.safe_dump(yaml.safe_load(whole) | yaml.safe_load(part)) for _, part in others)]
    caption = JOBS["caption"]
    for text in configurations:
        path.write_text(text)
        config = load_config(caption, path, ())
        # What the file says is what is configured: nothing was left out, or meant for another place.
        said = yaml.safe_load(text)
        assert [c.name for c in config.captioners] == [c["name"] for c in said["captioners"]]
        assert [c.llm.model for c in config.captioners] == [c["llm"]["model"] for c in said["captioners"]]
    assert [yaml.safe_load(text).keys() for _, text in others] == [{"captioners"}]
    path.write_text(whole.replace("recipe:", "recepie:"))
    with pytest.raises(InputError, match="did you mean recipe"):
        load_config(caption, path, ())


SECTIONS = ("llm", "cluster", "checks", "guided", "generalize", "translate", "training", "replication", "ingest")
"""First words of keys that a document names in its text, of whatever job has them."""


def settings_in_text() -> list[tuple[str, str]]:
    """(file, key) of what stands between backquotes and looks like a key of a configuration."""
    section = "|".join(SECTIONS)
    pattern = re.compile(rf"`(?!cluster\.yaml)((?:{section})(?:\.[a-z_]+)+)(?:`|=|: )")
    found = {(p.relative_to(REPO).as_posix(), key) for p in DOCUMENTS for key in pattern.findall(p.read_text())}
    return sorted(found)


@pytest.mark.parametrize(("file", "key"), settings_in_text())
def test_the_setting_exists(file: str, key: str) -> None:
    """In some job, as a key of its configuration or of a section in it."""
    assert any(re.search(rf"(^|\.){re.escape(key)}$", known) for known in all_keys()), f"{file} names {key}"


@lru_cache
def all_keys() -> frozenset[str]:
    """Dotted keys of the configurations of all jobs; the elements of lists and mappings without their index."""
    return frozenset(key for job in JOBS.values() for key in _keys(job.load().JobConfig, ""))


def _keys(cls: type[BaseModel], before: str) -> Iterator[str]:
    for name, field in cls.model_fields.items():
        yield before + name
        for inner in _models(field.annotation):
            yield from _keys(inner, f"{before}{name}.")


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _models(inner)


def test_there_are_settings_to_check() -> None:
    assert len(settings_in_text()) > 5


def test_links_between_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert "://" in target or (path.parent / target).exists(), f"{path.name} links to {target}"
