"""Columns of table sources (Parquet, Arrow, CSV, TSV, JSONL), and fields of the JSON files beside images, by name.

A column of images holds the bytes (binary, or the struct<bytes, path> of Hugging Face datasets) or paths.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from pydantic import Field

from raysys import outcomes
from raysys.config import Config, Place
from raysys.errors import InputError
from raysys.shards.files import file_size, is_url, join, read_file
from raysys.shards.licenses import is_license_field
from raysys.shards.raw import RawItem, facts_as_json, first_of, is_utf8

IMAGE_COLUMNS = ("image", "jpg", "jpeg", "png", "webp", "image_bytes", "img", "bytes", "picture")
PATH_COLUMNS = ("image", "image_path", "path", "file", "file_name", "filename", "filepath", "img")
CAPTION_FIELDS = ("caption", "text", "txt", "prompt", "alt_text", "description")
URL_FIELDS = ("url", "image_url", "source_url", "original_url")
KEY_COLUMNS = ("__key__", "key", "id", "image_id", "photo_id", "file_name", "filename")

_WEB = ("http://", "https://", "ftp://", "data:")
NO_DOWNLOADS = "raysys does not download images: download them first, for example with img2dataset, and give its tars"


def _first_of(names: tuple[str, ...]) -> str:
    return f"null = the first of {', '.join(names)}"


class ColumnsConfig(Config):
    """Names of columns, and of fields of JSON files; upper and lower case are the same."""

    image: str | None = Field(
        None,
        description=f"column of a table source with the image bytes or paths; null = the first of bytes in "
        f"{', '.join(IMAGE_COLUMNS)}, or of paths in {', '.join(PATH_COLUMNS)}",
    )
    caption: str | None = Field(None, description=f"column or JSON field of the caption; {_first_of(CAPTION_FIELDS)}")
    license: str | None = Field(
        None,
        description="column or JSON field that states the license, besides those that are recognized: license, "
        "license_url, rights, usage_terms, copyright and their spellings",
    )
    url: str | None = Field(None, description=f"column or JSON field of the source URL; {_first_of(URL_FIELDS)}")
    key: str | None = Field(None, description=f"column of the source's own key; {_first_of(KEY_COLUMNS)}")
    image_folder: Place | None = Field(
        None,
        description="folder that image paths of a table source start from and must not leave; null = the table's own",
    )

    def absolute(self) -> ColumnsConfig:
        """With the full path of `image_folder`: workers do not run in the driver's folder."""
        if self.image_folder is None or is_url(self.image_folder):
            return self
        return self.model_copy(update={"image_folder": os.path.abspath(os.path.expanduser(self.image_folder))})

    def named(self, field: str, default: tuple[str, ...]) -> tuple[str, ...]:
        """The configured name, or the default names, in lower case."""
        name = getattr(self, field)
        return default if name is None else (name.lower(),)

    def require(self, path: str, columns: Iterable[str]) -> None:
        """Raise InputError if a configured column is not among `columns` of the table source at `path`."""
        columns = list(columns)
        for field in ("image", "caption", "license", "url", "key"):
            name = getattr(self, field)
            if name is not None and name.lower() not in {c.lower() for c in columns}:
                raise InputError(
                    f"{path} has no column {name!r} (ingest.columns.{field}); its columns: {', '.join(columns)}",
                    f"set ingest.columns.{field} to one of these columns",
                )


DEFAULT_COLUMNS = ColumnsConfig()


@dataclass(frozen=True)
class ImageColumn:
    """The column of a table source with the images."""

    name: str
    holds_bytes: bool


def image_column(path: str, schema: pa.Schema, columns: ColumnsConfig) -> ImageColumn:
    """The image column of Parquet or Arrow data. Raises InputError if there is none."""
    columns.require(path, schema.names)
    by_name = {f.name.lower(): f for f in schema}
    for names, fits in ((IMAGE_COLUMNS, _holds_bytes), (PATH_COLUMNS, _holds_text)):
        for name in columns.named("image", names):
            if name in by_name and fits(by_name[name].type):
                return ImageColumn(by_name[name].name, fits is _holds_bytes)
    found = ", ".join(f"{f.name} ({f.type})" for f in schema)
    if columns.image is not None:
        what = f"{path}: column {columns.image!r} (ingest.columns.image) holds neither image bytes nor paths; {found}"
    else:
        what = f"{path} has no column of image bytes or paths; its columns: {found}"
    raise InputError(
        what,
        f"name it with ingest.columns.image=COLUMN, or call a binary or struct<bytes, path> column one of "
        f"{', '.join(IMAGE_COLUMNS)}, or a text column of paths one of {', '.join(PATH_COLUMNS)}"
        + (f". {NO_DOWNLOADS}" if set(URL_FIELDS) & set(by_name) else ""),
    )


def refuse_web_addresses(path: str, value: Any) -> None:
    """Raise InputError if `value`, the first path in an image column, is a web address."""
    value = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
    if isinstance(value, str) and value.startswith(_WEB):
        raise InputError(f"{path}: its images are web addresses ({value[:80]})", NO_DOWNLOADS)


