"""Map a stage over the pending chunks of a table with Ray Data: read → stage → commit, streaming.

A chunk travels as ONE row (its description and its items as Arrow IPC bytes), so Ray can neither split nor merge
chunks, block types are never lost and an empty chunk still arrives. Only small statistics reach the driver.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import ray
import ray.data

from raysys.engine.config import PoolConfig
from raysys.engine.map_job import MapJob, first_items
from raysys.engine.meters import Meters
from raysys.engine.metrics_file import appended
from raysys.engine.read_ahead import limit_read_ahead
from raysys.engine.workers import OncePerWorker, StageActor, commit_rows, read_items, target_of, whole_chunks
from raysys.errors import InputError, RunFailed
from raysys.outcomes import Counts
from raysys.progress import Progress
from raysys.tables import Chunk, Output

ERRORS_BEFORE_STOP = 20
"""A handful of errors may be bad luck at the start of a run; from here on the fraction decides."""


@dataclass
class MapResult:
    """What one run did."""

    counts: Counts = field(default_factory=Counts)
    n_chunks: int = 0
    failed_chunks: list[str] = field(default_factory=list)
    meters: Meters = field(default_factory=Meters)
    seconds: float = 0.0
    stats: str = ""


def run_map(job: MapJob) -> MapResult:
    """Run all pending chunks. Raises RunFailed (errors above the allowed fraction, chunks that could not be read)
    or InputError (no space left, missing model); in every case the committed parts stay and a rerun goes on."""
    chunks, result = job.chunks(), MapResult(meters=Meters(job.engine.pool.num_gpus))
    if not chunks:
        return result
    began = time.monotonic()
    total = sum(c.stop - c.start for c in first_items(job.output.chunks, job.limit))
    already = total - sum(c.stop - c.start for c in chunks)
    dataset = _dataset(job, chunks)
    with (
        appended(job.output.folder, "_run/metrics.jsonl") as metrics,
        Progress(
            _label(job.output), total, "rows", job.engine.progress_interval_s, metrics=metrics, start=already
        ) as bar,
        _Watchdog(job) as watchdog,
    ):
        done = already
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow"):
            for report in batch.to_pylist():
                watchdog.alive()
                done += _account(report, result)
                bar.update(done, counts=result.counts, sums=result.meters.sums, **result.meters.shown())
                _stop_if_too_many_errors(result.counts, job)
    result.seconds = time.monotonic() - began
    result.stats = dataset.stats()
    _check_conserved(result, done - already, job)
    if result.failed_chunks:
        raise RunFailed(
            f"{len(result.failed_chunks)} of {len(chunks)} chunks could not be processed and stay pending, "
            f"first: {result.failed_chunks[0]}\n  fix: run the same command again"
        )
    return result


def _label(output: Output) -> str:
    """What the progress line calls a table: several jobs may run at once."""
    return f"{output.producer} {'/'.join(output.table.url.split('/')[-2:])}"


def _account(report: dict[str, Any], result: MapResult) -> int:
    if report["fatal"]:
        what, fix = json.loads(report["fatal"])
        raise InputError(what, fix)
    if report["problem"]:
        result.failed_chunks.append(report["problem"])
        return 0
    result.n_chunks += 1
    result.counts.merge(Counts.from_dict(json.loads(report["counts"])))
    result.meters.add(json.loads(report["meters"] or "{}"))
    return report["n_items"]


def _check_conserved(result: MapResult, n_items: int, job: MapJob) -> None:
    """n_items = kept + rejected + error. Keyed jobs are checked key by key in each chunk (`process_chunk`)."""
    if job.only is None and not job.keyed and result.counts.total != n_items:
        raise RunFailed(f"{n_items} items went in but {result.counts.as_dict()} came out of {job.output.producer}")


def _stop_if_too_many_errors(counts: Counts, job: MapJob) -> None:
    if job.only is not None:  # a retry meets nothing but rows that failed before
        return
    if counts.n_error >= ERRORS_BEFORE_STOP and counts.n_error > job.engine.max_error_fraction * counts.total:
        raise RunFailed(
            f"{counts.n_error} of {counts.total} rows ended as errors ({dict(counts.error.most_common(3))}), more than "
            f"max_error_fraction = {job.engine.max_error_fraction:g}\n"
            f"  fix: `raysys failed {job.output.table.url}` shows them; after the repair run the same command again, "
            f"then `raysys retry {job.output.table.url}`"
        )


def _dataset(job: MapJob, chunks: list[Chunk]) -> ray.data.Dataset:
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False  # ours shows rows and fates
    context.target_max_block_size = None
    limit_read_ahead(context, job.engine.chunks_read if job.heavy else job.engine.max_chunks_read)
    for name, value in job.engine.data_context.items():
        if not hasattr(context, name):
            raise InputError(f"engine.data_context.{name}: ray.data.DataContext has no such attribute", "remove it")
        setattr(context, name, value)
    pool = job.engine.pool
    dataset = ray.data.range(len(chunks), override_num_blocks=len(chunks))
    batches = {"batch_size": None, "batch_format": "pyarrow"}
    light = {**batches, "num_cpus": job.engine.load_cpus}
    # Ray Data restarts dead workers without limit by default, which is what `AttemptLog` counts on: a poison row is
    # found by counting deaths on storage, not by giving up on its chunk.
    if not job.heavy:
        kwargs = {"work": OncePerWorker((job, chunks))}
        return dataset.map_batches(whole_chunks, fn_kwargs=kwargs, **batches, **_worker_args(pool))
    # Reading and committing carry nothing of the stage: unpickling it would import its model's libraries there too.
    kwargs = {"load": job.load, "chunks": OncePerWorker(chunks)}
    dataset = dataset.map_batches(read_items, fn_kwargs=kwargs, **light)
    dataset = dataset.map_batches(StageActor, fn_constructor_args=(job,), **batches, **_pool_args(pool))
    return dataset.map_batches(commit_rows, fn_kwargs={"target": target_of(job)}, **light)


def _pool_args(pool: PoolConfig) -> dict[str, Any]:
    """An actor pool; with several chunks in flight its workers are threaded and hold one more chunk ready."""
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
    """Prints the cluster's resources when no chunk has finished for a while: a silent deadlock looks like patience."""

    def __init__(self, job: MapJob) -> None:
        self._job, self._last, self._stop = job, time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def alive(self) -> None:
        self._last = time.monotonic()

    def _watch(self) -> None:
        period = self._job.engine.watchdog_s
        while not self._stop.wait(period / 4):
            if time.monotonic() - self._last > period:
                self._last = time.monotonic()
                pool = self._job.engine.pool
                print(
                    f"{self._job.output.producer}: no chunk finished for {period:.0f} s; a worker needs "
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
