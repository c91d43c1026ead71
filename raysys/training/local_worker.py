"""Workers of a training whose checkpoints go to a folder that all workers see, or to an object store."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist

from raysys.errors import InputError
from raysys.tables import Store
from raysys.training.checkpoint import STATE, read_state
from raysys.training.checkpoint_folder import UNPUBLISHED, keep_newest, name_of
from raysys.training.worker import Request


@dataclass
class LocalWorker:
    """A worker whose checkpoints are folders that all workers see: `<root>/step-00000500`.

    keep_newest: how many checkpoints to keep; None = all. on_publish: called on rank 0 with the checkpoint's name.
    """

    root: Path
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    load_from: Path | None = None
    on_report: Callable[[dict[str, float]], None] = lambda metrics: None
    request: Callable[[], Request] = lambda: Request.NOTHING
    keep_newest: int | None = None
    on_publish: Callable[[str], None] = lambda name: None
    checkpoints: list[Path] = field(default_factory=list)
    """The checkpoints published by this worker, oldest first."""
    _line: list[str] = field(default_factory=list)

    def requested(self) -> Request:
        return self.request()

    def report(self, metrics: dict[str, float]) -> None:
        self.on_report(metrics)

    def checkpoint_folder(self, step: int) -> Path:
        """One folder for all workers: their files have different names."""
        folder = self.root / f"{UNPUBLISHED}{name_of(step)}"
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self._meet()
        return folder

    def keep(self, folder: Path, files: Sequence[str]) -> None:
        """Nothing to do: `publish` renames the folder."""

    def publish(self, folder: Path, step: int, metrics: dict[str, float]) -> None:
        final = self.root / name_of(step)
        if self.rank == 0:
            _check_shared(folder)
            shutil.rmtree(final, ignore_errors=True)
            folder.rename(final)
            self._published(final.name)
        self._meet()
        self.checkpoints.append(final)

    def _published(self, name: str) -> None:
        self.on_publish(name)
        if self.keep_newest is None:
            return
        if not self._line and self.load_from is not None:
            self._line.append(name_of(read_state(self.load_from).step))
        self._line.append(name)
        keep_newest(self._store, self._line, self.keep_newest)

    @property
    def _store(self) -> Store:
        return Store(self.root)

    def _meet(self) -> None:
        if self.world_size > 1:
            dist.barrier()


@dataclass
class StoreWorker(LocalWorker):
    """A worker whose checkpoints go to an object store. Every worker uploads its own files in the background; then
    rank 0 uploads state.json, which makes them a checkpoint. `root`: where the files are written first.
    """

    store: Store = field(kw_only=True)

    def checkpoint_folder(self, step: int) -> Path:
        """A folder of this worker's own: other workers may be on other machines."""
        folder = self.root / f"{name_of(step)}-rank-{self.rank}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if self.rank == 0:
            self.store.remove_folder(name_of(step))
        self._meet()
        return folder

    def keep(self, folder: Path, files: Sequence[str]) -> None:
        """Upload this worker's files."""
        name = folder.name.removesuffix(f"-rank-{self.rank}")
        for file in files:
            self.store.upload(folder / file, f"{name}/{file}")

    def publish(self, folder: Path, step: int, metrics: dict[str, float]) -> None:
        name = name_of(step)
        if self.rank == 0:
            self.store.write(f"{name}/{STATE}", (folder / STATE).read_bytes())
            self._published(name)
        shutil.rmtree(folder, ignore_errors=True)
        self._meet()

    @property
    def _store(self) -> Store:
        return self.store


def _check_shared(folder: Path) -> None:
    """Raise InputError if the other workers' files are not in `folder`."""
    try:
        read_state(folder)
    except InputError as exc:
        raise InputError(
            f"the workers do not see the same output folder: {exc.what}",
            "give an output on a file system that all nodes mount, or on an object store",
        ) from exc
