"""The folder of a training's checkpoints, on a disk or object store: which one to resume from, and which to keep.

    step-00000500/     a published checkpoint
    _step-00001000/    one that is being written, or was when its run was killed; an object store cannot rename
                       folders, so there it is a folder without state.json

A checkpoint is usable if its state.json is whole and all files have the recorded sizes and hashes.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from raysys.errors import InputError
from raysys.tables import Store
from raysys.training.checkpoint import STATE, verify

UNPUBLISHED = "_"


def name_of(step: int) -> str:
    """The name of the checkpoint after `step` steps; names sort by step."""
    return f"step-{step:08d}"


def published(store: Store) -> list[str]:
    """The names of the checkpoints, oldest first, usable or not."""
    return [name for name in store.folders() if not name.startswith(UNPUBLISHED)]


def resume_point(store: Store) -> str | None:
    """The name of the newest complete and verified checkpoint; None if there is no checkpoint yet.

    Prints which newer ones are skipped and why. Deletes what killed runs left unpublished, so call it only while no
    other run writes. Raises InputError if there are checkpoints but none is usable.
    """
    for name in store.folders():
        if name.startswith(UNPUBLISHED) or not (store.is_local or store.exists(f"{name}/{STATE}")):
            store.remove_folder(name)
    names, skipped = published(store), []
    for name in reversed(names):
        try:
            step = verify(store.path(name)).step
        except InputError as exc:
            skipped.append(exc.what)
            continue
        for why in skipped:
            print(f"checkpoint skipped: {why}", file=sys.stderr)
        if skipped:
            print(f"resuming from {store.path(name)}, after step {step}", file=sys.stderr, flush=True)
        return name
    if skipped:
        raise InputError(
            f"no checkpoint in {store.url} is usable:" + "".join(f"\n  - {why}" for why in skipped),
            f"restore one of them; or delete {store.url} to start again from step 0",
        )
    return None


def keep_newest(store: Store, line: Sequence[str], n: int) -> None:
    """Keep the newest `n` checkpoints of a run, and delete the others.

    line: the names of the checkpoint that the run resumed from, if any, and of those that it has published since.
    Others that are newer than its first were skipped when the run began, so they do not count and are deleted.
    """
    found = published(store)
    kept = [*(name for name in found if name < line[0]), *line][-n:]
    for name in found:
        if name not in kept:
            store.remove_folder(name)


@contextmanager
def local_copy(store: Store, name: str) -> Iterator[Path]:
    """A checkpoint as a local folder: itself on a disk, a temporary copy of an object store's."""
    if store.is_local:
        yield Path(store.path(name))
        return
    with tempfile.TemporaryDirectory(prefix=f"raysys-{name}-") as folder:
        files = store.sub(name)
        for file in files.names():
            files.download(file, Path(folder, file))
        yield Path(folder)
