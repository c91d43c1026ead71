"""What a row job is: a stage, its input and its output. No Ray here: a dry run needs only this."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from raysys.engine.config import EngineConfig
from raysys.tables import Chunk, Output
from raysys.tables.process import Stage


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
