"""Run a training with one worker in this process, without Ray: for laptops, notebooks and debuggers.

Checkpoints, metrics and numbers are the same as with Ray; each can resume the other's runs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch

from raysys.engine.concurrent import run_concurrently
from raysys.engine.train_job import TrainJob, follow, job_worker
from raysys.errors import InputError
from raysys.training.checkpoint_folder import local_copy, resume_point
from raysys.training.worker import Request


def run_inline(job: TrainJob) -> str | None:
    """Like `run_training`; returns None if there is no checkpoint. Raises InputError if the job has several workers."""
    if job.cluster.num_workers > 1:
        raise InputError(
            f"cluster.num_workers = {job.cluster.num_workers}: --address inline runs one worker",
            "use --address local, or set cluster.num_workers=1",
        )
    if job.cluster.use_gpu and not torch.cuda.is_available():
        raise InputError("cluster.use_gpu = true, but torch sees no GPU here", "set it to false, or give a Ray address")
    stop = threading.Event()
    [newest] = run_concurrently([partial(_run, job, stop)], ask_to_stop=stop.set, grace_s=job.cluster.stop_grace_s)
    return newest


def _run(job: TrainJob, stop: threading.Event) -> str | None:
    newest = start = resume_point(job.checkpoints)
    device = torch.device("cuda" if job.cluster.use_gpu else "cpu")

    def published(name: str) -> None:
        nonlocal newest
        newest = name

    def request() -> Request:
        return Request.STOP if stop.is_set() else Request.NOTHING

    with (
        follow(job),
        _settings(job),
        _resumed(job, start) as folder,
        job_worker(job, 0, 1, device, folder, request, published) as worker,
    ):
        job.loop(worker, job.loop_config)
    return newest


@contextmanager
def _resumed(job: TrainJob, name: str | None) -> Iterator[Path | None]:
    if name is None:
        yield None
        return
    with local_copy(job.checkpoints, name) as folder:
        yield folder


@contextmanager
def _settings(job: TrainJob) -> Iterator[None]:
    """torch's settings in Ray's workers, because results depend on them; the process gets its own back."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(max(1, int(job.cluster.cpus_per_worker)))
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
