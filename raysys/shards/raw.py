"""One item of an input before it is checked: the location of its image, its caption and metadata as stored."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raysys.shards.licenses import is_license_field

# fmt: off
IMAGE_EXTENSIONS = (
    "jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "jpe", "jfif", "avif", "heic", "heif", "hif",
)
# fmt: on
REFUSED_IMAGE_EXTENSIONS = ("jxl", "jp2", "ppm", "pgm", "pbm", "pnm", "psd", "svg")
"""Image formats that cannot be decoded: such files become rejected rows instead of being ignored."""

MAX_TEXT_BYTES = 4 * 2**20
"""A caption or JSON file larger than this is not read."""


@dataclass
class RawItem:
    """read_image: called at most once, and only if `length` is within the limits. facts: the source's fields by name.
    metadata: the source's JSON text. fate: set if the source reader has already determined it."""

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
    missing: str | None = None  # the reason why there is no image
    fate: dict[str, str | None] | None = None


def printable(text: str) -> str:
    """Text that can be encoded as UTF-8: lone surrogates are replaced by \\udcNN."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def is_utf8(text: str) -> bool:
    """Whether the text has no lone surrogates, which come from undecodable bytes in file names and CSV files, or from
    broken JSON escapes."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def first_of(facts: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    """The first fact that exists and is not null; names are case-insensitive."""
    lowered = {str(k).lower(): v for k, v in facts.items()}
    return next((lowered[n] for n in names if lowered.get(n) is not None), None)


def facts_as_json(facts: Mapping[str, Any]) -> str:
    """The facts of a source without JSON (Parquet, CSV) as JSON text."""
    return json.dumps(facts, ensure_ascii=True, default=str)


def facts_from_json(text: str) -> Any:
    """As `json.loads`, but keeps all values of repeated license fields; for other repeated names, the last value.

    Raises ValueError if the text is not JSON.
    """
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        for name in filter(is_license_field, found):
            values = [value for key, value in pairs if key == name]
            found[name] = values if len(values) > 1 else values[0]
    return found
