"""The license of an image, with the evidence, and the check against an allow-list.

Ids follow SPDX (CC0-1.0, CC-BY-4.0 …); a statement that is not understood is `unknown`. Of all statements about an
image the strictest applies, and `unknown` is the strictest of all. Single statements are parsed by `license_text`.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from raysys.shards.license_text import ALL_RIGHTS_RESERVED, UNKNOWN, ids_in, is_name

DEFAULT_ALLOWED = ("CC0", "CC-BY")
"""License families. For public-domain collections, "PDM", "NoC-US" or "NKC" must be added explicitly: these are
statements of somebody else about an image, not licenses by its author."""

NOT_ALLOWED, NOT_KNOWN = LICENSE_REASONS = ("license_not_allowed", "license_unknown")
"""The reasons for which ingest rejects an intact image because of its license."""

# fmt: off
FIELDS = frozenset((
    "license", "licenses", "licenseurl", "licenseuri", "licenselink", "licenseid", "licensename", "licensetitle",
    "licenseshortname", "licensetype", "licensetext", "licensecode", "cclicense", "usageterms", "usagerights",
    "rights", "dcrights", "rightsurl", "rightsuri", "rightsstatement", "copyright", "copyrightnotice", "imagecopyright",
))
# fmt: on
"""Metadata keys of license statements, in lower case, without separators, with `licence` spelled `license`."""

_RELATED_FIELD = re.compile(
    rf"(?:{'|'.join(sorted(FIELDS, key=len, reverse=True))}|webstatement)\d*$|"
    r"^(?:license|rights|copyright)s?(?:terms|info|information|statement|text|notes?|notice|conditions|restrictions?|"
    r"details?)\d*$"
)
"""License keys, also with a namespace (EXIF:Copyright), a prefix (image_license) or a suffix (license_2)."""

_NAME_KEYS = {"author", "artist", "creator", "photographer", "attribution", "credit", "owner", "holder", "copyright"}
"""Keys whose value may be just a name, of the author or the owner."""
_NUMBER_KEYS = {"id", "version", "code", "year"}
"""Keys in a structured statement whose numeric values are ignored."""
_OTHER_KEYS = {"lang", "language", "source", "hidden"}
"""Keys in a structured statement that are not about rights, unless their value names a license."""

_FAMILIES_BY_STRICTNESS = (
    "CC0",
    "PDM",
    "NoC-US",
    "NKC",
    "US-GOV",
    "CC-BY",
    "CC-BY-SA",
    "CC-BY-ND",
    "CC-BY-NC",
    "CC-BY-NC-SA",
    "CC-BY-NC-ND",
    "Unsplash",
    "Pexels",
    "Pixabay",
    ALL_RIGHTS_RESERVED,
    UNKNOWN,
)
_RANK = {family: rank for rank, family in enumerate(_FAMILIES_BY_STRICTNESS)}


def normalize(evidence: Mapping[str, Any], own_field: str | None = None) -> tuple[str, str | None]:
    """The license according to an image's metadata, and the statement that determines it.

    own_field: a further field at the top level that states the license of the image; upper and lower case are the same.

    Returns (id, "<field>=<value>"), where the field of a structured value is a path ("license.name"). The strictest
    statement applies; one that is not understood makes the license `unknown`. Credit lines and empty values are not
    statements. A number (an index into a list that the image does not include) counts only if it is the only statement.
    Without a statement, the result is ("unknown", None).

    Only license fields (`FIELDS`) at the top level of the metadata are the image's own. Nested license fields, also
    those in a JSON text, and fields with a namespace or a prefix (EXIF:Copyright, image_license) may be about a page or
    a data set: they can make the license stricter, but cannot grant one.
    """
    statements = list(_statements(evidence, own_field))
    own = [s for s in statements if s.is_own]
    counted = [s for s in statements if s.license is not None]
    if not any(s.is_own for s in counted):
        return (UNKNOWN, own[0].evidence) if own else (UNKNOWN, None)
    strict = max(counted, key=lambda s: _strictness(s.license or UNKNOWN))
    return strict.license or UNKNOWN, strict.evidence


@dataclass(frozen=True)
class _Statement:
    """license: None for a bare number. is_own: whether it can grant a license."""

    evidence: str
    license: str | None
    is_own: bool


def _statements(evidence: Mapping[str, Any], own_field: str | None) -> Iterator[_Statement]:
    """All statements in the metadata, in order. Not recursive, because JSON may be nested too deeply for the stack."""
    own = None if own_field is None else own_field.lower()
    names = [(key, "license" if key.lower() == own else key) for key in map(str, evidence)]
    values = zip(names, evidence.values(), strict=True)
    todo = [_Value.of(key, field, value, is_top_level=True) for (key, field), value in values][::-1]
    while todo:
        item = todo.pop()
        if (parsed := _parsed_json(item.value)) is not None:
            todo.append(replace(item, value=parsed, is_own=False))
            if not item.is_own:
                continue
        if isinstance(item.value, Mapping):
            todo += [item.inner(str(key), value) for key, value in item.value.items()][::-1]
        elif isinstance(item.value, list | tuple):
            todo += [item.element(i, value) for i, value in enumerate(item.value)][::-1]
        elif item.is_stated and (statement := item.statement()) is not None:
            yield statement


def _parsed_json(value: Any) -> Any:
    """The object or the list in a text of JSON, with all values of a repeated key; None if the value is not one."""
    if not isinstance(value, str | bytes):
        return None
    text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else value).strip()
    if not text.startswith(("{", "[")):
        return None
    try:
        return json.loads(text, object_pairs_hook=_all_pairs)
    except (ValueError, RecursionError):
        return None


def _all_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, list[Any]] = {}
    for key, value in pairs:
        found.setdefault(key, []).append(value)
    return {key: values if len(values) > 1 else values[0] for key, values in found.items()}


@dataclass(frozen=True)
class _Value:
    """A value in the metadata. path: its location. key: the last name on the path.

    is_stated: whether it is in a license field. is_own: whether it can grant a license. is_text_only: whether numbers
    and booleans are ignored, because the field is only known to be related to licenses (license_checked=true).
    """

    path: str
    key: str
    value: Any
    is_stated: bool
    is_own: bool
    is_text_only: bool

    @classmethod
    def of(cls, path: str, key: str, value: Any, is_top_level: bool = False) -> _Value:
        is_field = _squashed(key) in FIELDS
        return cls(path, key, value, is_license_field(key), is_top_level and is_field, not is_field)

    def inner(self, key: str, value: Any) -> _Value:
        found = _Value.of(f"{self.path}.{key}", key, value)
        if not self.is_stated:
            return found
        return replace(found, is_stated=True, is_own=self.is_own, is_text_only=self.is_text_only and found.is_text_only)

    def element(self, index: int, value: Any) -> _Value:
        return replace(self, path=f"{self.path}.{index}", value=value)

    def statement(self) -> _Statement | None:
        """The statement in this value; None if it says nothing about a license."""
        value, key = self.value, _squashed(self.key)
        text = (value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)).strip()
        if value is None or not text or (isinstance(value, float) and math.isnan(value)):
            return None
        is_text = isinstance(value, str | bytes)
        is_name_key = key in _NAME_KEYS or (not self.is_own and "copyright" in key)
        ids: tuple[str, ...] = (UNKNOWN,)
        if is_text:
            ids = () if is_name_key and is_name(text) else ids_in(text)
            if not ids:
                return None
        is_number = not isinstance(value, bool) and re.fullmatch(r"\d+(\.\d+)?", text)
        if self.is_text_only and (is_number or not is_text):
            return None
        if key in _OTHER_KEYS:
            is_license = is_text and set(ids) != {UNKNOWN}
            return _Statement(f"{self.path}={text}", strictest(ids), False) if is_license else None
        if is_number and (key in _NUMBER_KEYS or key in FIELDS):
            return _Statement(f"{self.path}={text}", None, self.is_own)
        return _Statement(f"{self.path}={text}", strictest(ids), self.is_own)


def is_license_field(key: Any) -> bool:
    """Whether a metadata key or a column holds license statements, e.g. License_URL, EXIF:Copyright, image_license."""
    return _RELATED_FIELD.search(_squashed(key)) is not None


def _squashed(key: Any) -> str:
    return re.sub(r"[\W_]+", "", str(key).lower()).replace("licence", "license")


def parse(text: str) -> str:
    """The strictest license that one statement names; `unknown` if a part of it is not understood.

    >>> parse("https://creativecommons.org/licenses/by/4.0/"), parse("CC BY-NC 2.0"), parse("see website")
    ('CC-BY-4.0', 'CC-BY-NC-2.0', 'unknown')
    """
    return strictest(ids_in(text))


def refusal(license: str, allowed: Iterable[str]) -> str | None:
    """The reason for rejecting a license; None if the allow-list covers it."""
    if is_allowed(license, allowed):
        return None
    return NOT_KNOWN if license == UNKNOWN else NOT_ALLOWED


def family(license: str) -> str:
    """The id without its version: CC-BY-4.0 → CC-BY, CC0-1.0 → CC0."""
    return re.sub(r"-\d\.\d$", "", license)


def is_allowed(license: str, allowed: Iterable[str]) -> bool:
    """Whether `allowed` has the license or its family. "CC-BY" does not cover CC-BY-SA; `unknown` is never allowed."""
    allowed = set(allowed)
    return license != UNKNOWN and (license in allowed or family(license) in allowed)


def strictest(licenses: Iterable[str]) -> str:
    """The license that applies to an image with several: `unknown` is the strictest, CC0 the least strict.

    In the same family, the lower version (older terms), then the name decides, so the order of the sources does not
    matter.
    """
    return max(licenses, key=_strictness, default=UNKNOWN)


def known_families() -> tuple[str, ...]:
    """All families that an allow-list may contain, least strict first."""
    return _FAMILIES_BY_STRICTNESS[:-1]


def _strictness(license: str) -> tuple[int, float, str]:
    version = re.search(r"-(\d\.\d)$", license)
    return _RANK.get(family(license), _RANK[UNKNOWN]), -float(version[1]) if version else 0.0, license
