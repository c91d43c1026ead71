"""What runs inside Ray's workers. Every function takes and returns tables with one row per chunk."""

from __future__ import annotations

import io
import json
import os
import sys
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Generic, TypeVar

import pyarrow as pa
import ray

from raysys.engine.chunk_work import Target, attempts_of, built, failure, load_items, rows_of, whole_chunk
from raysys.engine.meters import Gate, Gauge
from raysys.errors import InputError, WorkerBroken
from raysys.tables import Chunk
from raysys.tables.job import TableRun
from raysys.tables.stage import Stage

T = TypeVar("T")


class OncePerWorker(Generic[T]):
    """A value from the driver that each worker process deserializes once, however many tasks it runs.

    Ordinary arguments are deserialized in every task, which takes two seconds for a plan of 390,000 chunks.
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
    return {"chunk": chunk.to_json(), "items": _to_ipc(load_items(load, chunk))}


class StageActor:
    """Chunks with items → chunks with rows; the model is loaded once per actor."""

    def __init__(self, run: TableRun) -> None:
        self._run, self._gate, self._gauge = run, Gate(), Gauge()
        self._mistake: InputError | None = None
        try:
            self._stage = built(run, ray.get_runtime_context().get_actor_id())
        except InputError as exc:
            # Raised here, it would reach the user as an actor failure, after Ray had retried.
            self._mistake = exc
            traceback.print_exception(exc)  # with its cause, into the worker's log

    def __call__(self, batch: pa.Table) -> pa.Table:
        return _pack([r if _broken(r) else self._one(r) for r in batch.to_pylist()])

    def _one(self, row: dict[str, Any]) -> dict[str, Any]:
        chunk = Chunk.from_json(row["chunk"])
        return _guarded(self._stage_one, chunk, chunk, row["items"])

    def _stage_one(self, chunk: Chunk, data: bytes) -> dict[str, Any]:
        """Process one chunk. A chunk that runs item by item, to find the item that kills the worker, runs alone, so
        that no other chunk is blamed."""
        if self._mistake is not None:
            raise self._mistake
        items = _from_ipc(data)
        log = attempts_of(self._run, chunk)
        # The gate comes first: a chunk that is still waiting has not begun and must not be blamed if the worker dies.
        with self._gate.hold(alone=log.is_suspect), log, self._gauge.holding(len(items)):
            began = time.monotonic()
            table = rows_of(self._run, chunk, items, self._stage, log)
            gauge = self._gauge.read()  # includes this chunk's rows, which were in flight until now
        seconds = time.monotonic() - began
        return {"chunk": chunk.to_json(), "items": _to_ipc(table), "worker": json.dumps(gauge), "seconds": seconds}


def commit_rows(batch: pa.Table, target: Target) -> pa.Table:
    """Chunks with rows → parts on storage; only the reports go to the driver."""
    rows = batch.to_pylist()
    return _reports([r if _broken(r) else _guarded(_commit_one, Chunk.from_json(r["chunk"]), target, r) for r in rows])


def _commit_one(target: Target, row: dict[str, Any]) -> dict[str, Any]:
    report = target.publish(Chunk.from_json(row["chunk"]), _from_ipc(row["items"]))
    meters = json.loads(report["meters"]) | {"worker": json.loads(row["worker"])}
    return report | {"meters": json.dumps(meters), "seconds": row["seconds"]}


def whole_chunks(batch: pa.Table, work: OncePerWorker[tuple[TableRun, list[Chunk]]]) -> pa.Table:
    """Read, process and commit in one task, for stages without a model: no row leaves the worker."""
    run, chunks = work.get()
    wanted = [chunks[i] for i in batch["id"].to_pylist()]
    return _reports([_guarded(whole_chunk, chunk, run, chunk, partial(_stage_of, run)) for chunk in wanted])


_STAGES: dict[str, Stage] = {}


def _stage_of(run: TableRun, chunk: Chunk) -> Stage:
    """The stage of this run in this worker process, built for its first chunk."""
    if run.id not in _STAGES:
        _STAGES.clear()  # free the memory of an earlier run's stage
        _STAGES[run.id] = built(run, chunk.name)
    return _STAGES[run.id]


def _guarded(function: Callable[..., dict], chunk: Chunk, *args: Any) -> dict[str, Any]:
    """Call `function` and turn an exception into a report: the chunk stays pending; an InputError stops the run."""
    try:
        return function(*args)
    except WorkerBroken as exc:
        # The worker process ends together with its engine; Ray starts a new one and gives it the same chunk.
        print(f"worker {os.getpid()} ends: {exc}", file=sys.stderr, flush=True)
        os._exit(1)
    except Exception as exc:
        return failure(chunk, exc)


def _broken(row: Mapping[str, Any]) -> bool:
    return bool(row["problem"] or row["fatal"])


_PROBLEMS = [("problem", pa.string()), ("fatal", pa.string())]
_SECONDS = ("seconds", pa.float64())  # of the work on a chunk, without building the stage
_IN_FLIGHT = pa.schema(
    [("chunk", pa.string()), ("items", pa.large_binary()), ("worker", pa.string()), _SECONDS, *_PROBLEMS]
)
_TEXTS = [(name, pa.string()) for name in ("counts", "meters", "details")]
_REPORT = pa.schema([("n_items", pa.int64()), _SECONDS, *_TEXTS, *_PROBLEMS])


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
