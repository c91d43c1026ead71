"""A folder of images, each with an optional .txt and .json of the same name. One input, with sorted items.

Files whose names start with a dot, and text files without an image, are ignored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import PurePosixPath

import fsspec

from raysys import outcomes
from raysys.shards.files import is_url, join, open_binary
from raysys.shards.raw import IMAGE_EXTENSIONS, MAX_TEXT_BYTES, REFUSED_IMAGE_EXTENSIONS, RawItem, is_utf8, printable

Listing = dict[str, int]
"""File path relative to the folder (with /) → bytes, sorted by path."""


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


def image_names(listing: Listing) -> list[str]:
    return [p for p in listing if extension(p) in (*IMAGE_EXTENSIONS, *REFUSED_IMAGE_EXTENSIONS)]


def listing_signature(listing: Listing) -> str:
    """Changes if a file is added, removed, renamed or resized. Times are ignored, because copying changes them."""
    digest = hashlib.sha256()
    for path, size in listing.items():
        digest.update(f"{path}\0{size}\n".encode("utf-8", "surrogateescape"))
    return f"{len(listing)}-{digest.hexdigest()[:16]}"


@lru_cache(maxsize=2)
def _cached_listing(folder: str, _signature: str) -> tuple[Listing, list[str]]:
    listing = list_files(folder)
    return listing, image_names(listing)


def read_items(folder: str, start: int, stop: int, signature: str) -> Iterator[RawItem]:
    """Images [start, stop) of the sorted listing."""
    listing, names = _cached_listing(folder, signature)
    for name in names[start:stop]:
        yield _raw(folder, name, listing)


def _raw(folder: str, name: str, listing: Listing) -> RawItem:
    path = join(folder, name)
    shown = printable(name)
    raw = RawItem(shown, shown, shard=printable(path), member=shown, offset=0, length=listing[name])
    if not is_utf8(name):
        raw.fate = outcomes.rejected("unsafe_member", "the file name is not UTF-8")
        return raw
    raw.read_image = lambda: read_file(path)
    stem = name[: -len(PurePosixPath(name).suffix)]
    for field, sidecar in (("caption", f"{stem}.txt"), ("metadata", f"{stem}.json")):
        if sidecar not in listing:
            continue
        if listing[sidecar] > MAX_TEXT_BYTES:
            raw.fate = outcomes.rejected("text_too_large", f"{sidecar}: {listing[sidecar]} bytes > {MAX_TEXT_BYTES}")
            return raw
        try:
            setattr(raw, field, read_file(join(folder, sidecar)))
        except OSError as exc:
            raw.fate = outcomes.error_from("read", exc)
            return raw
    return raw


def read_file(path: str) -> bytes:
    with open_binary(path) as file:
        return file.read()
