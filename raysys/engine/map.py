"""Map a stage over the pending chunks of a table with Ray Data: read → stage → commit, streaming.

A chunk travels as ONE row (its description and its items as Arrow IPC bytes), so Ray can neither split nor merge
chunks, block types are never lost and an empty chunk still arrives. Only small statistics reach the driver.
"""

from __future__ import annotations

import io
import json
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import ray
import ray.data

from raysys.engine.config import EngineConfig, PoolConfig
from raysys.errors import InputError, RunFailed
from raysys.outcomes import Counts
from raysys.progress import Progress
from raysys.tables import Chunk, Output, Store, commit_part
from raysys.tables.commit import keys_of
from raysys.tables.process import AttemptLog, Stage, keys_called_for, process_chunk

ERRORS_BEFORE_STOP = 20
"""A handful of errors may be bad luck at the start of a run; from here on the fraction decides."""


@dataclass(frozen=True)
class StageSpec:
    """How a worker builds its stage: `factory(*args)`."""

    factory: Callable[..., Stage]
    args: tuple = ()


@dataclass(frozen=True)
class Redo:
    """What a retry does to one chunk: the number of this retry, and its error rows as {position in the part: key}."""

    number: int
    rows: Mapping[int, tuple]


@dataclass(frozen=True)
class MapJob:
    """A stage over the chunks of one output.

    load: chunk → its items (an Arrow table); runs in CPU tasks.
    keyed: the keys of the rows follow from the items; else there is one row per item, in order.
    only: for a retry, {chunk name: what to redo}.
    heavy: the stage wants an actor pool (a model is loaded); light stages run in the reading task itself.
    limit: only the first chunks, until they hold this many items.
    """

    output: Output
    load: Callable[[Chunk], pa.Table]
    stage: StageSpec
    keyed: bool = True
    heavy: bool = False
    engine: EngineConfig = field(default_factory=EngineConfig)
    only: Mapping[str, Redo] | None = None
    limit: int | None = None
    run_id: str = field(default_factory=lambda: uuid.uuid4().hex)

    def chunks(self) -> list[Chunk]:
        """The chunks of this run: pending ones (or those to retry) among the first that hold `limit` items."""
        chosen = {c.name for c in first_items(self.output.chunks, self.limit)}
        waiting = self.output.pending() if self.only is None else [c for c in self.output.chunks if c.name in self.only]
        return [c for c in waiting if c.name in chosen]

    def target(self) -> _Target:
        return _Target(self.output.folder, self.keyed, self.only)


@dataclass
class MapResult:
    """What one run did."""

    counts: Counts = field(default_factory=Counts)
    n_chunks: int = 0
    failed_chunks: list[str] = field(default_factory=list)
    seconds: float = 0.0
    stats: str = ""


