"""The interface between the training loop and where it runs (local_worker.py).

A worker is one process of a training. If there are several, they are the ranks of torch's default process group.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch


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

    def keep(self, folder: Path, files: Sequence[str]) -> None:
        """Store this worker's finished files where checkpoints are kept. Called in a background thread."""

    def publish(self, folder: Path, step: int, metrics: dict[str, float]) -> None:
        """Publish the files that all workers have finished writing as one complete checkpoint.

        Called on every worker, in the same order. The callee now owns `folder`. An incomplete checkpoint must never be
        visible.
        """
