"""Run a training on Ray Train, with checkpoints on storage. The same folder resumes it.

The training loop (`raysys.training`) does not depend on Ray; it gets a `Worker` (engine/train_worker.py).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray.train
from ray.actor import ActorHandle
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.constants import RAY_CHDIR_TO_TRIAL_DIR
from ray.train.torch import TorchConfig, TorchTrainer

from raysys.engine.concurrent import run_concurrently
from raysys.engine.config import TrainClusterConfig
from raysys.engine.train_worker import StopFlag, read_metrics, run_worker
from raysys.errors import InputError
from raysys.progress import Progress
from raysys.tables import Store
from raysys.training.worker import Worker

POLL_S = 1.0


@dataclass(frozen=True)
class TrainJob:
    """One training: `loop(worker, loop_config)` runs on every worker and writes only under `folder`.

    name: shown in the progress line. total_steps: for percentage and ETA.
    """

    name: str
    folder: str
    loop: Callable[[Worker, Any], None]
    loop_config: Any
    total_steps: int
    cluster: TrainClusterConfig


def run_training(job: TrainJob) -> Checkpoint:
    """Run a training to its end and return the last checkpoint. Raises the exception that made it fail.

    It resumes from the newest checkpoint in its folder. After Ctrl-C or SIGTERM, it writes a checkpoint and ends, and
    the interrupt is raised in the caller. A second signal, or the end of `stop_grace_s`, stops it immediately.
    """
    stop = StopFlag.remote()
    [checkpoint] = run_concurrently(
        [partial(_run, job, stop)],
        ask_to_stop=lambda: ray.get(stop.set.remote()),
        grace_s=job.cluster.stop_grace_s,
    )
    return checkpoint


def _run(job: TrainJob, stop: ActorHandle) -> Checkpoint:
    cluster = job.cluster
    # Otherwise Ray Train starts its workers in another folder, where relative paths of the config do not exist.
    os.environ.setdefault(RAY_CHDIR_TO_TRIAL_DIR, "0")
    workers: Any = cluster.num_workers
    if cluster.min_workers is not None:
        workers = (cluster.min_workers, cluster.num_workers)
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"job": job, "stop": stop},
        torch_config=TorchConfig(backend="nccl" if cluster.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": 1} if cluster.use_gpu else {})},
            accelerator_type=cluster.accelerator_type,
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=job.folder,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=cluster.checkpoints_to_keep),
        ),
    )
    try:
        with _follow(job):
            result = trainer.fit()
    except ray.train.TrainingFailedError as exc:
        raise _user_mistake(exc) or exc from None
    if result.checkpoint is None:
        raise RuntimeError(f"training {job.name} ended without a checkpoint in {job.folder}")
    return result.checkpoint


def _user_mistake(exc: BaseException) -> InputError | None:
    """The InputError raised by a worker, if one ended the training."""
    for failure in getattr(exc, "worker_failures", {}).values():
        cause = failure
        while cause is not None:
            if isinstance(cause, InputError):
                return cause
            cause = getattr(cause, "cause", None) or cause.__cause__
    return None


@contextmanager
def _follow(job: TrainJob):
    """Show the workers' metrics.jsonl as one progress line while the training runs."""
    store, stop = Store(job.folder), threading.Event()
    with Progress(job.name, job.total_steps, "steps", starting="workers start and load the models") as bar:

        def poll() -> None:
            shown = 0
            while not stop.wait(POLL_S):
                record = _last_record(store)
                if record and record["step"] > shown:
                    shown = record["step"]
                    bar.update(shown, loss=record["loss"])

        thread = threading.Thread(target=poll, daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            if record := _last_record(store):
                bar.update(record["step"], loss=record["loss"])
                if record["step"] < job.total_steps:  # for Ray, a training that was asked to stop is a success
                    bar.close("stopped")


def _last_record(store: Store) -> dict[str, Any] | None:
    records = read_metrics(store)
    return records[-1] if records else None