def run_map(job: MapJob) -> MapResult:
    """Run all pending chunks. Raises RunFailed (errors above the allowed fraction, chunks that could not be read)
    or InputError (no space left, missing model); in every case the committed parts stay and a rerun goes on."""
    chunks, result = job.chunks(), MapResult()
    if not chunks:
        return result
    began = time.monotonic()
    total = sum(c.stop - c.start for c in first_items(job.output.chunks, job.limit))
    already = total - sum(c.stop - c.start for c in chunks)
    metrics = job.output.folder.path("_run/metrics.jsonl") if job.output.folder.is_local else None
    dataset = _dataset(job, chunks)
    with (
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
                bar.update(done, counts=result.counts)
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


def first_items(chunks: Sequence[Chunk], limit: int | None) -> list[Chunk]:
    """The first chunks that together hold at least `limit` items; all when there is no limit."""
    chosen: list[Chunk] = []
    n_items = 0
    for chunk in chunks:
        if limit is not None and n_items >= limit:
            break
        chosen.append(chunk)
        n_items += chunk.stop - chunk.start
    return chosen


def _account(report: dict[str, Any], result: MapResult) -> int:
    if report["fatal"]:
        what, fix = json.loads(report["fatal"])
        raise InputError(what, fix)
    if report["problem"]:
        result.failed_chunks.append(report["problem"])
        return 0
    result.n_chunks += 1
    result.counts.merge(Counts.from_dict(json.loads(report["counts"])))
    return report["n_items"]


def _check_conserved(result: MapResult, n_items: int, job: MapJob) -> None:
    """n_items = kept + rejected + error. Keyed jobs are checked key by key in each chunk (`process_chunk`)."""
    if job.only is None and not job.keyed and result.counts.total != n_items:
        raise RunFailed(f"{n_items} items went in but {result.counts.as_dict()} came out of {job.output.producer}")


def _stop_if_too_many_errors(counts: Counts, job: MapJob) -> None:
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
        kwargs = {"job": job, "chunks": chunks}
        return dataset.map_batches(_load_stage_commit, fn_kwargs=kwargs, **batches, **_worker_args(pool))
    # Reading and committing carry nothing of the stage: unpickling it would import its model's libraries there too.
    dataset = dataset.map_batches(_load, fn_kwargs={"load": job.load, "chunks": chunks}, **light)
    compute = ray.data.ActorPoolStrategy(min_size=pool.min_size, max_size=pool.max_size)
    dataset = dataset.map_batches(
        _StageActor, fn_constructor_args=(job,), compute=compute, **batches, **_worker_args(pool)
    )
    return dataset.map_batches(_commit, fn_kwargs={"target": job.target()}, **light)


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


# --- inside the workers: every function takes and returns rows that each stand for one chunk ---


def _load(batch: pa.Table, load: Callable[[Chunk], pa.Table], chunks: list[Chunk]) -> pa.Table:
    return _pack([_guarded(_load_one, chunks[i], load, chunks[i]) for i in batch["id"].to_pylist()])


def _load_one(load: Callable[[Chunk], pa.Table], chunk: Chunk) -> dict[str, Any]:
    return {"chunk": chunk.to_json(), "items": _to_ipc(_items(load, chunk))}


class UnreadableInput(RuntimeError):
    """The input of one chunk is damaged or gone."""


def _items(load: Callable[[Chunk], pa.Table], chunk: Chunk) -> pa.Table:
    """The items of a chunk. What is wrong with its input concerns this chunk only: the others go on."""
    try:
        return load(chunk)
    except InputError as exc:
        raise UnreadableInput(str(exc)) from exc


class _StageActor:
    def __init__(self, job: MapJob) -> None:
        self._job = job
        self._stage = job.stage.factory(*job.stage.args)

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _pack([r if _broken(r) else self._one(r) for r in batch.to_pylist()])

    def _one(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk = Chunk.from_json(row["chunk"])
        return _guarded(_stage_one, chunk, self._job, chunk, row["items"], self._stage)


def _stage_one(job: MapJob, chunk: Chunk, items: bytes, stage: Stage) -> dict[str, Any]:
    log = AttemptLog(job.output.folder, chunk.name)
    log.begin()
    table = _process(job, chunk, _from_ipc(items), stage, log)
    log.finish()
    return {"chunk": chunk.to_json(), "items": _to_ipc(table)}


def _process(job: MapJob, chunk: Chunk, items: pa.Table, stage: Stage, log: AttemptLog) -> pa.Table:
    row_type = job.output.row_type
    if job.only is None:
        return process_chunk(items, stage, row_type, job.keyed, log)
    wanted = job.only[chunk.name].rows
    if not job.keyed:  # the key that an error row stands under may not be that of the row which replaces it
        return process_chunk(items, stage, row_type, job.keyed, log).take(sorted(wanted))
    keys = set(wanted.values())
    calls_for = [keys_called_for(item, stage, row_type) for item in items.to_pylist()]
    items = items.filter(pa.array([not keys.isdisjoint(k) for k in calls_for], pa.bool_()))
    table = process_chunk(items, stage, row_type, job.keyed, log)
    return table.filter(pa.array([k in keys for k in keys_of(table, row_type.key)], pa.bool_()))


@dataclass(frozen=True)
class _Target:
    """Where finished chunks go: the output's folder; for a retry, a new file of the chunk."""

    folder: Store
    keyed: bool
    only: Mapping[str, Redo] | None

    def publish(self, chunk: Chunk, table: pa.Table) -> dict[str, Any]:
        file, info = chunk.file, {"start": chunk.start, "stop": chunk.stop}
        if self.only is not None:
            redo = self.only[chunk.name]
            file = chunk.retry_file(redo.number)
            info |= {} if self.keyed else {"replaces": sorted(redo.rows)}
        counts = commit_part(self.folder, file, table, info)
        return {"counts": json.dumps(counts.as_dict()), "n_items": chunk.stop - chunk.start}


def _commit(batch: pa.Table, target: _Target) -> pa.Table:
    rows = batch.to_pylist()
    return _reports([r if _broken(r) else _guarded(_commit_one, Chunk.from_json(r["chunk"]), target, r) for r in rows])


def _commit_one(target: _Target, row: dict[str, Any]) -> dict[str, Any]:
    return target.publish(Chunk.from_json(row["chunk"]), _from_ipc(row["items"]))


def _load_stage_commit(batch: pa.Table, job: MapJob, chunks: list[Chunk]) -> pa.Table:
    return _reports([_guarded(_whole_chunk, chunks[i], job, chunks[i]) for i in batch["id"].to_pylist()])


def _whole_chunk(job: MapJob, chunk: Chunk) -> dict[str, Any]:
    log = AttemptLog(job.output.folder, chunk.name)
    log.begin()
    report = job.target().publish(chunk, _process(job, chunk, _items(job.load, chunk), _stage_of(job), log))
    log.finish()
    return report


_STAGES: dict[str, Stage] = {}


def _stage_of(job: MapJob) -> Stage:
    """The stage of this run in this worker process, built by its first chunk."""
    if job.run_id not in _STAGES:
        _STAGES.clear()  # an earlier run's: its memory is wanted back
        _STAGES[job.run_id] = job.stage.factory(*job.stage.args)
    return _STAGES[job.run_id]


def _guarded(function: Callable[..., dict], chunk: Chunk, *args: Any) -> dict[str, Any]:
    """A chunk whose reading or commit fails stays pending and is reported; a user mistake stops the run."""
    try:
        return function(*args)
    except InputError as exc:
        return {"fatal": json.dumps([exc.what, exc.fix])}
    except Exception as exc:
        return {"problem": f"{chunk.name}: {type(exc).__name__}: {exc}"}


def _broken(row: Mapping[str, Any]) -> bool:
    return bool(row["problem"] or row["fatal"])


_IN_FLIGHT = pa.schema(
    [("chunk", pa.string()), ("items", pa.large_binary()), ("problem", pa.string()), ("fatal", pa.string())]
)
_REPORT = pa.schema(
    [("counts", pa.string()), ("n_items", pa.int64()), ("problem", pa.string()), ("fatal", pa.string())]
)


def _pack(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=_IN_FLIGHT)


def _reports(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist([{n: r.get(n) for n in _REPORT.names} for r in rows], schema=_REPORT)


def _to_ipc(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def _from_ipc(data: bytes) -> pa.Table:
    with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
        return reader.read_all()


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
                    flush=True,
                )

    def __enter__(self) -> _Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
