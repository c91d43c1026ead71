"""The output folder of a training: whether to start, resume or refuse; and export of the pipeline into it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from raysys.errors import InputError
from raysys.tables import Store
from raysys.tables.folder_output import FolderOutput
from raysys.training.checkpoint import load_weights
from raysys.training.recipe import Recipe

LAST = "model_index.json"
"""Uploaded last: without this file a folder is not a valid pipeline."""


def is_to_do(output: FolderOutput, max_steps: int) -> bool:
    """Whether there are steps left to train; marks the folder as begun. A larger max_steps resumes a finished training.

    Raises InputError if the folder holds another training, or one with more than max_steps steps. The record's summary
    must have "steps".
    """
    found = output.record()
    to_do = output.is_to_do(redo=lambda record: record.summary["steps"] < max_steps)
    is_same = found is not None and found.is_finished and not output.changed()
    if is_same and found.summary["steps"] > max_steps:
        raise InputError(
            f"{output.path} was trained for {found.summary['steps']} steps, max_steps is {max_steps}",
            "raise max_steps, or give another output folder",
        )
    if output.dry_run:
        return to_do
    if to_do and not is_same:
        output.begin()
    return to_do


def export_to(store: Store, name: str, recipe: Recipe, checkpoint: Path) -> None:
    """Export the averaged weights of a checkpoint to `<store>/<name>`: by one rename on a disk, else file by file."""
    with tempfile.TemporaryDirectory(prefix="raysys-") as scratch:
        target = Path(store.path(name)) if store.is_local else Path(scratch, name)
        recipe.export(lambda modules: load_weights(checkpoint, modules), target)
        files = [] if store.is_local else sorted(f for f in target.rglob("*") if f.is_file())
        for file in sorted(files, key=lambda f: f.name == LAST):
            store.write(f"{name}/{file.relative_to(target).as_posix()}", file.read_bytes())
