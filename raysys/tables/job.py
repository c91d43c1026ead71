"""A row job as data: stage, input, output. Made by the job modules and run by the engine."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from raysys.config import Config
from raysys.rows import RowType
from raysys.tables.plan import Chunk, InputPart, Output
from raysys.tables.read import error_rows, parts_of
from raysys.tables.stage import Stage


class Environment:
    """Environment variables that a worker sets before it builds its stage, such as API keys of endpoints.

    Not a dataclass, because Ray Data records the values of dataclasses with the pipeline and may write them to files.
    """

    def __init__(self, **variables: str) -> None:
        self._variables = variables

    def apply(self) -> None:
        os.environ.update(self._variables)

    def __repr__(self) -> str:
        return f"Environment({', '.join(self._variables)})"


@dataclass(frozen=True)
class TableJob:
    """A row stage from input parts to one table.

    job: the command. producer: the name of these rows' writer if several write into one table (default: the job).
    fields: every value that changes the result; determines the fingerprint.
    load: chunk → items (an Arrow table), run in CPU tasks. stage, args: built once per worker as `stage(*args)`.
    files: {path in the table: contents} that workers and later runs read; the names begin with `_`. Written once.
    core_seconds: an estimate of the work on all items, on one core; None = unknown, or not worth one.
    cluster: how the engine runs the job (`raysys.engine.config.ClusterConfig`); not used in `raysys.tables`.
    """

    job: str
    output: str
    row_type: RowType
    fields: Mapping[str, Any]
    parts: Sequence[InputPart]
    chunk_rows: int
    load: Callable[[Chunk], pa.Table]
    stage: type[Stage]
    args: tuple
    cluster: Config
    producer: str | None = None
    files: Mapping[str, bytes] = field(default_factory=dict)
    core_seconds: float | None = None
    environment: Environment = field(default_factory=Environment)

    @property
    def label(self) -> str:
        return self.producer or self.job

    def build(self) -> Stage:
        """Build the stage in this process. Raises InputError, for example if a model is missing."""
        self.environment.apply()
        return self.stage(*self.args)


@dataclass(frozen=True)
class Redo:
    """A retry of one chunk: the number of the retry, and the error rows as {position in the part: key}."""

    number: int
    rows: Mapping[int, tuple]


def errors_of(output: Output) -> dict[str, Redo]:
    """{chunk: the rows of it that still stand as errors}, for a retry of the whole output."""
    found = {}
    for part in parts_of(output):
        if rows := error_rows(part):
            found[part.chunk.name] = Redo(len(part.files), rows)
    return found


@dataclass(frozen=True)
class TableRun:
    """One run of a job over the chunks of its opened output.

    only: for a retry, {chunk name: what to redo}. limit: run only the first chunks that together hold this many items.
    """

    job: TableJob
    output: Output
    only: Mapping[str, Redo] | None = None
    limit: int | None = None
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def has_work(self) -> bool:
        return not self.output.is_kept and bool(self.chunks())

    def chunks(self) -> list[Chunk]:
        """The chunks of this run: those that are pending (or to be retried) among the first that hold `limit` items."""
        chosen = {c.name for c in first_items(self.output.chunks, self.limit)}
        waiting = self.output.pending() if self.only is None else [c for c in self.output.chunks if c.name in self.only]
        return [c for c in waiting if c.name in chosen]

    def for_workers(self) -> TableRun:
        """A copy without the plan, which may hold 390,000 chunks; workers get their chunks one by one."""
        job = replace(self.job, parts=(), fields={}, files={})
        return replace(self, job=job, output=replace(self.output, chunks=()))


def first_items(chunks: Sequence[Chunk], limit: int | None) -> list[Chunk]:
    """The first chunks that together hold at least `limit` items; all chunks if there is no limit."""
    chosen: list[Chunk] = []
    n_items = 0
    for chunk in chunks:
        if limit is not None and n_items >= limit:
            break
        chosen.append(chunk)
        n_items += chunk.stop - chunk.start
    return chosen
