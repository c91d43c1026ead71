"""Process one chunk, from its input to its part on storage: for Ray's workers and the inline engine. No Ray import."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import InputError, WorkerBroken
from raysys.outcomes import ERROR, reason_group
from raysys.tables import Chunk, Store, commit_part
from raysys.tables.commit import keys_of
from raysys.tables.job import Redo, TableRun
from raysys.tables.process import MAX_LOADS, AttemptLog, keys_called_for, process_chunk
from raysys.tables.stage import Stage


class UnreadableInput(RuntimeError):
    """The input of one chunk is damaged or missing."""


def load_items(load: Callable[[Chunk], pa.Table], chunk: Chunk) -> pa.Table:
    """The items of a chunk. Raises UnreadableInput for an InputError, so that only this chunk fails."""
    try:
        return load(chunk)
    except InputError as exc:
        raise UnreadableInput(str(exc)) from exc


def built(run: TableRun, worker: str) -> Stage:
    """The stage of a run, which may load a model. worker: a name that stays the same when the process is restarted.

    Raises InputError if the stage cannot be built, or if earlier processes of this worker died while building it.
    """
    with AttemptLog(run.output.folder, f"load-{run.id}-{worker}") as log:
        if log.attempts > MAX_LOADS:
            raise InputError(
                f"{run.job.label}: {MAX_LOADS} processes in a row were killed while they loaded the model, "
                f"the last on {platform.node()}",
                "not enough memory is the usual cause: use a smaller model, or reserve more with "
                "cluster.pool.memory_bytes, then run the same command again",
            )
        try:
            return run.job.build()
        except (InputError, WorkerBroken):
            raise
        except Exception as exc:
            raise InputError(
                f"{run.job.label}: a worker on {platform.node()} could not be started: {type(exc).__name__}: {exc}",
                "correct the model or its settings, then run the same command again",
            ) from exc


def rows_of(run: TableRun, chunk: Chunk, items: pa.Table, stage: Stage, log: AttemptLog) -> pa.Table:
    """The output rows of a chunk; in a retry, only those that replace its error rows."""
    row_type = run.output.row_type
    if run.only is None:
        return process_chunk(items, stage, row_type, log)
    wanted = run.only[chunk.name].rows
    if not stage.keyed:  # an error row and the row that replaces it may have different keys
        return process_chunk(items, stage, row_type, log).take(sorted(wanted))
    keys = set(wanted.values())
    calls_for = [keys_called_for(item, stage, row_type) for item in items.to_pylist()]
    items = items.filter(pa.array([not keys.isdisjoint(k) for k in calls_for], pa.bool_()))
    table = process_chunk(items, stage, row_type, log)
    return table.filter(pa.array([k in keys for k in keys_of(table, row_type.key)], pa.bool_()))


@dataclass(frozen=True)
class Target:
    """Where finished chunks are written: to the output's folder, in a retry as a new file of the chunk."""

    folder: Store
    keyed: bool
    only: Mapping[str, Redo] | None
    meters: tuple[str, ...] = ()

    @classmethod
    def of(cls, run: TableRun) -> Target:
        return cls(run.output.folder, run.job.stage.keyed, run.only, run.output.row_type.meters)

    def publish(self, chunk: Chunk, table: pa.Table) -> dict[str, Any]:
        """Commit the rows of a chunk and return the report for the driver: counts, number of items, meters,
        details of errors."""
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
            "details": json.dumps(_first_details(table)),
        }


def attempts_of(run: TableRun, chunk: Chunk) -> AttemptLog:
    """The log of the starts of a chunk."""
    return AttemptLog(run.output.folder, chunk.name, run.job.cluster.max_worker_deaths)


def _first_details(table: pa.Table) -> dict[str, str]:
    """{reason: detail} of the first error row with each reason."""
    errors = table.filter(pc.equal(table["outcome"], ERROR)).select(["reason", "detail"]).to_pylist()
    return {reason_group(row["reason"]): row["detail"] for row in reversed(errors) if row["detail"]}


def whole_chunk(run: TableRun, chunk: Chunk, stage: Callable[[Chunk], Stage]) -> dict[str, Any]:
    """Read, process and commit one chunk; return the report. `stage` returns the stage, building it if needed."""
    with attempts_of(run, chunk) as log:
        built = stage(chunk)
        began = time.monotonic()  # what building the stage takes is no measure for the chunks that follow
        table = rows_of(run, chunk, load_items(run.job.load, chunk), built, log)
    return Target.of(run).publish(chunk, table) | {"seconds": time.monotonic() - began}


def failure(chunk: Chunk, exc: Exception) -> dict[str, str]:
    """The report of a chunk that failed: an InputError is fatal; after any other exception the chunk stays pending."""
    if isinstance(exc, InputError):
        return {"fatal": json.dumps([exc.what, exc.fix])}
    return {"problem": f"{chunk.name}: {type(exc).__name__}: {exc}"}
