"""A folder of images, each with an optional .txt and .json of the same name, in the order of their names.

Files whose names start with a dot, and text files without an image, are ignored. Images that are added later are
further items: a listing divides a folder into the images of earlier listings and the rest, which needs the items of the
earlier ones (`write_items`).
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq

from raysys import outcomes
from raysys.shards.files import is_url, join, read_file
from raysys.shards.raw import IMAGE_EXTENSIONS, MAX_TEXT_BYTES, REFUSED_IMAGE_EXTENSIONS, RawItem, is_utf8, printable

Listing = dict[str, int]
"""File path relative to the folder (with /) → bytes, sorted by path."""

ITEMS = pa.schema(
    [
        ("name", pa.binary()),  # relative to the folder; bytes, because file names need not be UTF-8
        ("length", pa.int64()),
        ("caption_length", pa.int64()),  # of the .txt file; null = none
        ("metadata_length", pa.int64()),  # of the .json file; null = none
    ]
)
"""The items of a folder, one row per image. Lengths in bytes."""
SIDECARS = {"caption": ".txt", "metadata": ".json"}

Items = pa.Table | str
"""ITEMS rows, or the path of the file to which `write_items` has written them."""


def list_files(folder: str) -> Listing:
    """All visible files in a local folder or URL, recursively. Links to folders are not followed."""
    found: Listing = {}
    if is_url(folder):
        fs, root = fsspec.core.url_to_fs(folder)
        root = root.rstrip("/")
        for path, info in fs.find(root, detail=True).items():
            found[path[len(root) :].lstrip("/")] = int(info["size"])
    else:
        for place, folders, files in os.walk(folder):
            folders[:] = [f for f in folders if not f.startswith(".")]
            for file in files:
                path = os.path.join(place, file)
                if os.path.isfile(path):  # a dangling link is not a file
                    found[os.path.relpath(path, folder).replace(os.sep, "/")] = os.path.getsize(path)
    visible = (p for p in found if not any(part.startswith(".") for part in p.split("/")))
    return {p: found[p] for p in sorted(visible)}


def extension(path: str) -> str:
    return PurePosixPath(path).suffix[1:].lower()


def is_image(path: str) -> bool:
    return extension(path) in (*IMAGE_EXTENSIONS, *REFUSED_IMAGE_EXTENSIONS)


def image_names(listing: Listing) -> list[str]:
    return [p for p in listing if is_image(p)]


def listing_signature(listing: Listing) -> str:
    """Changes if a file is added, removed, renamed or resized. Times are ignored, because copying changes them."""
    digest = hashlib.sha256()
    for path, size in listing.items():
        digest.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))
    return f"{len(listing)}-{digest.hexdigest()[:16]}"


def items_in(listing: Listing, names: Sequence[str]) -> pa.Table:
    """ITEMS rows of the images `names` of a listing, in order."""
    stems = [name[: -len(PurePosixPath(name).suffix)] for name in names]
    columns = {
        "name": [os.fsencode(name) for name in names],
        "length": [listing[name] for name in names],
        **{f"{field}_length": [listing.get(f"{s}{ext}") for s in stems] for field, ext in SIDECARS.items()},
    }
    return pa.table(columns, schema=ITEMS)


def items_signature(items: pa.Table) -> str:
    """Changes if an image, or a text file of one, is added, removed, renamed or resized. Times are ignored."""
    digest = hashlib.sha256()
    for row in zip(*(column.to_pylist() for column in items.columns), strict=True):
        digest.update(repr(row).encode())
    return f"{len(items)}-{digest.hexdigest()[:16]}"


def generations(listing: Listing, names: Sequence[str], earlier: Sequence[pa.Table | None]) -> list[pa.Table]:
    """ITEMS of a listing: for each earlier listing, the images that it had and that are still there; then the new ones.

    None for an earlier listing that is not known any more: it is assumed to be the first that had all other images.
    """
    left = dict.fromkeys(names)
    found: list[list[str] | None] = []
    for items in earlier:
        if items is None:
            found.append(None)
            continue
        had = [os.fsdecode(name) for name in items["name"].to_pylist()]
        found.append([name for name in had if name in left])
        for name in had:
            left.pop(name, None)
    if None in found:
        found[found.index(None)], left = list(left), {}
    return [items_in(listing, names or []) for names in [*found, list(left)]]


def write_items(items: pa.Table) -> bytes:
    """ITEMS rows as a Parquet file."""
    buffer = io.BytesIO()
    pq.write_table(items, buffer, compression="zstd")
    return buffer.getvalue()


@lru_cache(maxsize=2)
def _stored(path: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(read_file(path)))


def stored_items(path: str) -> pa.Table | None:
    """What `write_items` has written to `path`; None if there is no such file."""
    try:
        return _stored(path)
    except FileNotFoundError:
        return None


def read_items(folder: str, items: Items, start: int, stop: int) -> Iterator[RawItem]:
    """Images [start, stop) of the items of a folder."""
    rows = _stored(items) if isinstance(items, str) else items
    for row in rows.slice(start, stop - start).to_pylist():
        yield _raw(folder, os.fsdecode(row["name"]), row)


def _raw(folder: str, name: str, row: dict[str, Any]) -> RawItem:
    path = join(folder, name)
    shown = printable(name)
    raw = RawItem(shown, shown, shard=printable(path), member=shown, offset=0, length=row["length"])
    if not is_utf8(name):
        raw.fate = outcomes.rejected("unsafe_member", "the file name is not UTF-8")
        return raw
    raw.read_image = lambda: read_file(path)
    stem = name[: -len(PurePosixPath(name).suffix)]
    for field, ext in SIDECARS.items():
        length = row[f"{field}_length"]
        if length is None:
            continue
        if length > MAX_TEXT_BYTES:
            raw.fate = outcomes.rejected("text_too_large", f"{stem}{ext}: {length} bytes > {MAX_TEXT_BYTES}")
            return raw
        try:
            setattr(raw, field, read_file(join(folder, f"{stem}{ext}")))
        except OSError as exc:
            raw.fate = outcomes.error_from("read", exc)
            return raw
    return raw


def images_among(listing: Listing, chosen: Collection[str] | None) -> list[str]:
    """The images of a listing; with `chosen`, only these."""
    return [name for name in image_names(listing) if chosen is None or name in chosen]
