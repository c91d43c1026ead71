"""One item of an input before it is judged: where its image is, its caption and metadata as stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raysys.shards.licenses import is_license_field

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jpe", "jfif")
REFUSED_IMAGE_EXTENSIONS = ("heic", "heif", "avif", "jxl", "psd", "svg")
"""Images too, but of formats that decoding refuses: they become rejected rows instead of vanishing."""

MAX_TEXT_BYTES = 4 * 2**20
"""A caption or JSON file larger than this is not read."""


@dataclass
class RawItem:
    """`read_image` is called at most once, only when `length` is within the limits. `facts` are the source's fields
    by name; `metadata` the source's own JSON text. `fate` is set when the source itself already decided it."""

    key: str  # unique in the input file
    source_key: str | None
    shard: str
    member: str | None = None
    offset: int | None = None
    length: int | None = None
    read_image: Callable[[], bytes] | None = None
    caption: str | bytes | None = None
    metadata: str | bytes | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    missing: str | None = None  # why there is no image
    fate: dict[str, str | None] | None = None


def printable(text: str) -> str:
    """Text that every UTF-8 column can hold: lone surrogates become \\udcNN."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_utf8(text: str) -> bool:
    """False for text with lone surrogates: undecodable bytes of file names and CSV files, or broken JSON escapes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def first_of(facts: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first fact that is there and not null; names are compared in lower case."""
    lowered = {str(k).lower(): v for k, v in facts.items()}
    return next((lowered[n] for n in names if lowered.get(n) is not None), None)


def facts_as_json(facts: Mapping[str, Any]) -> str:
    """Facts of a source that has no JSON of its own (Parquet, CSV)."""
    return json.dumps(facts, ensure_ascii=True, default=str)


def facts_from_json(text: str) -> Any:
    """`json.loads` that keeps every value of a license field given twice; of other names the last value counts.

    Raises ValueError on text that is not JSON.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for name in filter(is_license_field, found):
            values = [value for key, value in pairs if key == name]
            found[name] = values if len(values) > 1 else values[0]
    return found