def fact_columns(schema: pa.Schema, image: ImageColumn, columns: ColumnsConfig) -> list[str]:
    """The columns besides the image that are read: scalars, and everything that may state a license."""
    stated = columns.named("license", ())
    return [
        f.name
        for f in schema
        if f.name != image.name and (_is_scalar(f.type) or is_license_field(f.name) or f.name.lower() in stated)
    ]


def values_of(batch: pa.RecordBatch, k: int) -> dict[str, Any]:
    """Row k of a batch, with text as bytes."""
    values = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if _holds_text(column.type):
            # Parquet does not check that text is UTF-8. Read as bytes, a bad value rejects one row and does not raise.
            column = column.slice(k, 1).cast(
                pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
            )
            values[name] = column[0].as_py()
        else:
            try:
                values[name] = column[k].as_py()
            except UnicodeDecodeError:  # text inside a license's struct or list
                values[name] = "not UTF-8"
    return values


def raw_item(path: str, number: int, image: ImageColumn, values: dict[str, Any], columns: ColumnsConfig) -> RawItem:
    """Row `number` of the Parquet or Arrow file at `path`; values: of the image column and of `fact_columns`."""
    value = values.pop(image.name)
    named = columns.named("caption", CAPTION_FIELDS)
    caption = first_of({k: v for k, v in values.items() if k.lower() in named}, named)
    facts = {k: v.decode("utf-8", "backslashreplace") if isinstance(v, bytes) else v for k, v in values.items()}
    key = first_of(facts, columns.named("key", KEY_COLUMNS))
    raw = RawItem(f"{number:09d}", None if key is None else str(key), shard=path, offset=number, facts=facts)
    raw.caption, raw.metadata = caption, facts_as_json(facts)
    data = image_bytes(value) if image.holds_bytes else None
    if data is not None:
        # The default column is found again by its name; another one is recorded in the row.
        raw.member = None if columns.image is None else image.name
        raw.length, raw.read_image = len(data), lambda: data
        return raw
    name = _path_in(value)
    if name is None:
        raw.missing = f"row {number}: no {'bytes' if image.holds_bytes else 'path'} in column {image.name}"
    else:
        refer_to_file(raw, name, path, columns)
    return raw


def refer_to_file(raw: RawItem, name: str, table: str, columns: ColumnsConfig) -> None:
    """Let `raw`, a row of the table source at `table`, refer to the image file `name`; or set its fate, or `missing`.

    Relative paths start from `columns.image_folder`, by default the folder of the table. A path that leads out of this
    folder is rejected: a table from elsewhere must not bring in other files of this machine.
    """
    root = columns.image_folder or parent(table)
    if not is_utf8(name):
        raw.fate = outcomes.rejected("undecodable_text", "the image path is not UTF-8")
        return
    image = inside(root, name)
    if image is None:
        if name.startswith(_WEB):
            raw.fate = outcomes.rejected("image_is_url", f"{name}: {NO_DOWNLOADS}")
        else:
            detail = f"{name} is not in {root}; set ingest.columns.image_folder to the folder of the images"
            raw.fate = outcomes.rejected("outside_folder", detail)
        return
    try:
        raw.length = file_size(image)
    except FileNotFoundError:
        raw.missing = f"no file {image}"
    except OSError as exc:
        raw.fate = outcomes.error_from("read", exc)
    else:
        raw.shard, raw.member, raw.offset = image, name, 0
        raw.read_image = lambda: read_file(image)


def inside(root: str, name: str) -> str | None:
    """The full path of `name`, relative to `root` or absolute; None if it is not in `root`. Links are not followed."""
    full = name if is_url(name) or name.startswith("/") else join(root, name)
    scheme, path = _split(full)
    root_scheme, root_path = _split(root)
    path, root_path = posixpath.normpath(path), posixpath.normpath(root_path)
    if scheme != root_scheme or not path.startswith(root_path.rstrip("/") + "/"):
        return None
    return scheme + path


def _split(path: str) -> tuple[str, str]:
    """("s3://", "bucket/a") or ("", "/a")."""
    if not is_url(path):
        return "", path
    scheme, separator, rest = path.partition("://")
    return scheme + separator, rest


def parent(path: str) -> str:
    """The folder of a file; the folder of `a.csv` is "."."""
    return path.rpartition("/")[0] or ("/" if path.startswith("/") else ".")


def image_bytes(value: Any) -> bytes | None:
    """The bytes of a binary or struct<bytes, path> value; None for null and empty values."""
    data = value.get("bytes") if isinstance(value, Mapping) else value
    return data or None


def _path_in(value: Any) -> str | None:
    """The path in a text or struct<bytes, path> value; None for null and blank values."""
    path = value.get("path") if isinstance(value, Mapping) else value
    if isinstance(path, bytes):
        path = path.decode("utf-8", "surrogateescape")
    return path if isinstance(path, str) and path.strip() else None


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _holds_bytes(kind.field(i).type) for i in range(kind.num_fields))
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _holds_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_scalar(kind: pa.DataType) -> bool:
    return (
        _holds_text(kind)
        or pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_boolean(kind)
        or pa.types.is_temporal(kind)
    )
