"""Items of an input file → SAMPLES rows: exactly one row per item, in order, kept or rejected with a reason.

The reason of a rejected row is the first that applies of: truncated source, unsafe entry, no image, too many bytes,
text, license, image. The image is read (and its `sample_id` computed) before text and license are checked, so that
copies of an image that was rejected for its license are recognized. Original bytes are referenced or copied, never
re-encoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field, field_validator

from raysys import outcomes
from raysys.config import Config
from raysys.rows import SAMPLES
from raysys.shards import arrow, folder, index, parquet, webdataset
from raysys.shards.columns import CAPTION_FIELDS, URL_FIELDS, ColumnsConfig
from raysys.shards.decode import DecodeConfig, ImageFacts, Rejection, check_image
from raysys.shards.inputs import InputFile
from raysys.shards.licenses import (
    DEFAULT_ALLOWED,
    LICENSE_REASONS,
    UNKNOWN,
    family,
    known_families,
    normalize,
    parse,
    refusal,
)
from raysys.shards.raw import RawItem, facts_from_json, first_of, is_utf8, printable


class IngestConfig(Config):
    """Which items are kept."""

    columns: ColumnsConfig = Field(ColumnsConfig(), description="names of columns and of JSON fields")
    decode: DecodeConfig = Field(DecodeConfig(), description="limits on image files")
    max_aspect_ratio: float | None = Field(
        None, ge=1, description="reject images whose longer side is more than this many times the shorter; null = keep"
    )
    allowed_licenses: tuple[str, ...] = Field(
        DEFAULT_ALLOWED,
        description='allowed license families ("CC-BY": every version) or ids ("CC-BY-4.0"); others are rejected',
    )
    check_licenses: bool = Field(True, description="false = accept every license, for data that were cleared elsewhere")
    declared_license: str | None = Field(
        None,
        description="license that you, as the owner, declare for items without a license statement (CC0-1.0, "
        "CC-BY-4.0 …); the declaration is recorded as the evidence",
    )
    require_caption: bool = Field(True, description="false = keep images without a caption, to be captioned later")
    materialize: bool = Field(False, description="copy the original bytes into the table instead of referencing them")

    @field_validator("allowed_licenses")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [v for v in value if family(v) not in known_families()]:
            raise ValueError(f"unknown licenses {unknown}; known families: {', '.join(known_families())}")
        return value

    @field_validator("declared_license")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is not None and family(parse(value)) not in known_families():
            raise ValueError(f"{value!r} is not a known license; known families: {', '.join(known_families())}")
        return value


def ingest_rows(file: InputFile, start: int, stop: int, config: IngestConfig) -> Iterator[dict[str, Any]]:
    """One SAMPLES row for each item in [start, stop) of `file`, in order.

    Raises ValueError if the file has changed since it was listed.
    """
    count = 0
    for item in _read_items(file, start, stop, config.columns):
        count += 1
        yield _judge(f"{printable(file.source)}/{item.key}", item, config)
    if count != min(stop, file.n_items) - start:
        raise ValueError(
            f"{file.path} has changed since it was listed with {file.n_items} items: [{start}, {stop}) has {count}"
        )


def advice(rejected: Collection[str]) -> tuple[str, ...]:
    """What to do if nothing was kept for these reasons, as with photographs of one's own."""
    found = []
    if "empty_caption" in rejected:
        found.append(
            "note: rows without a caption are rejected; to caption them later, set ingest.require_caption=false"
        )
    if {"empty_caption", *LICENSE_REASONS} & set(rejected):  # the license is checked after the caption
        found.append(
            "note: rows without an allowed license are rejected; for your own images, state their license with "
            "ingest.declared_license=CC-BY-4.0; if licenses were checked elsewhere, set ingest.check_licenses=false"
        )
    return tuple(found)


BYTES_PER_CORE_SECOND = 25e6
SECONDS_PER_ITEM = 0.0015
"""For JPEG photographs of 256 to 512 px, 37 kB each: 0.7 ms on an idle core of a server, 1.5 ms on a shared one."""
SECONDS_PER_INDEX_ROW = 0.01
"""The size of an image that an index names is not known before it is read: 250 kB."""


def core_seconds(files: Sequence[InputFile]) -> float:
    """A rough estimate of the work on all items, on one core."""
    per_item = {"index": SECONDS_PER_INDEX_ROW}
    return sum(
        max(f.n_bytes / BYTES_PER_CORE_SECOND, f.n_items * per_item.get(f.kind, SECONDS_PER_ITEM)) for f in files
    )


def _read_items(file: InputFile, start: int, stop: int, columns: ColumnsConfig) -> Iterator[RawItem]:
    if file.kind == "webdataset":
        return webdataset.read_items(file.path, start, stop, file.signature)
    if file.kind == "folder":
        return folder.read_items(file.path, file.items, start, stop)
    if file.kind == "index":
        return index.read_items(file.path, file.span, start, stop, columns)
    module = parquet if file.kind == "parquet" else arrow
    return module.read_items(file.path, start, stop, columns)


