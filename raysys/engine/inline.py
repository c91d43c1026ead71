"""A row job in this process, chunk by chunk, without Ray: for small inputs, notebooks and debuggers.

The same chunks, fates, progress, error budget, retries and parts as with Ray; a run may go on where the other stopped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any

from raysys.engine.chunk_work import failure, whole_chunk
from raysys.engine.drive import MapResult, drive
from raysys.errors import WorkerBroken
from raysys.tables import Chunk
from raysys.tables.job import TableRun
from raysys.tables.stage import Stage


def run_inline(run: TableRun) -> MapResult:
    """Run all pending chunks, one after the other. Raises RunFailed or InputError, as `raysys.engine.map.run_map`."""
    chunks = run.chunks()
    return drive(run, len(chunks), _reports(run, chunks)) if chunks else MapResult()


def _reports(run: TableRun, chunks: Sequence[Chunk]) -> Iterator[dict[str, Any]]:
    worker = _Worker(run)
    for chunk in chunks:
        yield worker.report(chunk)


class _Worker:
    """Holds the stage, which the first chunk builds, as a worker of Ray does."""

    def __init__(self, run: TableRun) -> None:
        self._run = run
        self._stage: Stage | None = None

    def report(self, chunk: Chunk) -> dict[str, Any]:
        while True:
            try:
                return whole_chunk(self._run, chunk, self._built)
            except WorkerBroken as exc:
                # Its attempts are counted on storage: after a few, the chunk runs item by item and the culprit is
                # recorded, so this loop ends.
                print(f"{self._run.job.label}: the stage is built again: {exc}", file=sys.stderr, flush=True)
                self._stage = None
            except Exception as exc:
                return failure(chunk, exc)

    def _built(self) -> Stage:
        if self._stage is None:
            self._stage = self._run.job.build()
        return self._stage
