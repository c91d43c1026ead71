"""Run one chunk through one stage, so that every item gets exactly one fate, whatever happens.

If a stage raises, the chunk is halved repeatedly until only the failing items become error rows. An item that kills its
worker leaves no exception: `AttemptLog` counts on storage how often a chunk was started, and after `MAX_ATTEMPTS` the
chunk is processed item by item until the culprit is found and recorded as `worker_died`. If workers die again and again
and no item is finished in between, the items are not to blame: the run stops with the engine's last error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from raysys.errors import InputError, WorkerBroken
from raysys.outcomes import error, error_from
from raysys.rows import RowType
from raysys.tables.commit import check_keys, to_table
from raysys.tables.stage import Stage
from raysys.tables.store import Store

MAX_ATTEMPTS = 3
"""Starts of a chunk before it is suspected of killing its worker. A preempted node also costs one start."""
MAX_ITEM_DEATHS = 2
"""Deaths of a worker with the same single item before that item is blamed; one death may be a preemption."""
MAX_DEATHS_IN_A_ROW = 10
"""Deaths without a finished item in between after which the run stops."""
MAX_LOADS = 4
"""Starts of a worker that ended while it loaded its stage; one or two of them may be preemptions."""


class AttemptLog:
    """How often a chunk was started and which item was being processed: a small JSON file that outlives the worker."""

    def __init__(self, folder: Store, name: str, max_deaths: int = MAX_DEATHS_IN_A_ROW) -> None:
        """name: the chunk's, or that of a worker that loads its stage."""
        self._store = folder.sub("_attempts")
        self._file = f"{name}.json"
        self._max_deaths = max_deaths
        new = {"attempts": 0, "running": None, "deaths": {}, "reason": None}
        self._state = new | (self._store.read_json(self._file) or {})

    def begin(self) -> None:
        state = self._state
        if state["running"] is not None:  # the worker that processed this item died
            state["deaths"][state["running"]] = state["deaths"].get(state["running"], 0) + 1
        state["running"] = None
        state["attempts"] += 1
        self._save()

    def __enter__(self) -> AttemptLog:
        self.begin()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        """Delete the file, unless the worker is broken: it is about to die, which must be counted."""
        if kind is None or not issubclass(kind, WorkerBroken):
            self.finish()
        else:
            self._state["reason"] = str(exc[0])
            self._save()

    @property
    def attempts(self) -> int:
        """The number of starts, this one included."""
        return self._state["attempts"]

    @property
    def is_suspect(self) -> bool:
        """Whether the next start of this chunk must run item by item."""
        return self._state["attempts"] >= MAX_ATTEMPTS

    @property
    def one_by_one(self) -> bool:
        return self._state["attempts"] > MAX_ATTEMPTS

    def is_culprit(self, item_index: int) -> bool:
        return self.deaths(item_index) >= MAX_ITEM_DEATHS

    def deaths(self, item_index: int) -> int:
        return self._state["deaths"].get(str(item_index), 0)

    def stop_after(self, deaths_in_a_row: int, stage: str) -> None:
        """Raise InputError if workers have died too often without finishing an item."""
        if deaths_in_a_row < self._max_deaths:
            return
        reason = self._state["reason"] or "the process was killed; not enough memory is the usual cause"
        raise InputError(
            f"{stage}: workers died {deaths_in_a_row} times in a row and finished no item in between. "
            f"Last reason: {reason}",
            "correct the model or its settings, or use a larger machine, then run the same command again: it resumes; "
            "if the rows are at fault, raise cluster.max_worker_deaths",
        )

    def hold(self, item_index: int) -> None:
        self._state["running"] = str(item_index)
        self._save()

    def finish(self) -> None:
        self._store.remove(self._file)

    def _save(self) -> None:
        self._store.write_json(self._file, self._state)


def process_chunk(items: pa.Table, stage: Stage, row_type: RowType, log: AttemptLog | None = None) -> pa.Table:
    """Run `items` through `stage`; return a table of `row_type` with exactly the rows that these items require.

    For a keyed stage, the expected keys are known from the items (`stage.expand`). Otherwise only the number of rows is
    checked (ingest: one row per item, whose id is read from the shard).
    """

    def run(piece: pa.Table) -> pa.Table:
        return _checked(piece, stage, row_type)

    one_by_one = log is not None and log.one_by_one
    rows = _one_by_one(items, stage, run, log) if one_by_one else _halving(items, stage, run)
    return pa.concat_tables([to_table(r, row_type) for r in rows]) if rows else row_type.schema.empty_table()


def _checked(items: pa.Table, stage: Stage, row_type: RowType) -> pa.Table:
    table = to_table(stage(items), row_type)
    found = list(zip(*(table.column(c).to_pylist() for c in row_type.key), strict=True))
    expected = None
    if stage.keyed:
        expected = [k for item in items.to_pylist() for k in keys_called_for(item, stage, row_type)]
    check_keys(found, expected, None if stage.keyed else len(items), f"stage {stage.name}")
    return table


def keys_called_for(item: dict[str, Any], stage: Stage, row_type: RowType) -> list[tuple]:
    """The keys of the rows that an item must result in."""
    return [tuple(row[c] for c in row_type.key) for row in stage.expand(item)]


def _halving(items: pa.Table, stage: Stage, run: Callable[[pa.Table], pa.Table]) -> list[Any]:
    """Results of `run` for the largest pieces that do not raise; single items that raise become error rows."""
    if len(items) == 0:
        return []
    try:
        return [run(items)]
    except (InputError, WorkerBroken):  # the command (disk full …) or the worker is at fault, not a row
        raise
    except Exception as exc:
        if len(items) == 1:
            return [stage.failed(items.to_pylist()[0], error_from(stage.name, exc))]
    half = len(items) // 2
    return _halving(items.slice(0, half), stage, run) + _halving(items.slice(half), stage, run)


def _one_by_one(items: pa.Table, stage: Stage, run: Callable[[pa.Table], pa.Table], log: AttemptLog) -> list[Any]:
    rows: list[Any] = []
    in_a_row = MAX_ATTEMPTS  # of the whole chunk, before it was processed item by item
    for i, item in enumerate(items.to_pylist()):
        in_a_row += log.deaths(i)
        log.stop_after(in_a_row, stage.name)
        if log.is_culprit(i):
            detail = f"the worker died {MAX_ITEM_DEATHS} times with only this item in hand"
            rows.append(stage.failed(item, error(stage.name, "worker_died", detail)))
            continue
        log.hold(i)
        rows += _halving(items.slice(i, 1), stage, run)
        in_a_row = 0
    return rows
