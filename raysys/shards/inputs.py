"""List the inputs at paths or patterns (tars, Parquet, Arrow, folders of images, indexes) and count their items.

Reads only headers, footers and listings. Remote tars (s3:// …) are read completely in 8 MiB blocks, because one request
per header would be slower.

The names of inputs are relative to the path that was given, so a collection may move. Those of a second path begin with
`input2/`, those of a third with `input3/`; so a path that is appended to the list does not rename the others. Images
that are added to a folder, and lines that are appended to an index, are inputs of their own, `photos+1`, `photos+2` …
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Literal

import fsspec
import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import InputError
from raysys.shards import arrow, folder, index, parquet, patterns, webdataset
from raysys.shards.columns import DEFAULT_COLUMNS, ColumnsConfig
from raysys.shards.files import content_signature, is_url, join, open_source
from raysys.shards.raw import is_utf8
from raysys.tables.plan import InputPart

Kind = Literal["webdataset", "parquet", "arrow", "folder", "index"]

FORMS = (
    "WebDataset tars (.tar), Parquet with images or image paths, a dataset saved by Hugging Face's save_to_disk, "
    "a folder of images, or a CSV, TSV or JSONL index"
)
FOLDER_INDEX_NAMES = ("metadata", "index", "captions")
"""A folder of images with one index file of such a name is read through that index, as in `imagefolder`."""

LIST_THREADS = 8


@dataclass(frozen=True)
class InputFile:
    """One file, or images of one folder. `signature` changes if the contents change.

    name: unique. source: the same without the number of a later addition; row ids begin with it. n_bytes: of its images
    and whatever is stored with them, for estimates; of an index, of its text.
    items: of a folder. span: of an index.
    """

    name: str
    path: str  # absolute path or URL
    kind: Kind
    n_items: int  # all items; each becomes a row, whether kept or not
    signature: str
    source: str
    n_bytes: int
    items: folder.Items | None = field(default=None, compare=False, repr=False)
    span: index.Span | None = None


Known = InputFile | InputPart
ItemsOf = Callable[[str], pa.Table | None]
"""Signature of a folder's earlier part → its items, if they are stored."""


def list_inputs(
    path: str | Sequence[str],
    known: Iterable[Known] = (),
    columns: ColumnsConfig = DEFAULT_COLUMNS,
    items_of: ItemsOf = lambda signature: None,
    recount: bool = False,
) -> list[InputFile]:
    """The input files at `path` (local paths, fsspec URLs or patterns), sorted by name for each of them.

    known: files of an earlier listing, with the items of folders by `items_of`. Those with an unchanged signature are
    not counted again, unless `recount`. Raises InputError if there is no input, no known kind of input, or a mixture
    of kinds at one path.
    """
    paths = [path] if isinstance(path, str) else list(path)
    found: list[_Entry] = []
    for number, one in enumerate(paths, start=1):
        prefix = "" if number == 1 else f"input{number}/"
        entries = _entries(one if is_url(one) else os.path.abspath(os.path.expanduser(one)))
        found += [replace(entry, name=f"{prefix}{entry.name}") for entry in entries]
    _refuse_twice("files", (((entry.path, entry.chosen), entry.path) for entry in found))
    listing = _Listing(list(known), columns, items_of, recount)
    with ThreadPoolExecutor(LIST_THREADS) as pool:
        files = [file for some in pool.map(listing.files_of, found) for file in some]
    _refuse_twice("name", ((file.name, file.path) for file in files))
    if sum(f.n_items for f in files) == 0:
        raise InputError(f"{path}: {len(found)} input files, but no items in them", "check how they were written")
    return files


@dataclass(frozen=True)
class _Entry:
    """An input before it is opened. chosen: of a folder, the images that a pattern selects; None = all."""

    kind: Kind
    name: str
    path: str
    chosen: frozenset[str] | None = None


def _refuse_twice(what: str, found: Iterable[tuple[Hashable, str]]) -> None:
    """Raise InputError if two of the (value, path) have the same value."""
    seen: dict[Hashable, str] = {}
    for value, path in found:
        if value in seen:
            raise InputError(f"{seen[value]} and {path}: two inputs have the same {what}", "give each input once")
        seen[value] = path


