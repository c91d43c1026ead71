"""What runs inside Ray Train's workers: the training loop's `Worker`, metrics.jsonl, stop and preemption requests."""

from __future__ import annotations

import json
import shutil
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.actor import ActorHandle
from ray.train import Checkpoint, CheckpointUploadMode
from ray.train.v2._internal.execution.context import get_train_context

from raysys.engine.trackers import Trackers
from raysys.tables import Store
from raysys.training.worker import Request

if TYPE_CHECKING:
    from raysys.engine.train import TrainJob

METRICS = "metrics.jsonl"
STOP_POLL_S = 1.0
"""Interval at which a worker asks whether its driver wants to stop."""


@ray.remote(num_cpus=0)
class StopFlag:
    """Lives with the driver; every worker of its training asks it."""

    def __init__(self) -> None:
        self._is_set = False

    def set(self) -> None:
        self._is_set = True

    def is_set(self) -> bool:
        return self._is_set


def run_worker(config: Mapping[str, Any]) -> None:
    """What Ray Train runs on every worker: the job's loop, resuming from the newest checkpoint."""
    job: TrainJob = config["job"]
    torch.use_deterministic_algorithms(True, warn_only=True)
    checkpoint = ray.train.get_checkpoint()
    worker = RayWorker(job, config["stop"])
    try:
        if checkpoint is None:
            job.loop(worker, job.loop_config)
        else:
            with checkpoint.as_directory() as folder:
                worker.load_from = Path(folder)
                job.loop(worker, job.loop_config)
    finally:
        worker.close()


class RayWorker:
    """One worker of Ray Train. Checkpoints go to `<folder>/checkpoints`; each worker uploads its own files.

    Ray registers a checkpoint once all workers have uploaded their files; only then can a resumed run find it.
    """

    def __init__(self, job: TrainJob, stop: ActorHandle) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.load_from: Path | None = None
        self._metrics = MetricsFile(Store(job.folder)) if self.rank == 0 else None
        self._trackers = Trackers(job.folder, job.name, job.cluster) if self.rank == 0 else None
        self._stop = _watch(stop)
        self._preemption: Any = None
        self._unpublished: Path | None = None

    def requested(self) -> Request:
        """STOP when the driver wants to stop; CHECKPOINT once for each announced preemption of a node.

        After a preemption Ray restarts the workers from the newest checkpoint on other nodes; a worker that returned
        would end the run. `ray.train.get_preemption_info` gives the same information, but is a barrier of all workers;
        the loop has a cheaper way to agree (`Agreement`).
        """
        if self._stop.is_set():
            return Request.STOP
        announced = get_train_context().preemption_context.preemption_info
        if announced is not None and announced != self._preemption:
            self._preemption = announced
            return Request.CHECKPOINT
        return Request.NOTHING

    def report(self, metrics: dict[str, float]) -> None:
        """Write to metrics.jsonl and the trackers, on rank 0. `ray.train.report` is used for checkpoints only, because
        Ray Train fetches one report every 2 s."""
        if self._metrics is not None and self._trackers is not None:
            self._metrics.add(metrics)
            self._trackers.log(metrics)

    def checkpoint_folder(self, step: int) -> Path:
        """A temporary folder of this worker: workers on one machine must not delete each other's files."""
        self._unpublished = Path(tempfile.mkdtemp(prefix=f"raysys-step-{step:08d}-"))
        return self._unpublished

    def publish(self, folder: Path, step: int, metrics: dict[str, float]) -> None:
        """Upload in the background. Ray then deletes the folder, and waits for the upload before it ends the worker."""
        if self._metrics is not None:
            self._metrics.flush()
        self._unpublished = None
        mode = CheckpointUploadMode.ASYNC
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder), checkpoint_upload_mode=mode)

    def close(self) -> None:
        if self._trackers is not None:
            self._trackers.close()
        if self._unpublished is not None:
            shutil.rmtree(self._unpublished, ignore_errors=True)


def _watch(flag: ActorHandle) -> threading.Event:
    """An event that is set soon after the flag. Its thread ends with the process or with the flag's actor."""
    found = threading.Event()

    def poll() -> None:
        while not found.wait(STOP_POLL_S):
            try:
                if ray.get(flag.is_set.remote()):
                    found.set()
            except ray.exceptions.RayError:
                return

    threading.Thread(target=poll, name="stop-flag", daemon=True).start()
    return found


class MetricsFile:
    """metrics.jsonl: one record per report. Records of steps that a resumed run repeats replace the old ones."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records: list[dict[str, Any]] | None = None

    def add(self, metrics: Mapping[str, float]) -> None:
        """Append on a disk. An object store cannot append; it gets the whole file at each checkpoint."""
        record = {"time": time.time(), **metrics}
        resumed = self._records is None
        if self._records is None:
            self._records = [r for r in read_metrics(self._store) if r["step"] < metrics["step"]]
        self._records.append(record)
        if self._store.is_local and resumed:
            self._write()
        elif self._store.is_local:
            self._store.append(METRICS, _line(record))

    def flush(self) -> None:
        """Ensure that the store holds every record."""
        if not self._store.is_local:
            self._write()

    def _write(self) -> None:
        self._store.write(METRICS, b"".join(map(_line, self._records or [])))


def read_metrics(store: Store) -> list[dict[str, Any]]:
    """The records of a training's metrics.jsonl; [] if the file does not exist yet."""
    return store.read_json_lines(METRICS)


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()
