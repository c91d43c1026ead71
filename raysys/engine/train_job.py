"""A training as a job, with or without Ray: what is run, its metrics.jsonl and its progress line. No Ray here."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from raysys.engine.config import TrainClusterConfig
from raysys.engine.trackers import Trackers
from raysys.progress import Progress
from raysys.tables import Store
from raysys.training.checkpoint import read_state
from raysys.training.local_worker import LocalWorker, StoreWorker
from raysys.training.worker import Request, Worker

METRICS = "metrics.jsonl"
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

    @property
    def checkpoints(self) -> Store:
        """Where the checkpoints are."""
        return Store(self.folder).sub("checkpoints")


def run_training(job: TrainJob, address: str | None) -> str:
    """Run a training to its end and return the name of its newest checkpoint. Raises the exception that made it fail.

    It resumes from the newest usable checkpoint in its folder. After Ctrl-C or SIGTERM, it writes a checkpoint and
    ends, and the interrupt is raised in the caller. A second signal, or the end of `stop_grace_s`, stops it at once.

    address: as in `raysys.engine.cluster.cluster`, or "inline" = one worker in this process. None is inline if there is
    one worker and no cluster.
    """
    if runs_inline(job.cluster, address):
        from raysys.engine.train_inline import run_inline

        newest = run_inline(job)
    else:
        from raysys.engine.cluster import cluster
        from raysys.engine.train import run_on_ray

        with cluster(address):
            newest = run_on_ray(job)
    if newest is None:
        raise RuntimeError(f"training {job.name} ended without a checkpoint in {job.folder}")
    return newest


def runs_inline(settings: TrainClusterConfig, address: str | None) -> bool:
    """Whether a training runs in this process; if nobody said so, prints that it does.

    In a study, which has started Ray, trainings run side by side in Ray.
    """
    if address is not None or os.environ.get("RAY_ADDRESS"):
        return address == "inline"
    connected = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    if settings.num_workers > 1 or connected:
        return False
    print("one worker, in this process without Ray (--address local starts one)", file=sys.stderr, flush=True)
    return True


@contextmanager
def job_worker(
    job: TrainJob,
    rank: int,
    world_size: int,
    device: torch.device,
    load_from: Path | None,
    request: Callable[[], Request],
    on_publish: Callable[[str], None],
) -> Iterator[LocalWorker]:
    """One worker of a job, in the process that runs it; rank 0 writes metrics.jsonl and the trackers.

    load_from: the checkpoint to resume from, as a local folder. on_publish: called with the name of each new
    checkpoint, on rank 0.
    """
    settings: dict[str, Any] = {"rank": rank, "world_size": world_size, "device": device, "load_from": load_from}
    settings |= {"request": request, "keep_newest": job.cluster.checkpoints_to_keep}
    with contextlib.ExitStack() as stack:
        if rank == 0:
            settings |= stack.enter_context(_records(job, load_from, on_publish))
        if job.checkpoints.is_local:
            yield LocalWorker(Path(job.checkpoints.url), **settings)
        else:
            scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="raysys-"))
            yield StoreWorker(Path(scratch), **settings, store=job.checkpoints)


@contextmanager
def _records(job: TrainJob, load_from: Path | None, on_publish: Callable[[str], None]) -> Iterator[dict[str, Any]]:
    """The hooks of rank 0: they write metrics.jsonl and the trackers."""
    metrics = MetricsFile(Store(job.folder), 0 if load_from is None else read_state(load_from).step)
    trackers = Trackers(job.folder, job.name, job.cluster)

    def report(values: dict[str, float]) -> None:
        metrics.add(values)
        trackers.log(values)

    def published(name: str) -> None:
        metrics.flush()
        on_publish(name)

    try:
        yield {"on_report": report, "on_publish": published}
    finally:
        trackers.close()


class MetricsFile:
    """metrics.jsonl: one record per report. A resumed run drops the records of the steps that it repeats."""

    def __init__(self, store: Store, step: int) -> None:
        """step: the step that the run starts from; 0 = from the beginning."""
        self._store = store
        self._records = [record for record in read_metrics(store) if record["step"] <= step]
        if store.exists(METRICS):
            self._write()

    def add(self, metrics: Mapping[str, float]) -> None:
        """Append on a disk. An object store cannot append; it gets the whole file at each checkpoint."""
        record = {"time": time.time(), **metrics}
        self._records.append(record)
        if self._store.is_local:
            self._store.append(METRICS, _line(record))

    def flush(self) -> None:
        """Ensure that the store holds every record."""
        if not self._store.is_local:
            self._write()

    def _write(self) -> None:
        self._store.write(METRICS, b"".join(map(_line, self._records)))


def read_metrics(store: Store) -> list[dict[str, Any]]:
    """The records of a training's metrics.jsonl; [] if the file does not exist yet."""
    return store.read_json_lines(METRICS)


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()


@contextmanager
def follow(job: TrainJob) -> Iterator[None]:
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
