"""List the inputs at a path (tars, Parquet, a folder of images or an index) and count their items.

Reads only headers, footers and listings. Remote tars (s3:// …) are read completely in 8 MiB blocks, because one request
per header would be slower.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Literal

import fsspec

from raysys.errors import InputError
from raysys.shards import folder, index, parquet, webdataset
from raysys.shards.files import content_signature, is_url, join, open_source
from raysys.shards.raw import is_utf8
from raysys.tables.plan import InputPart

Kind = Literal["webdataset", "parquet", "folder", "index"]

FORMS = "WebDataset tars (.tar), Parquet with image bytes, a folder of images, or a CSV, TSV or JSONL index"
FOLDER_INDEX_NAMES = ("metadata", "index", "captions")
"""A folder of images with one index file of such a name is read through that index, as in `imagefolder`."""

LIST_THREADS = 8


@dataclass(frozen=True)
class InputFile:
    """One file, or one folder of images. `signature` changes if the contents change."""

    name: str  # unique, relative to the root, independent of the root's location
    path: str  # absolute path or URL
    kind: Kind
    n_items: int  # all items; each becomes a row, whether kept or not
    signature: str


def list_inputs(path: str, known: Iterable[InputFile | InputPart] = ()) -> list[InputFile]:
    """The input files at `path`, a local path or fsspec URL, sorted by name.

    `known`: files of an earlier listing; those with an unchanged signature are not counted again.
    Raises InputError if there is no input, no known kind of input, or a mixture of kinds.
    """
    path = path if is_url(path) else os.path.abspath(os.path.expanduser(path))
    found = _entries(path)
    counted = {(f.name, f.signature): f.n_items for f in known}
    with ThreadPoolExecutor(LIST_THREADS) as pool:
        files = list(pool.map(lambda entry: _input_file(*entry, counted), found))
    if sum(f.n_items for f in files) == 0:
        raise InputError(f"{path}: {len(files)} input files, but no items in them", "check how they were written")
    return files


def _entries(path: str) -> list[tuple[Kind, str, str]]:
    """(kind, name, path) of the inputs at `path`."""
    found = _found(path)
    for _, name, full_path in found:
        if not is_utf8(full_path):
            raise InputError(f"the file name {name!r} is not UTF-8 and cannot be stored in a table", "rename the file")
    return found


def _found(path: str) -> list[tuple[Kind, str, str]]:
    is_folder = _is_folder(path)
    if is_folder is None:
        raise InputError(f"input {path} does not exist", f"give {FORMS}")
    if is_folder:
        return _folder_entries(path)
    name = path.rstrip("/").rpartition("/")[2]
    kind = _file_kind(name)
    if kind is None:
        raise InputError(f"input {path} is not of a known kind", f"give {FORMS}")
    return [(kind, name, path)]


def _folder_entries(path: str) -> list[tuple[Kind, str, str]]:
    listing = folder.list_files(path)
    by_kind: dict[Kind, list[str]] = {"webdataset": [], "parquet": [], "index": []}
    for name in listing:
        if (kind := _file_kind(name)) is not None:
            by_kind[kind].append(name)
    images = folder.image_names(listing)
    tars, parquets = by_kind["webdataset"], by_kind["parquet"]
    if tars:
        # img2dataset writes 00000.parquet (metadata without images) next to 00000.tar.
        stems = {PurePosixPath(t).with_suffix("") for t in tars}
        parquets = [p for p in parquets if PurePosixPath(p).with_suffix("") not in stems]
    forms = [n for n, f in (("tars", tars), ("Parquet files", parquets), ("images", images)) if f]
    if len(forms) > 1:
        raise InputError(f"{path} holds {' and '.join(forms)}", "give the folder or file of one kind")
    if tars or parquets:
        kind: Kind = "webdataset" if tars else "parquet"
        return [(kind, name, join(path, name)) for name in tars or parquets]
    indices = [n for n in by_kind["index"] if "/" not in n and PurePosixPath(n).stem.lower() in FOLDER_INDEX_NAMES]
    if len(indices) > 1:
        raise InputError(f"{path} holds several indexes: {', '.join(indices)}", "give one of them as the input")
    if indices:
        return [("index", indices[0], join(path, indices[0]))]
    if not images:
        hint = f"; it holds {len(listing)} other files" if listing else " (the folder is empty)"
        raise InputError(f"{path} holds no shards and no images{hint}", f"give {FORMS}")
    return [("folder", path.rstrip("/").rpartition("/")[2] or "images", path)]


def _file_kind(name: str) -> Kind | None:
    """The kind by extension. Raises InputError for compressed tars, which do not support random access."""
    lowered = name.lower()
    if lowered.endswith((".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst")):
        raise InputError(
            f"{name} is a compressed tar: its images cannot be referenced by offset",
            "decompress it first, e.g. with gunzip (compression hardly reduces images)",
        )
    if lowered.endswith(".tar"):
        return "webdataset"
    if lowered.endswith((".parquet", ".pq")):
        return "parquet"
    if lowered.endswith(tuple(f".{e}" for e in index.INDEX_EXTENSIONS)):
        return "index"
    return None


def _input_file(kind: Kind, name: str, path: str, counted: dict[tuple[str, str], int]) -> InputFile:
    if kind == "folder":
        listing = folder.list_files(path)
        return InputFile(name, path, kind, len(folder.image_names(listing)), folder.listing_signature(listing))
    signature = _probe(path)
    n_items = counted.get((name, signature))
    if n_items is None:
        counters: dict[str, Callable[[], int]] = {
            "webdataset": lambda: webdataset.count_items(path, signature),
            "parquet": lambda: parquet.count_items(path),
            "index": lambda: index.count_items(path),
        }
        n_items = counters[kind]()
    return InputFile(name, path, kind, n_items, signature)


def _probe(path: str) -> str:
    """The signature of a file. Raises InputError for a gzip stream that is named .tar."""
    source = open_source(path)
    try:
        if path.lower().endswith(".tar") and source.read(0, 2) == b"\x1f\x8b":
            raise InputError(f"{path} is a gzip stream, not a tar", "rename it to .tar.gz and gunzip it")
        return content_signature(source)
    finally:
        source.close()


def _is_folder(path: str) -> bool | None:
    """True for a folder, False for a file, None if `path` does not exist."""
    if not is_url(path):
        return os.path.isdir(path) if os.path.exists(path) else None
    fs, inner = fsspec.core.url_to_fs(path)
    return fs.isdir(inner) if fs.exists(inner) else None
