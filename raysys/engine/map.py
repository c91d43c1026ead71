"""Map a stage over the pending chunks of a table with Ray Data: read → stage → commit, streaming.

A chunk is sent as one row (its description, and its items as Arrow IPC bytes). So Ray cannot split or merge chunks,
column types are preserved, and an empty chunk is sent, too. Only small statistics reach the driver.
"""

from __future__ import annotations

import sys
import threading
import time
from contextlib import closing
from functools import cache
from typing import Any

import ray
import ray.data

from raysys.engine.chunk_work import Target
from raysys.engine.config import PoolConfig
from raysys.engine.drive import MapResult, drive
from raysys.engine.read_ahead import limit_read_ahead
from raysys.engine.workers import OncePerWorker, StageActor, commit_rows, read_items, whole_chunks
from raysys.errors import InputError
from raysys.tables import Chunk
from raysys.tables.job import TableJob, TableRun


def run_map(run: TableRun) -> MapResult:
    """Process all pending chunks. Raises the same exceptions as `raysys.engine.drive.drive`."""
    chunks = run.chunks()
    if not chunks:
        return MapResult()
    if run.job.stage.heavy:
        _explain_once()
    dataset = _dataset(run, chunks)
    batches = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))
    # Closed here and not by the garbage collector: after an error, Ray Data's threads would still run when Ray is shut
    # down, and print tracebacks.
    with _Watchdog(run.job) as watchdog, closing(batches):
        reports = (report for batch in batches for report in batch.to_pylist())
        starting = "workers start and load the model" if run.job.stage.heavy else "workers start"
        result = drive(run, len(chunks), reports, watchdog.alive, starting)
    result.stats = dataset.stats()
    return result


@cache
def _explain_once() -> None:
    """Explain an error that Ray's core writes to the terminal for each actor of Ray Data; it cannot be switched off by
    itself."""
    print(
        'ray: "core_worker … the actor restart will fail" is harmless here: Ray Data keeps what its actors need until '
        "the run ends",
        file=sys.stderr,
    )


def _dataset(run: TableRun, chunks: list[Chunk]) -> ray.data.Dataset:
    job, cluster, heavy = run.job, run.job.cluster, run.job.stage.heavy
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # our progress line shows rows and outcomes
    context.target_max_block_size = None
    limit_read_ahead(context, cluster.chunks_read if heavy else cluster.max_chunks_read)
    for name, value in cluster.data_context.items():
        if not hasattr(context, name):
            raise InputError(f"cluster.data_context.{name}: ray.data.DataContext has no such attribute", "remove it")
        setattr(context, name, value)
    dataset = ray.data.range(len(chunks), override_num_blocks=len(chunks))
    batches = {"batch_size": None, "batch_format": "pyarrow"}
    light = {**batches, "num_cpus": cluster.load_cpus}
    work = run.for_workers()
    # `AttemptLog` relies on Ray Data's default of restarting dead workers without limit: a poison row is found by
    # counting the failed attempts on storage.
    if not heavy:
        kwargs = {"work": OncePerWorker((work, chunks))}
        return dataset.map_batches(whole_chunks, fn_kwargs=kwargs, **batches, **_worker_args(cluster.pool))
    # Tasks that read and commit do not get the stage, because unpickling it would import the libraries of the model.
    kwargs = {"load": job.load, "chunks": OncePerWorker(chunks)}
    dataset = dataset.map_batches(read_items, fn_kwargs=kwargs, **light)
    dataset = dataset.map_batches(StageActor, fn_constructor_args=(work,), **batches, **_pool_args(cluster.pool))
    return dataset.map_batches(commit_rows, fn_kwargs={"target": Target.of(run)}, **light)


def _pool_args(pool: PoolConfig) -> dict[str, Any]:
    """Arguments of an actor pool. With several chunks in flight, its actors are threaded and prefetch one chunk."""
    sizes = {"min_size": pool.min_size, "max_size": pool.max_size}
    if pool.chunks_in_flight in (None, 1):
        return {"compute": ray.data.ActorPoolStrategy(**sizes), **_worker_args(pool)}
    threads = {
        "max_tasks_in_flight_per_actor": pool.chunks_in_flight + 1,
        "max_concurrent_calls_per_actor": pool.chunks_in_flight,
        "enable_true_multi_threading": True,
    }
    return {"compute": ray.data.ActorPoolStrategy(**sizes, **threads), **_worker_args(pool)}


def _worker_args(pool: PoolConfig) -> dict[str, Any]:
    args = {
        "num_cpus": pool.num_cpus,
        "num_gpus": pool.num_gpus or None,
        "memory": pool.memory_bytes,
        "resources": pool.resources,
        "label_selector": pool.label_selector,
        "accelerator_type": pool.accelerator_type,
        "runtime_env": pool.runtime_env,
    }
    return {name: value for name, value in args.items() if value is not None}


class _Watchdog:
    """Prints the resources of the cluster if no chunk finishes for some time, to make deadlocks visible."""

    def __init__(self, job: TableJob) -> None:
        self._job, self._last, self._stop = job, time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def alive(self) -> None:
        self._last = time.monotonic()

    def _watch(self) -> None:
        period = self._job.cluster.watchdog_s
        while not self._stop.wait(period / 4):
            if time.monotonic() - self._last > period:
                self._last = time.monotonic()
                pool = self._job.cluster.pool
                print(
                    f"{self._job.label}: no chunk finished for {period:.0f} s; a worker needs "
                    f"{pool.num_cpus:g} CPU {pool.num_gpus:g} GPU, the cluster has {ray.cluster_resources()}, "
                    f"free now {ray.available_resources()}",
                    file=sys.stderr,
                    flush=True,
                )

    def __enter__(self) -> _Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
