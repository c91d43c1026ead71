"""Run one chunk through one stage, so that every item gets exactly one fate, whatever happens.

If a stage raises, the chunk is halved repeatedly until only the failing items become error rows. An item that kills its
worker leaves no exception: `AttemptLog` counts on storage how often a chunk was started, and after `MAX_ATTEMPTS` the
chunk is processed item by item until the culprit is found and recorded as `worker_died`.
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


class AttemptLog:
    """How often a chunk was started and which item was being processed: a small JSON file that outlives the worker."""

    def __init__(self, folder: Store, chunk_name: str) -> None:
        self._store = folder.sub("_attempts")
        self._file = f"{chunk_name}.json"
        self._state = self._store.read_json(self._file) or {"attempts": 0, "running": None, "deaths": {}}

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

    @property
    def is_suspect(self) -> bool:
        """Whether the next start of this chunk must run item by item."""
        return self._state["attempts"] >= MAX_ATTEMPTS

    @property
    def one_by_one(self) -> bool:
        return self._state["attempts"] > MAX_ATTEMPTS

    def is_culprit(self, item_index: int) -> bool:
        return self._state["deaths"].get(str(item_index), 0) >= MAX_ITEM_DEATHS

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
    for i, item in enumerate(items.to_pylist()):
        if log.is_culprit(i):
            detail = f"the worker died {MAX_ITEM_DEATHS} times with only this item in hand"
            rows.append(stage.failed(item, error(stage.name, "worker_died", detail)))
            continue
        log.hold(i)
        rows += _halving(items.slice(i, 1), stage, run)
    return rows
