"""Image sets for comparison: a folder of image files, or a raysys table of samples or generations.

Images are read one at a time. Ids are unique in a set: the file name relative to the folder, the row_id, or the gen_id.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import InputError
from raysys.outcomes import error_from
from raysys.rows import GENERATIONS, SAMPLES
from raysys.shards.files import is_url, join, read_file
from raysys.shards.folder import image_names, list_files, listing_signature
from raysys.shards.licenses import normalize
from raysys.shards.raw import IMAGE_EXTENSIONS, first_of, printable
from raysys.shards.references import ImageReader
from raysys.tables import TableView, open_table
from raysys.tables.plan import TABLE
from raysys.tables.store import Store

logger = logging.getLogger(__name__)

READ_ROWS = 128
"""Number of a table's encoded images in memory at a time."""


@dataclass(frozen=True)
class RawImage:
    """The bytes of one image file; if they could not be read, `data` is None and `fate` has the reason."""

    id: str
    data: bytes | None
    fate: dict[str, str | None] = field(default_factory=dict)


class ImageSet(Protocol):
    """What scoring and reports need from a set of images."""

    source: str

    def __len__(self) -> int: ...

    def signature(self) -> str:
        """Changes if the images or their facts change; reads no images."""
        ...

    def ids(self) -> set[str]:
        """The ids of all images; reads no images."""
        ...

    def images(self) -> Iterator[RawImage]:
        """All images, in a fixed order."""
        ...

    def bytes_of(self, image_id: str) -> bytes:
        """The encoded image. Raises KeyError for an unknown id, OSError or ValueError if it cannot be read."""
        ...

    def facts_of(self, ids: Collection[str]) -> dict[str, dict[str, str | None]]:
        """{id: {"caption", "license", "url"}} for the given images; values are None if unknown."""
        ...


def open_images(path: str | os.PathLike | ImageSet, role: str = "images") -> ImageSet:
    """The image set at `path`. role: its name in messages ("generated", "training" …).

    Raises InputError if `path` does not exist, has no images, or is a table of other rows.
    """
    if not isinstance(path, (str, os.PathLike)):
        return path
    path = os.fspath(path)
    if not is_url(path) and not os.path.isdir(path):
        problem = "is a file" if os.path.exists(path) else "does not exist"
        raise InputError(f"{role}: {path} {problem}", "give a folder of images or a raysys table")
    images: ImageSet = TableImages(path, role) if Store(path).exists(TABLE) else FolderImages(path, role)
    if len(images) == 0:
        raise InputError(
            f"{role}: the table {path} has no kept rows", "run `raysys status` on it to see why, or give another table"
        )
    return images


def refuse_same(first: ImageSet, second: ImageSet, roles: tuple[str, str]) -> None:
    """Raise InputError if both sets are the same folder or one contains the other: images would match themselves."""
    a, b = (Path(os.path.realpath(s.source)) for s in (first, second))
    if a == b:
        raise InputError(
            f"{roles[0]} and {roles[1]} are both {a}: every image would match itself", "give two different folders"
        )
    if a in b.parents or b in a.parents:
        raise InputError(
            f"{roles[0]} ({a}) and {roles[1]} ({b}): one contains the other, so images would match themselves",
            "give two separate folders",
        )


class FolderImages:
    """Image files in a folder or at a URL, recursively; captions come from .txt or .json files with the same name."""

    def __init__(self, folder: str, role: str = "images") -> None:
        self.source = folder if is_url(folder) else os.path.abspath(folder)
        listing = list_files(self.source)
        self._listing, self._signature = frozenset(listing), listing_signature(listing)
        self._name_of = {printable(name): name for name in image_names(listing)}
        if not self._name_of:
            raise InputError(f"{role}: no images in {folder} ({_what_is_there(listing)})", _hint(listing))

    def __len__(self) -> int:
        return len(self._name_of)

    def signature(self) -> str:
        return self._signature

    def ids(self) -> set[str]:
        return set(self._name_of)

    def images(self) -> Iterator[RawImage]:
        for image_id in self._name_of:
            try:
                yield RawImage(image_id, self.bytes_of(image_id))
            except OSError as exc:
                yield RawImage(image_id, None, error_from("read", exc))

    def bytes_of(self, image_id: str) -> bytes:
        return read_file(join(self.source, self._name_of[image_id]))

    def facts_of(self, ids: Collection[str]) -> dict[str, dict[str, str | None]]:
        return {image_id: self._facts(self._name_of[image_id]) for image_id in ids}

    def _facts(self, name: str) -> dict[str, str | None]:
        stem = name[: -len(PurePosixPath(name).suffix)]
        text, metadata = (self._sidecar(f"{stem}.{extension}") for extension in ("txt", "json"))
        return sidecar_facts(text, metadata)

    def _sidecar(self, name: str) -> bytes | None:
        """The bytes of a file next to an image; None if it is missing or cannot be read."""
        if name not in self._listing:
            return None
        try:
            return read_file(join(self.source, name))
        except OSError as exc:
            logger.warning("cannot read %s: %s", join(self.source, name), exc)
            return None


