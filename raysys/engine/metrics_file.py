"""A file of a run that grows while it runs, also where the output lies on an object store, which cannot append."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raysys.tables import Store

UPLOAD_S = 60.0
"""Seconds between two copies to an object store: what a driver that dies takes with it, at most."""


@contextmanager
def appended(folder: Store, name: str, every_s: float = UPLOAD_S) -> Iterator[Path]:
    """A local path to append to. Behind an object store it is a copy, which is uploaded now and then and at the end."""
    if folder.is_local:
        yield Path(folder.path(name))
        return
    with tempfile.TemporaryDirectory(prefix="raysys-") as scratch:
        copy = Path(scratch) / Path(name).name
        copy.write_bytes(folder.read(name) if folder.exists(name) else b"")
        ended = threading.Event()
        thread = threading.Thread(target=_upload_now_and_then, args=(folder, name, copy, ended, every_s), daemon=True)
        thread.start()
        try:
            yield copy
        finally:
            ended.set()
            thread.join()


def _upload_now_and_then(folder: Store, name: str, copy: Path, ended: threading.Event, every_s: float) -> None:
    uploaded = copy.stat().st_size
    while True:
        is_last = ended.wait(every_s)
        if (size := copy.stat().st_size) != uploaded:
            try:
                folder.write(name, copy.read_bytes())
                uploaded = size
            except Exception as exc:  # a plot is not worth the run; what a result needs is written elsewhere
                print(f"{folder.path(name)} was not written: {type(exc).__name__}: {exc}", file=sys.stderr)
        if is_last:
            return