def _entries(path: str) -> list[_Entry]:
    """The inputs at one path or pattern."""
    exists = _is_folder(path)
    if exists is None and patterns.is_pattern(path):
        found = _matching_entries(*patterns.split(path))
    elif exists is False and folder.is_image(path):
        root, _, name = path.rpartition("/")
        found = [_Entry("folder", root.rpartition("/")[2] or "images", root, frozenset({name}))]
    else:
        found = _found(path, exists)
    for entry in found:
        if not is_utf8(entry.path):
            raise InputError(f"the file name {entry.name!r} is not UTF-8 and cannot be stored in a table", "rename it")
    return found


def _found(path: str, is_folder: bool | None) -> list[_Entry]:
    if is_folder is None:
        raise InputError(f"input {path} does not exist", f"give {FORMS}")
    if is_folder:
        return _folder_entries(path)
    name = path.rstrip("/").rpartition("/")[2]
    kind = _file_kind(name)
    if kind is None:
        raise InputError(f"input {path} is not of a known kind", f"give {FORMS}")
    return [_Entry(kind, name, path)]


def _matching_entries(root: str, rest: str) -> list[_Entry]:
    """The inputs that a pattern matches: folders, and files in `root`, which are named relative to it."""
    found = patterns.matches(root, rest)
    entries = []
    for name in (n for n, is_folder in found.items() if is_folder):
        for entry in _folder_entries(join(root, name)):
            entries.append(replace(entry, name=name if entry.kind == "folder" else f"{name}/{entry.name}"))
    names = [n for n, is_folder in found.items() if not is_folder]
    files = _file_entries(root, names, [n for n in names if _file_kind(n) == "index"])
    images = frozenset(folder.image_names(dict.fromkeys(names, 0)))
    entries += [replace(e, chosen=images) if e.kind == "folder" else e for e in files]
    if not entries:
        raise InputError(f"{join(root, rest)} matches {len(found)} files, but no shards and no images", f"give {FORMS}")
    return sorted(entries, key=lambda entry: entry.name)


def _folder_entries(path: str) -> list[_Entry]:
    listing = folder.list_files(path)
    indices = [n for n in listing if "/" not in n and _is_folder_index(n)]
    if len(indices) > 1:
        raise InputError(f"{path} holds several indexes: {', '.join(indices)}", "give one of them as the input")
    if found := _file_entries(path, list(listing), indices):
        return found
    hint = f"; it holds {len(listing)} other files" if listing else " (the folder is empty)"
    raise InputError(f"{path} holds no shards and no images{hint}", f"give {FORMS}")


def _is_folder_index(name: str) -> bool:
    return _file_kind(name) == "index" and PurePosixPath(name).stem.lower() in FOLDER_INDEX_NAMES


def _file_entries(root: str, names: Sequence[str], indices: Sequence[str]) -> list[_Entry]:
    """The inputs among files of the folder `root`; `indices` are those that are read as an index."""
    by_kind: dict[Kind, list[str]] = {"webdataset": [], "parquet": [], "arrow": [], "index": []}
    for name in names:
        if (kind := _file_kind(name)) is not None:
            by_kind[kind].append(name)
    if tars := by_kind["webdataset"]:
        # img2dataset writes 00000.parquet (metadata without images) next to 00000.tar.
        stems = {PurePosixPath(t).with_suffix("") for t in tars}
        by_kind["parquet"] = [p for p in by_kind["parquet"] if PurePosixPath(p).with_suffix("") not in stems]
    by_kind["arrow"] = arrow.data_files(root, names) if by_kind["arrow"] else []
    images = folder.image_names(dict.fromkeys(names, 0))
    kinds: dict[Kind, str] = {"webdataset": "tars", "parquet": "Parquet files", "arrow": "Arrow files"}
    forms = [form for kind, form in kinds.items() if by_kind[kind]] + ["images"] * bool(images)
    if len(forms) > 1:
        raise InputError(f"{root} holds {' and '.join(forms)}", "give the folder or file of one kind")
    for kind in kinds:
        if by_kind[kind]:
            return [_Entry(kind, name, join(root, name)) for name in by_kind[kind]]
    if indices:
        return [_Entry("index", name, join(root, name)) for name in indices]
    return [_Entry("folder", root.rstrip("/").rpartition("/")[2] or "images", root)] if images else []


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
    if lowered.endswith(".arrow"):
        return "arrow"
    if lowered.endswith(tuple(f".{e}" for e in index.INDEX_EXTENSIONS)):
        return "index"
    return None


