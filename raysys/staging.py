"""A folder that is replaced as a whole: written beside its place, and moved there when it is complete."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from raysys.errors import InputError


@contextlib.contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder beside `folder` that takes its place at the end of the block; after an exception it is removed.

    A killed process leaves it behind under `_<name>.staging`, and the old `folder` as it was; killed between the two
    renames at the end, it leaves the old folder under `_<name>.old`.
    """
    staging, old = folder.with_name(f"_{folder.name}.staging"), folder.with_name(f"_{folder.name}.old")
    shutil.rmtree(staging, ignore_errors=True)
    with naming_the_disk(folder.parent):
        staging.mkdir(parents=True)
    try:
        yield staging
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    staging.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def naming_the_disk(folder: Path) -> Iterator[None]:
    """An OSError within becomes an InputError: no space, no permission, a file in the way."""
    try:
        yield
    except OSError as exc:
        raise InputError(
            f"cannot write into {folder}: {exc.strerror or exc}", "make room or give another output folder"
        ) from exc
