"""Random access to the bytes of input files: local paths by pread, fsspec URLs (s3://, memory:// …) by range reads."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Generic, Protocol, TypeVar

import fsspec

PROBE_BYTES = 64 * 1024
REMOTE_BLOCK_BYTES = 8 * 2**20
"""Read-ahead block: for the small members of tars, this is faster than one request per header or image."""


class Source(Protocol):
    """An open input file. size: in bytes. `read` returns fewer bytes than requested only at the end of the file."""

    size: int

    def read(self, offset: int, length: int) -> bytes: ...

    def close(self) -> None: ...


class LocalSource:
    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        while 0 < len(data) < length and (more := os.pread(self._fd, length - len(data), offset + len(data))):
            data += more  # a single pread returns at most 2 GiB, and less on some network file systems
        return data

    def close(self) -> None:
        os.close(self._fd)


class RemoteSource:
    def __init__(self, url: str) -> None:
        fs, path = fsspec.core.url_to_fs(url)
        self._file = fs.open(path, "rb", block_size=REMOTE_BLOCK_BYTES)
        self._lock = threading.Lock()
        self.size = int(fs.size(path))

    def read(self, offset: int, length: int) -> bytes:
        with self._lock:  # no other thread may seek before the read
            self._file.seek(offset)
            return self._file.read(length)

    def close(self) -> None:
        self._file.close()


def is_url(path: str) -> bool:
    return "://" in path


@contextmanager
def open_binary(path: str) -> Iterator[BinaryIO]:
    """A local path or URL as a file object, for libraries that need one."""
    with fsspec.open(path, "rb") if is_url(path) else open(path, "rb") as file:
        yield file


def read_file(path: str) -> bytes:
    with open_binary(path) as file:
        return file.read()


def file_size(path: str) -> int:
    """Bytes of a local file or URL. Raises the file system's errors."""
    if is_url(path):
        fs, inner = fsspec.core.url_to_fs(path)
        return int(fs.size(inner))
    return os.stat(path).st_size


def open_source(path: str) -> Source:
    """Open a local path or URL. Raises the file system's errors (FileNotFoundError, PermissionError …)."""
    return RemoteSource(path) if is_url(path) else LocalSource(path)


F = TypeVar("F", bound="Closable")
K = TypeVar("K")


class Closable(Protocol):
    def close(self) -> None: ...


class OpenFiles(Generic[K, F]):
    """An LRU cache of a process's open files, by what `opener` takes; evicted files are closed."""

    def __init__(self, opener: Callable[[K], F], max_open: int) -> None:
        self._opener, self._max_open = opener, max_open
        self._open: OrderedDict[K, F] = OrderedDict()

    def get(self, place: K) -> F:
        file = self._open.pop(place, None) or self._opener(place)
        self._open[place] = file
        while len(self._open) > self._max_open:
            self._open.popitem(last=False)[1].close()
        return file

    def close(self) -> None:
        while self._open:
            self._open.popitem()[1].close()


def content_signature(source: Source) -> str:
    """A cheap signature of a file's contents: its size and a hash of the first and last 64 KiB."""
    digest = hashlib.sha256(source.read(0, PROBE_BYTES))
    if source.size > PROBE_BYTES:
        start = max(PROBE_BYTES, source.size - PROBE_BYTES)
        digest.update(source.read(start, source.size - start))
    return f"{source.size}-{digest.hexdigest()[:16]}"


def join(folder: str, name: str) -> str:
    """A file inside a local folder or URL folder."""
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)
