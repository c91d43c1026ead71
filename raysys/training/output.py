"""The output folder of a training: whether to start, resume or refuse; and export of the pipeline into it."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from raysys.errors import InputError
from raysys.tables import Store
from raysys.tables.folder_output import FolderOutput, naming_the_disk
from raysys.training.checkpoint import load_weights
from raysys.training.recipe import Modules, Recipe

LAST = "model_index.json"
"""Uploaded last: without this file a folder is not a valid pipeline."""


def is_to_do(output: FolderOutput, max_steps: int) -> bool:
    """Whether there are steps left to train. A larger max_steps resumes a finished training.

    Raises InputError if the folder holds another training, or one with more than max_steps steps. The record's summary
    must have "steps".
    """
    to_do = output.is_to_do(redo=lambda record: record.summary["steps"] < max_steps)
    found = output.record()
    if _is_finished(output) and found.summary["steps"] > max_steps:
        raise InputError(
            f"{output.path} was trained for {found.summary['steps']} steps, max_steps is {max_steps}",
            "raise max_steps, or give another output folder",
        )
    return to_do


def begin(output: FolderOutput, max_steps: int) -> bool:
    """`is_to_do`, and mark the folder as begun if it is. Call inside `output.alone()`."""
    to_do = is_to_do(output, max_steps)
    if to_do and not _is_finished(output):
        output.begin()
    return to_do


def _is_finished(output: FolderOutput) -> bool:
    """Whether the folder holds this training, finished."""
    found = output.record()
    return found is not None and found.is_finished and not output.changed()


def export_to(store: Store, name: str, recipe: Recipe, checkpoint: Path) -> None:
    """Export the averaged weights of a checkpoint to `<store>/<name>`: by one rename on a disk, else file by file.

    Raises InputError if the disk is full.
    """

    def weights(modules: Modules) -> None:
        load_weights(checkpoint, modules)

    if store.is_local:
        with _naming_the_disk(Path(store.path(name))):
            recipe.export(weights, Path(store.path(name)))
        return
    with tempfile.TemporaryDirectory(prefix="raysys-") as scratch:
        with _naming_the_disk(Path(scratch, name)):
            target = recipe.export(weights, Path(scratch, name))
        files = sorted(f for f in target.rglob("*") if f.is_file())
        for file in sorted(files, key=lambda f: f.name == LAST):
            store.write(f"{name}/{file.relative_to(target).as_posix()}", file.read_bytes())


@contextlib.contextmanager
def _naming_the_disk(folder: Path) -> Iterator[None]:
    """`naming_the_disk`, also for safetensors, which reports errors of the disk as its own class."""
    try:
        with naming_the_disk(folder):
            yield
    except SafetensorError as exc:
        if "I/O error" not in str(exc):
            raise
        raise InputError(
            f"cannot write into {folder}: {str(exc).rpartition('I/O error: ')[2]}",
            "free disk space, then run the same command again: it resumes",
        ) from exc
