"""Run a training loop on Ray Train workers: DDP, checkpoints on storage, resume by the same folder, metrics.jsonl.

The loop itself (`raysys.training`) knows no Ray: it gets its rank, a way to wrap the model, the checkpoint to resume
from and a `report` function from here.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.constants import RAY_CHDIR_TO_TRIAL_DIR
from ray.train.torch import TorchConfig, TorchTrainer

from raysys.engine.config import TrainEngineConfig
from raysys.engine.together import together
from raysys.engine.trackers import Trackers
from raysys.errors import InputError
from raysys.progress import Progress
from raysys.tables import Store

METRICS = "metrics.jsonl"
POLL_S = 1.0


@dataclass(frozen=True)
class Worker:
    """What a training loop needs to know of the worker it runs in."""

    rank: int
    world_size: int
    device: torch.device
    wrap_model: Callable[[torch.nn.Module], torch.nn.Module]
    load_from: Path | None
    checkpoint_root: Path
    report: Callable[[dict[str, float], Path | None, bool], None]


@dataclass(frozen=True)
class TrainJob:
    """One training: `loop(worker, loop_config)` runs on every worker; everything it leaves lies under `folder`.

    name: shown in the progress line; total_steps: for percentage and ETA.
    """

    name: str
    folder: str
    loop: Callable[[Worker, Any], None]
    loop_config: Any
    total_steps: int
    engine: TrainEngineConfig


def run_trainings(jobs: list[TrainJob]) -> list[Checkpoint]:
    """Run trainings at the same time; their last checkpoints, in order.

    Each goes on from the newest checkpoint in its folder. The first failure is raised after all have ended.
    """
    return together([partial(_run, job) for job in jobs])


def _run(job: TrainJob) -> Checkpoint:
    engine = job.engine
    # Ray Train would start its workers in a folder of its own, where a relative training_set names nothing.
    os.environ.setdefault(RAY_CHDIR_TO_TRIAL_DIR, "0")
    workers: Any = engine.num_workers
    if engine.min_workers is not None:
        workers = (engine.min_workers, engine.num_workers)
    trainer = TorchTrainer(
        _train_worker,
        train_loop_config={"job": job},
        torch_config=TorchConfig(backend="nccl" if engine.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=engine.use_gpu,
            resources_per_worker={"CPU": engine.cpus_per_worker, **({"GPU": 1} if engine.use_gpu else {})},
            accelerator_type=engine.accelerator_type,
        ),
        run_config=RunConfig(
            name="checkpoints",
            storage_path=job.folder,
            failure_config=FailureConfig(max_failures=engine.max_failures),
            checkpoint_config=CheckpointConfig(num_to_keep=engine.checkpoints_to_keep),
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
    """The InputError that a worker raised, if that is what ended the training."""
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
    with Progress(job.name, job.total_steps, "steps") as bar:

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


def _last_record(store: Store) -> dict[str, Any] | None:
    records = read_metrics(store)
    return records[-1] if records else None


def read_metrics(store: Store) -> list[dict[str, Any]]:
    """The records of a training's metrics.jsonl; [] when there are none yet."""
    try:
        lines = store.read(METRICS).decode().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


# --- inside the workers ---


def _train_worker(config: Mapping[str, Any]) -> None:
    job: TrainJob = config["job"]
    torch.use_deterministic_algorithms(True, warn_only=True)
    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    root = Path(tempfile.mkdtemp(prefix="raysys-checkpoints-"))
    checkpoint = ray.train.get_checkpoint()
    reporter = _Reporter(job, rank)
    try:
        if checkpoint is None:
            job.loop(_worker(rank, world_size, None, root, reporter), job.loop_config)
        else:
            with checkpoint.as_directory() as folder:
                job.loop(_worker(rank, world_size, Path(folder), root, reporter), job.loop_config)
    finally:
        reporter.close()
        shutil.rmtree(root, ignore_errors=True)


def _worker(rank: int, world_size: int, load_from: Path | None, root: Path, reporter: _Reporter) -> Worker:
    def wrap(model: torch.nn.Module) -> torch.nn.Module:
        # With one worker there is nothing to average, and the bare model keeps one worker equal to no engine at all.
        return ray.train.torch.prepare_model(model, move_to_device=False) if world_size > 1 else model

    return Worker(rank, world_size, ray.train.torch.get_device(), wrap, load_from, root, reporter)


class _Reporter:
    """metrics.jsonl (rank 0), then the checkpoint to Ray Train, on every rank when one is due."""

    def __init__(self, job: TrainJob, rank: int) -> None:
        self._store, self._rank = Store(job.folder), rank
        self._records: list[dict[str, Any]] | None = None
        self._trackers = Trackers(job.folder, job.name, job.engine) if rank == 0 else None

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None, due: bool) -> None:
        if self._rank == 0:
            self._record(metrics, due)
        if not due:  # Ray fetches one report every 2 s and the loop waits for it: only checkpoints go that way
            return
        ray.train.report(metrics, checkpoint=None if checkpoint is None else Checkpoint.from_directory(checkpoint))
        if checkpoint is not None:
            shutil.rmtree(checkpoint)

    def _record(self, metrics: dict[str, float], due: bool) -> None:
        """Append on a disk; on an object store, which cannot append, publish the whole file with each checkpoint."""
        record = {"time": time.time(), **metrics}
        resumed = self._records is None
        if self._records is None:  # after a resume the steps that are done again replace their old records
            self._records = [r for r in read_metrics(self._store) if r["step"] < metrics["step"]]
        self._records.append(record)
        if self._store.is_local and not resumed:
            self._store.append(METRICS, _line(record))
        elif self._store.is_local or due:
            self._store.write(METRICS, b"".join(map(_line, self._records)))
        assert self._trackers is not None
        self._trackers.log(metrics)

    def close(self) -> None:
        if self._trackers is not None:
            self._trackers.close()


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()
