"""Configuration: precedence, every mistake at once with its place, and a help text made from the class."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

from raysys.cli.config_help import fields_of, format_fields, type_name
from raysys.config import OPERATIONAL, Config, dump, load, validate
from raysys.errors import InputError


class Optimizer(Config):
    name: Literal["adamw", "came"] = Field("adamw", description="which optimizer")
    lr: float = Field(1e-4, gt=0, le=1, description="peak learning rate")


class Model(Config):
    path: str = Field(description="a folder in Hugging Face layout")
    weight: float = Field(1.0, ge=0, description="share of the mixture")


class Example(Config):
    output: str = Field(description="table to write")
    max_steps: int = Field(100, ge=1, description="optimizer steps")
    optimizer: Optimizer = Field(Optimizer(), description="section")
    models: list[Model] = Field([], description="models to mix")
    note: str | None = Field(None, description="free text")


@pytest.fixture
def yaml_file(tmp_path: Path) -> Path:
    path = tmp_path / "example.yaml"
    path.write_text("output: runs/a\nmax_steps: 7\noptimizer:\n  lr: 0.5\nmodels:\n- path: m0\n- path: m1\n")
    return path


def test_precedence_is_defaults_then_file_then_command_line(yaml_file: Path) -> None:
    config = load(Example, yaml_file, ["optimizer.lr=0.25", "models.1.weight=3"])
    assert (config.optimizer.name, config.max_steps, config.optimizer.lr) == ("adamw", 7, 0.25)
    assert [m.weight for m in config.models] == [1.0, 3.0]


def test_an_unknown_section_from_the_command_line_is_not_blamed_on_the_file(yaml_file: Path) -> None:
    with pytest.raises(InputError, match="command line: optimiser: unknown key; did you mean optimizer"):
        load(Example, yaml_file, ["optimiser.lr=1"])


def test_all_mistakes_are_reported_at_once_with_key_value_and_place(yaml_file: Path) -> None:
    yaml_file.write_text("max_step: 3\noptimizer:\n  lr: -1\n  name: sgd\nmodels:\n- pth: x\n")
    with pytest.raises(InputError) as caught:
        load(Example, yaml_file, ["note=[1]"])
    message = str(caught.value)
    assert "7 mistakes" in message
    for words in (
        f"{yaml_file}: max_step: unknown key; did you mean max_steps?",
        f"{yaml_file}: output is required",
        "optimizer.lr = -1: Input should be greater than 0",
        "optimizer.name = 'sgd': Input should be 'adamw' or 'came'",
        "models.0.pth: unknown key; did you mean path? allowed: path, weight",
        "models.0.path is required",
        "command line: note = [1]: Input should be a valid string",
    ):
        assert words in message


def test_lists_can_be_written_on_the_command_line(yaml_file: Path) -> None:
    config = load(Example, yaml_file, ["models.2.path=c", "models.2.weight=4"])
    assert [(m.path, m.weight) for m in config.models][2:] == [("c", 4.0)]
    config = load(Example, None, ["output=x", "models.0.path=a", "models.1.path=b"])
    assert [m.path for m in config.models] == ["a", "b"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("max_steps", "is not key=value"),
        ("=3", "is not key=value"),
        ("models.3.weight=1", "'3' is not an index of a list of 2"),
        ("max_steps.x=1", "max_steps is 7, not a section"),
        ("note={", "the value is not YAML"),
        ("max_steps=ten", "command line: max_steps = 'ten'"),
    ],
)
def test_a_wrong_override_says_what_is_wrong(yaml_file: Path, override: str, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("(", r"\(")):
        load(Example, yaml_file, [override])


@pytest.mark.parametrize(
    ("text", "words"), [(None, "does not exist"), ("- 1\n", "holds a list"), ("a: [\n", "is not YAML"), ("", "output")]
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "x.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=words):
        load(Example, path)


def test_a_dumped_config_loads_as_the_same_config(yaml_file: Path, tmp_path: Path) -> None:
    config = load(Example, yaml_file, ['note="größer: ja"'])
    again = tmp_path / "again.yaml"
    again.write_text(dump(config), encoding="utf-8")
    assert load(Example, again) == config


def test_a_config_cannot_be_changed(yaml_file: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load(Example, yaml_file).max_steps = 8


def test_help_lists_every_key_with_type_limits_default_and_meaning() -> None:
    assert [(f.key, f.type, f.default) for f in fields_of(Example)] == [
        ("output", "text", "required"),
        ("max_steps", "whole number, ≥ 1", "100"),
        ("optimizer.name", "adamw|came", "adamw"),
        ("optimizer.lr", "number, > 0, ≤ 1", "0.0001"),
        ("models", "list of section", "[]"),
        ("models.*.path", "text", "required"),
        ("models.*.weight", "number, ≥ 0", "1.0"),
        ("note", "text or null", "null"),
    ]
    text = format_fields(Example)
    assert "  max_steps  (whole number, ≥ 1; default 100)\n      optimizer steps\n" in text
    assert "  output  (text; required)\n      table to write\n" in text


@pytest.mark.parametrize(
    ("annotation", "name"),
    [
        (tuple[int, int], "list of whole number"),
        (tuple[float, ...], "list of number"),
        (dict[str, list[str]], "mapping to list of text"),
        (int | Literal["auto"], "whole number or auto"),
        (Path | None, "path or null"),
        (bool, "true/false"),
    ],
)
def test_types_are_named_for_people(annotation: object, name: str) -> None:
    assert type_name(annotation) == name


def test_a_mistake_inside_a_list_is_told_once(tmp_path: Path) -> None:
    class Item(Config):
        size: int = Field(ge=1, description="size")

    class Items(Config):
        items: tuple[Item, ...] = Field(min_length=1, description="items")

    with pytest.raises(InputError) as caught:
        validate(Items, {"items": [{"size": 0}]}, "a.yaml")
    assert "1 mistake in the configuration\n  - a.yaml: items.0.size = 0" in str(caught.value)


def test_identity_holds_what_changes_the_result_only() -> None:
    class Machine(Config):
        operational = True
        workers: int = 1

    class Inner(Config):
        rate: float = 0.5
        log_every: Annotated[int | None, OPERATIONAL] = Field(None, ge=1, description="steps between two lines")

    class Outer(Config):
        sizes: tuple[int, ...] = (1, 2)
        parts: dict[str, Inner] = Field(default_factory=lambda: {"a": Inner()})
        machine: Machine | None = Machine()

    assert Outer().identity() == {"sizes": [1, 2], "parts": {"a": {"rate": 0.5}}}
    assert Outer(machine={"workers": 4}).identity() == Outer(machine=None).identity() == Outer().identity()
    with pytest.raises(ValidationError):
        Inner(log_every=0)
