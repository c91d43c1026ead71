"""Files in one folder, local or object store: list, read, and write so that no reader ever sees half a file."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec

from raysys.errors import InputError


class Store:
    """One folder on the local disk or behind an fsspec URL (s3://, gs://, memory:// …). Cheap; picklable.

    Commit is one `os.replace` (local) or one PUT of a finished buffer (object store): an exception inside an open
    object-store stream would publish a truncated object, so streams are never used for writing.
    """

    def __init__(self, url: str | Path) -> None:
        url = str(url)
        self.is_local = "://" not in url or url.startswith("file://")
        self.url = os.path.abspath(url.removeprefix("file://")) if self.is_local else url.rstrip("/")

    def __repr__(self) -> str:
        return f"Store({self.url!r})"

    def path(self, name: str) -> str:
        """The full path or URL of a file in this folder."""
        return f"{self.url}/{name}" if name else self.url

    def sub(self, name: str) -> Store:
        return Store(self.path(name))

    @property
    def _fs(self) -> tuple[Any, str]:
        return fsspec.core.url_to_fs(self.url)

    def names(self, suffix: str = "") -> list[str]:
        """Names of the files directly in this folder, sorted; temporary files are left out; [] when it is missing."""
        return [n for n in self._entries("file") if n.endswith(suffix) and not n.startswith("_tmp-")]

    def folders(self) -> list[str]:
        return self._entries("directory")

    def _entries(self, kind: str) -> list[str]:
        fs, root = self._fs
        if not self.is_local:
            fs.invalidate_cache()
        try:
            entries = fs.ls(root, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(PurePosixPath(e["name"]).name for e in entries if e["type"] == kind)

    def sizes(self, suffix: str = "") -> dict[str, int]:
        """{name: bytes} of the files that `names` lists."""
        fs, root = self._fs
        try:
            entries = fs.ls(root, detail=True)
        except FileNotFoundError:
            return {}
        named = {PurePosixPath(e["name"]).name: e["size"] for e in entries if e["type"] == "file"}
        return {n: s for n, s in sorted(named.items()) if n.endswith(suffix) and not n.startswith("_tmp-")}

    def tree_sizes(self) -> dict[str, int]:
        """{path below this folder: bytes} of every file in it and in its folders."""
        fs, root = self._fs
        found = fs.find(root, detail=True)
        return {path[len(root) :].lstrip("/"): entry["size"] for path, entry in sorted(found.items())}

    def exists(self, name: str) -> bool:
        fs, root = self._fs
        return fs.exists(f"{root}/{name}")

    def open(self, name: str) -> BinaryIO:
        fs, root = self._fs
        return fs.open(f"{root}/{name}", "rb")

    def read(self, name: str) -> bytes:
        with self.open(name) as f:
            return f.read()

    def write(self, name: str, data: bytes) -> None:
        """Publish a finished buffer under `name`, replacing what was there, atomically.

        Raises InputError when the disk is full or read-only; nothing already written is touched.
        """
        if not self.is_local:
            fs, root = self._fs
            fs.pipe_file(f"{root}/{name}", data)
            return
        target = Path(self.path(name))
        tmp = target.with_name(f"_tmp-{uuid.uuid4().hex}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(tmp, "wb") as f:
                f.write(data)
                f.flush()
                os.fsync(f.fileno())
            os.replace(tmp, target)
        except OSError as exc:
            tmp.unlink(missing_ok=True)
            raise InputError(
                f"cannot write {target} ({len(data):,} bytes): {exc.strerror or exc}",
                "make room or give another output folder, then run the same command again: it goes on where it stopped",
            ) from exc

    def append(self, name: str, data: bytes) -> None:
        """Add to the end of a local file, in one write: for logs, never for tables."""
        with open(self.path(name), "ab") as f:
            f.write(data)

    def remove(self, name: str) -> None:
        """Delete one file; missing is fine (a zombie may have been faster)."""
        fs, root = self._fs
        try:
            fs.rm_file(f"{root}/{name}")
        except FileNotFoundError:
            return

    def read_json(self, name: str) -> Any:
        """The JSON in a file; None when there is no such file."""
        try:
            return json.loads(self.read(name))
        except FileNotFoundError:
            return None
        except ValueError as exc:
            raise InputError(f"{self.path(name)} is damaged: {exc}", "restore it, or delete its folder") from exc

    def write_json(self, name: str, data: Any) -> None:
        self.write(name, json.dumps(data, indent=1, ensure_ascii=False, sort_keys=False).encode())


def iter_temporaries(store: Store) -> Iterator[str]:
    """Left-over temporary files of killed writers: harmless, reported by verify."""
    fs, root = store._fs
    try:
        entries = fs.ls(root, detail=True)
    except FileNotFoundError:
        return
    for entry in entries:
        name = PurePosixPath(entry["name"]).name
        if name.startswith("_tmp-"):
            yield name
