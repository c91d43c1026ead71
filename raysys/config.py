"""YAML + dotted overrides → frozen, validated config objects. All mistakes are reported at once.

Precedence, once: field defaults < YAML file < `key.sub=value` on the command line.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

from raysys.errors import InputError


class _Operational:
    """The type of `OPERATIONAL`."""

    def __repr__(self) -> str:
        return "OPERATIONAL"


OPERATIONAL = _Operational()
"""Marks a field that changes how a job runs but not its results: `log_every_steps: Annotated[int, OPERATIONAL]`.
Paths are operational, too, see `Place`."""

Place = Annotated[str, OPERATIONAL]
"""A path or URL: `samples: Place`, `duplicates: Place | None`. A job's identity has the contents there instead."""


class Config(BaseModel):
    """Base class of configurations: immutable, rejects unknown keys, does not convert "3" to 3. Document fields with
    Field()."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False, validate_default=True)

    operational: ClassVar[bool] = False
    """Set on a class if all of its fields are OPERATIONAL (cluster settings)."""

    def identity(self) -> dict[str, Any]:
        """The fields that change the result, nested like the config and JSON-serializable; used for fingerprints."""
        found = {}
        for name, info in type(self).model_fields.items():
            if not is_operational(info):
                found[name] = _identity_of(getattr(self, name))
        return found


def is_operational(info: FieldInfo) -> bool:
    """Whether a field is not part of the identity: it is marked, a `Place`, or a section of an operational class."""
    if OPERATIONAL in info.metadata or getattr(_model_in(info.annotation), "operational", False):
        return True
    return _holds_the_mark(info.annotation)


def _holds_the_mark(annotation: Any) -> bool:
    """Whether OPERATIONAL occurs in the annotation, also inside `Place | None`, `tuple[Place, ...]`."""
    if get_origin(annotation) is Annotated:
        return OPERATIONAL in annotation.__metadata__
    return any(_holds_the_mark(arg) for arg in get_args(annotation))


def _identity_of(value: Any) -> Any:
    if isinstance(value, Config):
        return value.identity()
    if isinstance(value, dict):
        return {key: _identity_of(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_identity_of(item) for item in value]
    return to_jsonable_python(value)


C = TypeVar("C", bound=Config)


def load(cls: type[C], path: str | Path | None, overrides: Sequence[str] = ()) -> C:
    """Read `path` (YAML; None = defaults only), apply `a.b=value` overrides (YAML values), validate as `cls`.

    Raises InputError that lists every unknown key and wrong value with file, key, value and what is allowed.
    """
    data = {} if path is None else read_yaml(path)
    origin = str(path) if path is not None else "command line"
    overridden = set()
    for override in overrides:
        overridden.add(_apply(data, override))
    return validate(cls, data, origin, overridden)


def validate(cls: type[C], data: dict[str, Any], origin: str, overridden: Sequence[str] | set[str] = ()) -> C:
    """Validate `data` as `cls`. origin: name of the file in messages. overridden: keys from the command line."""
    try:
        return cls.model_validate(data)
    except ValidationError as exc:
        # pydantic also reports a list with an invalid item as too short: report the mistake only once.
        places = [e["loc"] for e in exc.errors()]
        inner = [e for e in exc.errors() if not any(p[: len(e["loc"])] == e["loc"] != p for p in places)]
        lines = [_explain(cls, e, origin, set(overridden)) for e in inner]
        count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''} in the configuration"
        raise InputError(count + "".join(f"\n  - {line}" for line in lines), "correct the keys above") from None


def dump(config: Config) -> str:
    """The resolved config as YAML, as saved in the run folder."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML mapping from a file. Raises InputError if it is missing, not YAML or not a mapping."""
    path = Path(path)
    if not path.is_file():
        raise InputError(f"config file {path} does not exist", "give the path of a YAML file with --config")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise InputError(f"config file {path} is not YAML: {exc}", "correct the syntax at that place") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise InputError(f"config file {path} holds a {type(data).__name__}, not a mapping", "write `key: value` lines")
    return data


def _apply(data: dict[str, Any], override: str) -> str:
    """Set one `a.b.0.c=value` in nested data (numbers index lists); return the dotted key."""
    key, sep, text = override.partition("=")
    if not sep or not key.strip():
        raise InputError(f"override {override!r} is not key=value", "write for example training.max_steps=100")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as exc:
        raise InputError(f"override {override!r}: the value is not YAML ({exc})", "quote it") from None
    parts = key.strip().split(".")
    node: Any = data
    for depth, part in enumerate(parts[:-1]):
        if isinstance(node, list):
            node = node[_list_index(node, part, override)]
        else:
            if node.get(part) is None:
                node[part] = [] if parts[depth + 1] == "0" else {}
            node = node[part]
        if not isinstance(node, (dict, list)):
            raise InputError(
                f"override {override!r}: {'.'.join(parts[: depth + 1])} is {node!r}, not a section",
                "shorten the key",
            )
    if isinstance(node, list):
        node[_list_index(node, parts[-1], override)] = value
    else:
        node[parts[-1]] = value
    return key.strip()


def _list_index(node: list, part: str, override: str) -> int:
    """The index `part` of a list, which grows by one item if the index is its length."""
    if not part.isdigit() or int(part) > len(node):
        raise InputError(f"override {override!r}: {part!r} is not an index of a list of {len(node)}", "use 0, 1, …")
    if int(part) == len(node):
        node.append({})
    return int(part)


def _explain(cls: type[BaseModel], error: dict[str, Any], origin: str, overridden: set[str]) -> str:
    loc = [str(p) for p in error["loc"]]
    key = ".".join(loc)
    from_command_line = any(o == key or o.startswith(f"{key}.") for o in overridden)
    place = "command line" if from_command_line else origin
    if error["type"] == "extra_forbidden":
        allowed = _field_names(cls, error["loc"][:-1])
        close = difflib.get_close_matches(loc[-1], allowed, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"{place}: {key}: unknown key; {hint}allowed: {', '.join(sorted(allowed))}"
    if error["type"] == "missing":
        return f"{place}: {key} is required{_meaning(cls, error['loc'])}"
    unsaid = isinstance(error["input"], dict)  # do not print whole sections
    value = "" if unsaid else f" = {error['input']!r}"
    return f"{place}: {key}{value}: {error['msg']}"


def _meaning(cls: type[BaseModel], loc: Sequence[str | int]) -> str:
    """ ": " and the description of the field at `loc`, if it has one."""
    owner = _model_at(cls, loc[:-1])
    field = getattr(owner, "model_fields", {}).get(loc[-1])
    return f": {field.description}" if field is not None and field.description else ""


def _field_names(cls: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """The fields of the (nested) model at `loc`."""
    return list(getattr(_model_at(cls, loc), "model_fields", {}))


def _model_at(cls: type[BaseModel], loc: Sequence[str | int]) -> Any:
    current: Any = cls
    for part in loc:
        fields = getattr(current, "model_fields", {})
        current = _model_in(fields[part].annotation) if part in fields else _model_in(current)
    return current


def _model_in(annotation: Any) -> Any:
    """The config class inside `X | None`, `list[X]`, `dict[str, X]`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) is not None or isinstance(annotation, UnionType) or annotation is Union:
        for arg in get_args(annotation):
            if (found := _model_in(arg)) is not None:
                return found
    return None