class _Listing:
    """Opens and counts the entries of one listing."""

    def __init__(self, known: Collection[Known], columns: ColumnsConfig, items_of: ItemsOf, recount: bool) -> None:
        self._known, self._columns, self._items_of = known, columns, items_of
        self._counted = {} if recount else {(f.name, f.signature): f.n_items for f in known}

    def files_of(self, entry: _Entry) -> list[InputFile]:
        if entry.kind == "folder":
            return self._of_folder(entry)
        if entry.kind == "index":
            return self._of_index(entry)
        signature, n_bytes = _probe(entry.path)
        n_items = self._counted.get((entry.name, signature))
        if n_items is None:
            counters: dict[str, Callable[[], int]] = {
                "webdataset": lambda: webdataset.count_items(entry.path, signature),
                "parquet": lambda: parquet.count_items(entry.path, self._columns),
                "arrow": lambda: arrow.count_items(entry.path, self._columns),
            }
            n_items = counters[entry.kind]()
        return [InputFile(entry.name, entry.path, entry.kind, n_items, signature, entry.name, n_bytes)]

    def _earlier(self, entry: _Entry) -> list[Known]:
        """The known parts of a folder or an index: itself, then `<name>+1`, `<name>+2` …"""
        pattern = re.compile(re.escape(entry.name) + r"(\+\d+)?")
        found = [f for f in self._known if pattern.fullmatch(f.name)]
        return sorted(found, key=lambda f: _addition(f.name, entry.name))

    def _names(self, entry: _Entry, earlier: Sequence[Known], n: int) -> list[str]:
        """The names of n parts, of which the first are `earlier`."""
        last = _addition(earlier[-1].name, entry.name) if earlier else -1
        new = (f"{entry.name}+{k}" if k else entry.name for k in range(last + 1, last + 1 + n))
        return [*(f.name for f in earlier), *new][:n]

    def _of_folder(self, entry: _Entry) -> list[InputFile]:
        listing = folder.list_files(entry.path)
        earlier = self._earlier(entry)
        names = folder.images_among(listing, entry.chosen)
        parts = folder.generations(listing, names, [self._items_of(f.signature) for f in earlier])
        files = []
        for name, items in zip(self._names(entry, earlier, len(parts)), parts, strict=True):
            if len(items):
                signature, n_bytes = folder.items_signature(items), pc.sum(items["length"]).as_py()
                found = InputFile(name, entry.path, "folder", len(items), signature, entry.name, n_bytes, items)
                files.append(found)
        return files

    def _of_index(self, entry: _Entry) -> list[InputFile]:
        earlier = self._earlier(entry)
        spans = index.spans_of(entry.path, [(f.signature, f.n_items) for f in earlier])
        files = []
        for name, (span, signature) in zip(self._names(entry, earlier, len(spans)), spans, strict=True):
            n_items = self._counted.get((name, signature))
            if n_items is None:
                n_items = index.count_items(entry.path, span, self._columns)
            if n_items or span.begin == 0:  # blank lines at the end are no rows yet
                n_bytes = span.end - span.begin
                files.append(InputFile(name, entry.path, "index", n_items, signature, entry.name, n_bytes, span=span))
        return files


def _addition(name: str, source: str) -> int:
    """The number of an addition: 2 for "photos+2" of "photos", 0 for "photos"."""
    return int(name[len(source) + 1 :] or 0)


def _probe(path: str) -> tuple[str, int]:
    """The signature of a file and its bytes. Raises InputError for a gzip stream that is named .tar."""
    source = open_source(path)
    try:
        if path.lower().endswith(".tar") and source.read(0, 2) == b"\x1f\x8b":
            raise InputError(f"{path} is a gzip stream, not a tar", "rename it to .tar.gz and gunzip it")
        return content_signature(source), source.size
    finally:
        source.close()


def _is_folder(path: str) -> bool | None:
    """True for a folder, False for a file, None if `path` does not exist."""
    if not is_url(path):
        return os.path.isdir(path) if os.path.exists(path) else None
    fs, inner = fsspec.core.url_to_fs(path)
    return fs.isdir(inner) if fs.exists(inner) else None
