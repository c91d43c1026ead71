"""What runs inside Ray Train's workers: the training's worker, stop and preemption requests."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import ray.train
import ray.train.torch
import torch
from ray.actor import ActorHandle
from ray.train import Checkpoint
from ray.train.v2._internal.execution.context import get_train_context

from raysys.engine.train_job import job_worker
from raysys.errors import InputError
from raysys.training.worker import Request

if TYPE_CHECKING:
    from raysys.engine.train_job import TrainJob

STOP_POLL_S = 1.0
"""Interval at which a worker asks whether its driver wants to stop."""


@ray.remote(num_cpus=0)
class RunState:
    """What the driver and all workers of one run know. It lives with the driver and outlives workers.

    newest: name of the newest checkpoint, from which restarted workers resume.
    failure: (what, fix) of the InputError that ended the run, which the driver raises.
    """

    def __init__(self, newest: str | None) -> None:
        self._newest, self._failure, self._stops = newest, None, False

    def stop(self) -> None:
        self._stops = True

    def stops(self) -> bool:
        return self._stops

    def publish(self, name: str) -> None:
        self._newest = name

    def newest(self) -> str | None:
        return self._newest

    def fail(self, what: str, fix: str) -> None:
        self._failure = (what, fix)

    def failure(self) -> tuple[str, str] | None:
        return self._failure


def run_worker(config: Mapping[str, Any]) -> None:
    """What Ray Train runs on every worker: the job's loop, resuming from the newest checkpoint."""
    job: TrainJob = config["job"]
    state: ActorHandle = config["state"]
    if ray.get(state.failure.remote()) is not None:
        return  # it would fail again, as often as `max_failures` allows; for Ray, the run ends well
    torch.use_deterministic_algorithms(True, warn_only=True)
    context = ray.train.get_context()
    rank, device = context.get_world_rank(), ray.train.torch.get_device()
    requests = Requests(_watch(state))

    def published(name: str) -> None:
        ray.get(state.publish.remote(name))

    try:
        with (
            _resumed(job, ray.get(state.newest.remote())) as folder,
            job_worker(job, rank, context.get_world_size(), device, folder, requests, published) as worker,
        ):
            job.loop(worker, job.loop_config)
    except InputError as exc:
        ray.get(state.fail.remote(exc.what, exc.fix))
        raise


@contextlib.contextmanager
def _resumed(job: TrainJob, name: str | None) -> Iterator[Path | None]:
    """The checkpoint as a local folder; workers on one node share one copy of an object store's."""
    if name is None:
        yield None
        return
    with Checkpoint(job.checkpoints.path(name)).as_directory() as folder:
        yield Path(folder)


class Requests:
    """The requests to one worker; call it after every step."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._preemption: Any = None

    def __call__(self) -> Request:
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


def _watch(state: ActorHandle) -> threading.Event:
    """An event that is set soon after the driver asks to stop. Its thread ends with the process or with the actor."""
    found = threading.Event()

    def poll() -> None:
        while not found.wait(STOP_POLL_S):
            try:
                if ray.get(state.stops.remote()):
                    found.set()
            except ray.exceptions.RayError:
                return

    threading.Thread(target=poll, name="stop-flag", daemon=True).start()
    return found