def _judge(row_id: str, item: RawItem, config: IngestConfig) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(SAMPLES.schema.names) | {
        "row_id": row_id,
        "source_key": item.source_key,
        "shard": item.shard,
        "member": item.member,
        "offset": item.offset,
        "length": item.length,
        "license": UNKNOWN,
    }
    data, fate = _image_bytes(item, config.decode)
    if data is not None:
        row["sample_id"] = hashlib.sha256(data).hexdigest()
        row["image"] = data if config.materialize else None
    # Text and license are recorded even if the image is bad, so that reports can show what was lost.
    described = _describe(item, config, row)
    fate = fate or described
    if fate is None and data is not None:
        facts = check_image(data, config.decode)
        if isinstance(facts, Rejection):
            fate = facts.fate()
        else:
            row |= {"format": facts.format, "width": facts.width, "height": facts.height}
            fate = _shape_problem(facts, config.max_aspect_ratio)
    return row | (fate or outcomes.kept())


def _shape_problem(facts: ImageFacts, max_aspect_ratio: float | None) -> dict | None:
    longer, shorter = max(facts.width, facts.height), min(facts.width, facts.height)
    if max_aspect_ratio is None or longer <= max_aspect_ratio * shorter:
        return None
    ratio = f"{longer / shorter:.2f}"
    return outcomes.rejected("aspect_ratio", f"{facts.width}x{facts.height} px, {ratio} > {max_aspect_ratio:g}")


def _image_bytes(item: RawItem, limits: DecodeConfig) -> tuple[bytes | None, dict | None]:
    """(bytes, None), or (None, fate)."""
    if item.fate is not None:
        return None, item.fate
    if item.read_image is None:
        return None, outcomes.rejected("no_image", item.missing)
    if item.length is not None and item.length > limits.max_bytes:
        return None, outcomes.rejected("too_large", f"{item.length} bytes > {limits.max_bytes}")
    try:
        return item.read_image(), None
    except OSError as exc:
        return None, outcomes.error_from("read", exc)


def _describe(item: RawItem, config: IngestConfig, row: dict[str, Any]) -> dict | None:
    """Set metadata, caption, url and license of the row; return a fate if one of them is bad, else None."""
    metadata, facts, problem = _facts(item)
    row["metadata"] = metadata
    row["url"] = _optional_text(first_of(facts, config.columns.named("url", URL_FIELDS)))
    license, evidence = normalize(facts, config.columns.license)
    if evidence is None and config.declared_license is not None:
        license, evidence = parse(config.declared_license), f"declared_license={config.declared_license}"
    row |= {"license": license, "license_evidence": _optional_text(evidence)}
    caption, caption_problem = _caption(item, facts, config.columns)
    row["caption"] = caption
    if problem is not None:
        return outcomes.rejected("undecodable_metadata", problem)
    if caption_problem is not None:
        return outcomes.rejected("undecodable_text", caption_problem)
    if not caption and config.require_caption:
        return outcomes.rejected("empty_caption", "no caption" if caption is None else "the caption is blank")
    if config.check_licenses and (reason := refusal(license, config.allowed_licenses)) is not None:
        return outcomes.rejected(reason, row["license_evidence"] or "no license statement")
    return None


def _facts(item: RawItem) -> tuple[str | None, Mapping[str, Any], str | None]:
    """(metadata text, fields, problem) from the source's JSON, or from the fields of a table source."""
    if item.facts or item.metadata is None:
        return (None if item.metadata is None else str(item.metadata)), item.facts, None
    try:
        text = item.metadata.decode("utf-8-sig") if isinstance(item.metadata, bytes) else item.metadata
        facts = facts_from_json(text)
    except UnicodeDecodeError as exc:
        return None, {}, f"the JSON is not UTF-8: {exc}"
    except (ValueError, RecursionError) as exc:
        return printable(text), {}, f"{type(exc).__name__}: {exc}"
    if not isinstance(facts, dict):
        return text, {}, f"a {type(facts).__name__} instead of a JSON object"
    return text, facts, None


def _caption(item: RawItem, facts: Mapping[str, Any], columns: ColumnsConfig) -> tuple[str | None, str | None]:
    """(stripped caption, problem). A text file takes precedence over a JSON field that is not configured."""
    value = first_of(facts, columns.named("caption", CAPTION_FIELDS))
    if item.caption is not None and (value is None or columns.caption is None):
        value = item.caption
    try:
        text = value.decode("utf-8-sig") if isinstance(value, bytes) else value
    except UnicodeDecodeError as exc:
        return None, f"the caption is not UTF-8: {exc}"
    if not isinstance(text, str):
        return None, None
    if not is_utf8(text):
        return None, "the caption holds broken characters"
    return text.strip(), None


def _optional_text(value: Any) -> str | None:
    return printable(value) if isinstance(value, str) else None
