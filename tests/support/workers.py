"""Several workers of one training, as processes of this machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn


def run_workers(work: Callable[[int, Path], None], n: int, root: Path) -> None:
    """`work(rank, root)` in each of `n` new processes of one process group, to their end. Fails when one of them does.

    `work` is a function of a module. Each start costs an import of torch.
    """
    spawn(_joined, (work, n, root), nprocs=n)


def _joined(rank: int, work: Callable[[int, Path], None], n: int, root: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous-{n}", rank=rank, world_size=n)
    work(rank, root)
    dist.destroy_process_group()
