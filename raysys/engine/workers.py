"""What runs inside Ray's workers: every function takes and returns rows that each stand for one chunk."""

from __future__ import annotations

import io
import json
import os
import sys
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import ray

from raysys.engine.map_job import MapJob, Redo
from raysys.engine.meters import Gate, Gauge
from raysys.errors import InputError, WorkerBroken
from raysys.tables import Chunk, Store, commit_part
from raysys.tables.commit import keys_of
from raysys.tables.process import AttemptLog, Stage, keys_called_for, process_chunk

T = TypeVar("T")


class OncePerWorker(Generic[T]):
    """A value of the driver that each worker process unpacks once, however many tasks it gets.

    Arguments of tasks are unpacked by every one of them: a plan of 390,000 chunks takes two seconds.
    """

    def __init__(self, value: T) -> None:
        self._key, self._ref = uuid.uuid4().hex, ray.put(value)

    def get(self) -> T:
        return _unpacked(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OncePerWorker) and other._key == self._key

    def __hash__(self) -> int:
        return hash(self._key)


@lru_cache(maxsize=4)  # several tables may be written at once
def _unpacked(shared: OncePerWorker[T]) -> T:
    return ray.get(shared._ref)


def read_items(batch: pa.Table, load: Callable[[Chunk], pa.Table], chunks: OncePerWorker[list[Chunk]]) -> pa.Table:
    """Chunk numbers → chunks with their items."""
    wanted = [chunks.get()[i] for i in batch["id"].to_pylist()]
    return _pack([_guarded(_read_one, chunk, load, chunk) for chunk in wanted])


def _read_one(load: Callable[[Chunk], pa.Table], chunk: Chunk) -> dict[str, Any]:
    return {"chunk": chunk.to_json(), "items": _to_ipc(_items(load, chunk))}


class UnreadableInput(RuntimeError):
    """The input of one chunk is damaged or gone."""


def _items(load: Callable[[Chunk], pa.Table], chunk: Chunk) -> pa.Table:
    """The items of a chunk. What is wrong with its input concerns this chunk only: the others go on."""
    try:
        return load(chunk)
    except InputError as exc:
        raise UnreadableInput(str(exc)) from exc


class StageActor:
    """Chunks with items → chunks with rows; the model is loaded once per actor."""

    def __init__(self, job: MapJob) -> None:
        self._job, self._gate, self._gauge = job, Gate(), Gauge()
        self._mistake: InputError | None = None
        try:
            self._stage = job.stage.factory(*job.stage.args)
        except InputError as exc:
            # Raised here it would reach the user as the death of an actor, after Ray had tried again.
            self._mistake = exc

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _pack([r if _broken(r) else self._one(r) for r in batch.to_pylist()])

    def _one(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk = Chunk.from_json(row["chunk"])
        return _guarded(self._stage_one, chunk, chunk, row["items"])

    def _stage_one(self, chunk: Chunk, data: bytes) -> dict[str, Any]:
        """A chunk that runs item by item, to find the one that kills, runs alone: its neighbours would be blamed."""
        if self._mistake is not None:
            raise self._mistake
        items = _from_ipc(data)
        log = AttemptLog(self._job.output.folder, chunk.name)
        # The gate first: a chunk that only waits at it has not begun, and is not to be blamed when the worker dies.
        with self._gate.hold(alone=log.is_suspect), log, self._gauge.holding(len(items)):
            table = _process(self._job, chunk, items, self._stage, log)
            gauge = self._gauge.read()  # with this chunk's rows: they were in flight until now
        return {"chunk": chunk.to_json(), "items": _to_ipc(table), "worker": json.dumps(gauge)}


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


def target_of(job: MapJob) -> Target:
    return Target(job.output.folder, job.keyed, job.only, job.output.row_type.meters)


@dataclass(frozen=True)
class Target:
    """Where finished chunks go: the output's folder; for a retry, a new file of the chunk."""

    folder: Store
    keyed: bool
    only: Mapping[str, Redo] | None
    meters: tuple[str, ...] = ()

    def publish(self, chunk: Chunk, table: pa.Table) -> dict[str, Any]:
        file, info = chunk.file, {"start": chunk.start, "stop": chunk.stop}
        if self.only is not None:
            redo = self.only[chunk.name]
            file = chunk.retry_file(redo.number)
            info |= {} if self.keyed else {"replaces": sorted(redo.rows)}
        counts = commit_part(self.folder, file, table, info)
        sums = {name: pc.sum(table[name]).as_py() or 0 for name in self.meters}
        return {
            "counts": json.dumps(counts.as_dict()),
            "n_items": chunk.stop - chunk.start,
            "meters": json.dumps({"sums": sums}),
        }


def commit_rows(batch: pa.Table, target: Target) -> pa.Table:
    """Chunks with rows → parts on storage; only counts go on to the driver."""
    rows = batch.to_pylist()
    return _reports([r if _broken(r) else _guarded(_commit_one, Chunk.from_json(r["chunk"]), target, r) for r in rows])


def _commit_one(target: Target, row: dict[str, Any]) -> dict[str, Any]:
    report = target.publish(Chunk.from_json(row["chunk"]), _from_ipc(row["items"]))
    meters = json.loads(report["meters"]) | {"worker": json.loads(row["worker"])}
    return report | {"meters": json.dumps(meters)}


def whole_chunks(batch: pa.Table, work: OncePerWorker[tuple[MapJob, list[Chunk]]]) -> pa.Table:
    """Read, stage and commit in one task, for stages that load nothing: no row leaves the worker."""
    job, chunks = work.get()
    wanted = [chunks[i] for i in batch["id"].to_pylist()]
    return _reports([_guarded(_whole_chunk, chunk, job, chunk) for chunk in wanted])


def _whole_chunk(job: MapJob, chunk: Chunk) -> dict[str, Any]:
    with AttemptLog(job.output.folder, chunk.name) as log:
        table = _process(job, chunk, _items(job.load, chunk), _stage_of(job), log)
    return target_of(job).publish(chunk, table)


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
    except WorkerBroken as exc:
        # A process of its own ends with its engine; Ray starts a new one and gives it the same chunk.
        print(f"worker {os.getpid()} ends: {exc}", file=sys.stderr, flush=True)
        os._exit(1)
    except InputError as exc:
        return {"fatal": json.dumps([exc.what, exc.fix])}
    except Exception as exc:
        return {"problem": f"{chunk.name}: {type(exc).__name__}: {exc}"}


def _broken(row: Mapping[str, Any]) -> bool:
    return bool(row["problem"] or row["fatal"])


_PROBLEMS = [("problem", pa.string()), ("fatal", pa.string())]
_IN_FLIGHT = pa.schema([("chunk", pa.string()), ("items", pa.large_binary()), ("worker", pa.string()), *_PROBLEMS])
_REPORT = pa.schema([("counts", pa.string()), ("n_items", pa.int64()), ("meters", pa.string()), *_PROBLEMS])


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
