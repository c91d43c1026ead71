"""A file that grows during a run, even if the output is on an object store, which cannot append."""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raysys.tables import Store

UPLOAD_S = 60.0
"""Seconds between two uploads to an object store: at most this much is lost if the driver dies."""


@contextmanager
def appended(folder: Store, name: str, every_s: float = UPLOAD_S) -> Iterator[Path]:
    """A local path to append to. For an object store it is a copy, uploaded every `every_s` seconds and at the end."""
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
            except Exception as exc:  # not worth failing the run: this file is only plotted
                print(f"could not write {folder.path(name)}: {type(exc).__name__}: {exc}", file=sys.stderr)
        if is_last:
            return