def sidecar_facts(text: bytes | None, metadata: bytes | None) -> dict[str, str | None]:
    """Caption, license and url of an image from the bytes of its .txt and .json; None if missing or not readable."""
    facts = _json_object(metadata)
    caption = text.decode("utf-8", "replace").strip() if text else first_of(facts, ("caption", "prompt", "text"))
    license, evidence = normalize(facts)
    url = facts.get("url")
    return {
        "caption": caption if isinstance(caption, str) else None,
        "license": license if evidence is not None else None,
        "url": url if isinstance(url, str) else None,
    }


class TableImages:
    """The kept rows of a SAMPLES or GENERATIONS table."""

    def __init__(self, path: str, role: str = "images") -> None:
        self._view = _image_table(path, role)
        self.source = self._view.store.url
        self._key = self._view.row_type.key[0]
        self._is_samples = self._view.row_type.name == SAMPLES.name
        self._part_of: dict[str, int] = {}
        self._reader = ImageReader()
        self._part = lru_cache(maxsize=2)(self._read_part)

    def __len__(self) -> int:
        return self._view.counts().kept

    def signature(self) -> str:
        signatures = "".join(part.signature for part in self._view.inputs())
        return f"{self._view.identity}:{hashlib.sha256(signatures.encode()).hexdigest()[:16]}"

    def ids(self) -> set[str]:
        return {i for table in self._view.rows([self._key]) for i in table[self._key].to_pylist()}

    def images(self) -> Iterator[RawImage]:
        for number in range(len(self._view.parts)):
            table = self._read_part(number)
            for start in range(0, table.num_rows, READ_ROWS):
                rows = table.slice(start, READ_ROWS).to_pylist()
                for row, data in zip(rows, self._read_many(rows), strict=True):
                    if isinstance(data, Exception):
                        yield RawImage(row[self._key], None, error_from("read", data))
                    else:
                        yield RawImage(row[self._key], data)

    def bytes_of(self, image_id: str) -> bytes:
        if image_id not in self._part_of:
            self._locate({image_id})
        table = self._part(self._part_of[image_id])
        data = self._read_many(table.filter(pc.equal(table[self._key], image_id)).to_pylist())[0]
        if isinstance(data, Exception):
            raise data
        return data

    def facts_of(self, ids: Collection[str]) -> dict[str, dict[str, str | None]]:
        return {
            row[self._key]: {
                "caption": row["caption" if self._is_samples else "prompt"],
                "license": row.get("license"),
                "url": row.get("url"),
            }
            for row in self._locate(set(ids))
        }

    def _read_many(self, rows: list[dict[str, Any]]) -> list[bytes | Exception]:
        """The image bytes of each row, or an exception. Samples may refer to shards; generations hold their images."""
        if self._is_samples:
            return self._reader.read_many(rows)
        return [row["image"] or ValueError("the row is kept but has no image") for row in rows]

    def _locate(self, ids: set[str]) -> list[dict[str, Any]]:
        """The rows of `ids` without image bytes; also caches the part that holds each row."""
        facts = ["caption", "license", "url"] if self._is_samples else ["prompt"]
        wanted, found = pa.array(sorted(ids), pa.string()), []
        for number, part in enumerate(self._view.parts):
            table = _kept(part.read([self._key, *facts, "outcome"]))
            rows = table.filter(pc.is_in(table[self._key], wanted)).to_pylist()
            self._part_of.update((row[self._key], number) for row in rows)
            found.extend(rows)
        return found

    def _read_part(self, number: int) -> pa.Table:
        columns = ["sample_id", "image", "shard", "member", "offset", "length"] if self._is_samples else ["image"]
        return _kept(self._view.parts[number].read([self._key, *columns, "outcome"]))


def _image_table(path: str, role: str) -> TableView:
    view = open_table(path)
    if view.row_type.name not in (SAMPLES.name, GENERATIONS.name):
        raise InputError(
            f"{role}: {path} holds {view.row_type.name} rows", "give a table of samples or generations, or a folder"
        )
    return view


def _kept(table: pa.Table) -> pa.Table:
    return table.filter(pc.equal(table["outcome"], "kept"))


def _what_is_there(names: Collection[str]) -> str:
    if not names:
        return "the folder is empty"
    kinds = Counter(PurePosixPath(n).suffix.lower() or "no suffix" for n in names)
    return "found " + ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4))


def _hint(names: Collection[str]) -> str:
    if any(n.lower().endswith((".tar", ".parquet")) for n in names):
        return "ingest the shards first (`raysys ingest`), then give the samples table"
    return f"give a folder with {', '.join(IMAGE_EXTENSIONS)} files"


def _json_object(data: bytes | None) -> dict[str, Any]:
    try:
        value = json.loads(data or b"{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
