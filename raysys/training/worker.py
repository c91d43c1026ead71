"""The interface between the training loop and where it runs, and a worker that does not need Ray.

A worker is one process of a training. If there are several, they are the ranks of torch's default process group.
"""

from __future__ import annotations

import enum
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist


class Request(enum.IntEnum):
    """A request to a worker from outside the loop. The strongest request to any worker applies to all workers."""

    NOTHING = 0
    CHECKPOINT = 1
    """Save a checkpoint now and continue, because the machine may be preempted soon."""
    STOP = 2
    """Save a checkpoint now and return."""


class Worker(Protocol):
    """What `fit` needs from its environment."""

    rank: int
    world_size: int
    device: torch.device
    load_from: Path | None
    """A complete checkpoint to resume from."""

    def requested(self) -> Request:
        """The current request. Called after every step, so it must be cheap."""

    def report(self, metrics: dict[str, float]) -> None:
        """Record the metrics of the steps since the last report. Called on every worker with the same values."""

    def checkpoint_folder(self, step: int) -> Path:
        """An empty folder for this worker's files of the checkpoint after `step`."""

    def publish(self, folder: Path, step: int, metrics: dict[str, float]) -> None:
        """Publish the files that all workers have finished writing as one complete checkpoint.

        Called on every worker, in the same order. The callee now owns `folder`. An incomplete checkpoint must never be
        visible.
        """


@dataclass
class LocalWorker:
    """A worker in this process, alone or one of several on this machine. Checkpoints: `<root>/step-00000500`."""

    root: Path
    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    load_from: Path | None = None
    on_report: Callable[[dict[str, float]], None] = lambda metrics: None
    request: Callable[[], Request] = lambda: Request.NOTHING
    checkpoints: list[Path] = field(default_factory=list)
    """The published checkpoints, oldest first."""

    def requested(self) -> Request:
        return self.request()

    def report(self, metrics: dict[str, float]) -> None:
        self.on_report(metrics)

    def checkpoint_folder(self, step: int) -> Path:
        """One folder for all workers: their files have different names."""
        folder = self.root / f"_step-{step:08d}"
        if self.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        self._meet()
        return folder

    def publish(self, folder: Path, step: int, metrics: dict[str, float]) -> None:
        final = self.root / f"step-{step:08d}"
        if self.rank == 0:
            shutil.rmtree(final, ignore_errors=True)
            folder.rename(final)
        self._meet()
        self.checkpoints.append(final)

    def _meet(self) -> None:
        if self.world_size > 1:
            dist.barrier()
