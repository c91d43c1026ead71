"""A config class as help text: every key with its type, default, limits and meaning."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

_LIMITS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of"}
_LENGTHS = {"min_length": "length ≥", "max_length": "length ≤"}


@dataclass(frozen=True)
class FieldHelp:
    """Help for one field: its dotted key (`models.*.seed` for lists and mappings of sections), type and default."""

    key: str
    type: str
    default: str
    """As written on the command line; "required" if there is none."""
    description: str


def fields_of(cls: type[BaseModel], prefix: str = "") -> Iterator[FieldHelp]:
    """Every field of a config class, sections flattened to dotted keys, in the order of the class."""
    for name, field in cls.model_fields.items():
        key = f"{prefix}{name}"
        section, several = _section_in(field.annotation)
        if section is None:
            yield FieldHelp(key, _with_limits(field), _default(field), field.description or "")
            continue
        if several or not isinstance(field.get_default(call_default_factory=True), BaseModel):
            yield FieldHelp(key, type_name(field.annotation), _default(field), field.description or "")
        yield from fields_of(section, f"{key}.*." if several else f"{key}.")


def format_fields(cls: type[BaseModel], width: int = 100) -> str:
    """The fields as an indented text: key, type and default on one line, the description below it."""
    blocks = []
    for field in fields_of(cls):
        default = "required" if field.default == "required" else f"default {field.default}"
        head = f"  {field.key}  ({field.type}; {default})"
        body = textwrap.fill(field.description, width, initial_indent="      ", subsequent_indent="      ")
        blocks.append(f"{head}\n{body}" if body else head)
    return "\n".join(blocks)


def type_name(annotation: Any) -> str:
    """A type as shown to users: `number`, `text`, `yes/no`, `a|b`, `list of whole number`, `… or null`."""
    simple = {int: "whole number", float: "number", str: "text", bool: "true/false", NoneType: "null", Any: "anything"}
    if annotation in simple:
        return simple[annotation]
    origin, args = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_name(args[0])
    if origin is Literal:
        return "|".join(str(a) for a in args)
    if origin in (Union, UnionType):
        return " or ".join(type_name(a) for a in args)
    if origin in (list, tuple, set, frozenset):
        inner = [type_name(a) for a in args if a is not Ellipsis]
        return f"list of {inner[0]}" if len(set(inner)) == 1 else f"list of ({', '.join(inner)})"
    if origin is dict:
        return f"mapping to {type_name(args[1])}"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {"Path": "path"}.get(getattr(annotation, "__name__", ""), getattr(annotation, "__name__", str(annotation)))


def _section_in(annotation: Any) -> tuple[type[BaseModel] | None, bool]:
    """The config class in an annotation, and whether there may be several (in a list or mapping)."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    several = get_origin(annotation) in (list, tuple, dict)
    for arg in get_args(annotation):
        section, deeper = _section_in(arg)
        if section is not None:
            return section, several or deeper
    return None, False


def _with_limits(field: FieldInfo) -> str:
    """The type with its constraints, e.g. `number, > 0, ≤ 1`."""
    parts = [type_name(field.annotation)]
    for constraint in field.metadata:
        for names in (_LIMITS, _LENGTHS):
            parts += [
                f"{words} {getattr(constraint, name)}"
                for name, words in names.items()
                if getattr(constraint, name, None) is not None
            ]
    return ", ".join(parts)


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "as below"
    if isinstance(value, (list, tuple)):
        value = [v.model_dump(mode="json") if isinstance(v, BaseModel) else v for v in value]
    elif isinstance(value, dict):
        value = {k: v.model_dump(mode="json") if isinstance(v, BaseModel) else v for k, v in value.items()}
    elif not isinstance(value, (str, int, float, bool, NoneType)):
        value = str(value)
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=10_000)
    return text.removesuffix("\n").removesuffix("\n...")
