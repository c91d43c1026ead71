"""Files in one folder, on a local disk or an object store: list, read, and write atomically."""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

import fsspec

from raysys.errors import InputError


class Store:
    """One folder on the local disk or at an fsspec URL (s3://, gs://, memory:// …). Cheap to create; picklable.

    A write is one `os.replace` (local) or one PUT of a complete buffer (object store). Streams are never used for
    writing, because an exception while an object-store stream is open would publish a truncated object.
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
        """Sorted names of the files directly in this folder, without temporary files; [] if the folder is missing."""
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
        """{path relative to this folder: bytes} of all files in it, recursively."""
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
        """Write a complete buffer to `name`, atomically replacing an existing file.

        Raises InputError if the disk is full or read-only; existing files are not changed.
        """
        if not self.is_local:
            fs, root = self._fs
            fs.pipe_file(f"{root}/{name}", data)
            return
        target = Path(self.path(name))
        with _complete(target, data) as tmp:
            os.replace(tmp, target)

    def create(self, name: str, data: bytes) -> bool:
        """Write a complete buffer to `name` only if there is no such file; return whether this call created it.

        Of several processes that call this at the same moment, exactly one gets True. Raises InputError like `write`.
        """
        if not self.is_local:
            fs, root = self._fs
            try:
                fs.pipe_file(f"{root}/{name}", data, mode="create")  # a conditional PUT
            except FileExistsError:
                return False
            except OSError:  # not every store reports a failed condition in the way that fsspec expects
                if self.exists(name):
                    return False
                raise
            return True
        target = Path(self.path(name))
        with _complete(target, data) as tmp:
            try:
                os.link(tmp, target)
            except FileExistsError:
                return False
            except OSError:
                return _create_without_links(target, data)
        return True

    def append(self, name: str, data: bytes) -> None:
        """Append to a local file in one write: for logs, never for tables. Raises InputError if the disk is full."""
        try:
            with open(self.path(name), "ab") as f:
                f.write(data)
        except OSError as exc:
            raise InputError(
                f"cannot append to {self.path(name)}: {exc.strerror or exc}",
                "free disk space, then run the same command again: it resumes",
            ) from exc

    def upload(self, file: Path, name: str) -> None:
        """Copy a local file, which may be larger than memory, to an object store; it appears when it is complete."""
        fs, root = self._fs
        fs.put_file(str(file), f"{root}/{name}")

    def download(self, name: str, file: Path) -> None:
        """Copy a file, which may be larger than memory, to a local path."""
        fs, root = self._fs
        fs.get_file(f"{root}/{name}", str(file))

    def remove(self, name: str) -> None:
        """Delete one file. A missing file is not an error: another worker may have deleted it."""
        fs, root = self._fs
        try:
            fs.rm_file(f"{root}/{name}")
        except FileNotFoundError:
            return

    def remove_folder(self, name: str) -> None:
        """Delete a folder with all of its files, if it exists."""
        fs, root = self._fs
        with contextlib.suppress(FileNotFoundError):
            fs.rm(f"{root}/{name}", recursive=True)

    def read_json(self, name: str) -> Any:
        """The JSON value in a file; None if the file does not exist. Raises InputError if it is damaged."""
        try:
            return json.loads(self.read(name))
        except FileNotFoundError:
            return None
        except ValueError as exc:
            raise InputError(f"{self.path(name)} is damaged: {exc}", "restore it, or delete its folder") from exc

    def read_json_lines(self, name: str) -> list[dict[str, Any]]:
        """The records of a JSON Lines file; [] if it does not exist.

        A last line that was cut off is dropped, because a full disk or a kill can interrupt an append. Raises
        InputError if another line is damaged.
        """
        try:
            lines = self.read(name).splitlines()
        except FileNotFoundError:
            return []
        found = []
        for number, line in enumerate(lines, start=1):
            try:
                found.append(json.loads(line))
            except ValueError as exc:
                if number < len(lines):
                    raise InputError(f"{self.path(name)} line {number} is damaged: {exc}", "delete that line") from exc
        return found

    def write_json(self, name: str, data: Any) -> None:
        self.write(name, json.dumps(data, indent=1, ensure_ascii=False, sort_keys=False).encode())


@contextlib.contextmanager
def _complete(target: Path, data: bytes) -> Iterator[Path]:
    """A complete temporary file next to `target`, deleted at the end of the block unless it was renamed.

    Raises InputError for an error of the disk, also inside the block.
    """
    tmp = target.with_name(f"_tmp-{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(tmp, "wb") as f:
            f.write(data)
            f.flush()
            os.fsync(f.fileno())
        yield tmp
    except OSError as exc:
        raise InputError(
            f"cannot write {target} ({len(data):,} bytes): {exc.strerror or exc}",
            "free disk space or give another output folder, then run the same command again: it resumes",
        ) from exc
    finally:
        with contextlib.suppress(OSError):
            tmp.unlink()


def _create_without_links(target: Path, data: bytes) -> bool:
    """As `Store.create` on a disk without hard links, such as a mounted Google Drive: not atomic, but exclusive."""
    try:
        with open(target, "xb") as f:
            f.write(data)
    except FileExistsError:
        return False
    except OSError as exc:
        raise InputError(f"cannot create {target}: {exc.strerror or exc}", "give another output folder") from exc
    return True


def iter_temporaries(store: Store) -> Iterator[str]:
    """Names of temporary files left by killed writers; they are harmless, `verify` reports them."""
    fs, root = store._fs
    try:
        entries = fs.ls(root, detail=True)
    except FileNotFoundError:
        return
    for entry in entries:
        name = PurePosixPath(entry["name"]).name
        if name.startswith("_tmp-"):
            yield name
