"""Run a training on Ray Train, with checkpoints on storage. The same folder resumes it.

The training loop (`raysys.training`) does not depend on Ray; it gets a `Worker` (engine/train_job.py). Checkpoints are
not reported to Ray Train: its record of them would be a second truth beside the checkpoints, and can be damaged too.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any

import ray.train
from ray.actor import ActorHandle
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.constants import RAY_CHDIR_TO_TRIAL_DIR
from ray.train.torch import TorchConfig, TorchTrainer

from raysys.engine.concurrent import run_concurrently
from raysys.engine.train_job import TrainJob, follow
from raysys.engine.train_worker import RunState, run_worker
from raysys.errors import InputError
from raysys.tables import Store
from raysys.training.checkpoint_folder import resume_point

RAYS_FOLDER = "_ray"
"""Ray Train wants a folder on the same storage; it holds nothing that a run needs later."""


def run_on_ray(job: TrainJob) -> str | None:
    """Like `raysys.engine.train_job.run_training`, on the connected cluster; returns None if there is no checkpoint."""
    state = RunState.remote(resume_point(job.checkpoints))
    [newest] = run_concurrently(
        [partial(_run, job, state)],
        ask_to_stop=lambda: ray.get(state.stop.remote()),
        grace_s=job.cluster.stop_grace_s,
    )
    return newest


def _run(job: TrainJob, state: ActorHandle) -> str | None:
    cluster = job.cluster
    # Otherwise Ray Train starts its workers in another folder, where relative paths of the config do not exist.
    os.environ.setdefault(RAY_CHDIR_TO_TRIAL_DIR, "0")
    workers: Any = cluster.num_workers
    if cluster.min_workers is not None:
        workers = (cluster.min_workers, cluster.num_workers)
    Store(job.folder).remove_folder(RAYS_FOLDER)  # Ray Train would resume from what a killed run left there
    trainer = TorchTrainer(
        run_worker,
        train_loop_config={"job": job, "state": state},
        torch_config=TorchConfig(backend="nccl" if cluster.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=cluster.use_gpu,
            resources_per_worker={"CPU": cluster.cpus_per_worker, **({"GPU": 1} if cluster.use_gpu else {})},
            accelerator_type=cluster.accelerator_type,
        ),
        run_config=RunConfig(
            name=RAYS_FOLDER,
            storage_path=job.folder,
            failure_config=FailureConfig(max_failures=cluster.max_failures),
        ),
    )
    try:
        with follow(job):
            trainer.fit()
    except ray.train.TrainingFailedError:
        _raise_failure(state)
        raise
    finally:
        Store(job.folder).remove_folder(RAYS_FOLDER)
    _raise_failure(state)
    return ray.get(state.newest.remote())


def _raise_failure(state: ActorHandle) -> None:
    """Raise the InputError that ended the run, if one did."""
    if failure := ray.get(state.failure.remote()):
        raise InputError(*failure)
