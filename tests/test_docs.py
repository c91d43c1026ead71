"""Every command in the documents and in the packaged YAML files is one that the program accepts."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from raysys.cli import cli
from raysys.cli_job import config_path, load_config
from raysys.jobs import CONFIGS, JOBS

REPO = Path(__file__).resolve().parent.parent
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
    config = context.params.get("config")
    if job is not None and (config in (None, "demo", "full")):
        load_config(job, config_path(job, config), context.params["overrides"])


def test_there_are_commands_to_check() -> None:
    assert len(list(commands())) > 40


def test_links_between_documents_lead_somewhere() -> None:
    for path in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text()):
            assert "://" in target or (path.parent / target).exists(), f"{path.name} links to {target}"
