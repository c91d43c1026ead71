"""Run a row job in this process, chunk by chunk, without Ray: for small inputs, notebooks and debuggers.

Chunks, fates, progress, error budget, retries and parts are the same as with Ray; each can resume the other's runs.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from raysys.engine.chunk_work import built, failure, whole_chunk
from raysys.engine.drive import MapResult, drive
from raysys.errors import WorkerBroken
from raysys.tables import Chunk
from raysys.tables.job import TableRun
from raysys.tables.stage import Stage

SMALL_CORE_SECONDS = 10.0
"""A local Ray takes about 8 s to start, so it cannot be faster for less work than this."""


def is_small(runs: Sequence[TableRun]) -> bool:
    """Whether jobs for which no address was given run faster in this process; if so, prints that they do.

    They are small if no cluster is given or connected, all have an estimate of their work (stages that load a model
    have none), and what is pending adds up to at most SMALL_CORE_SECONDS.
    """
    connected = "ray" in sys.modules and sys.modules["ray"].is_initialized()
    estimates = [_pending_core_seconds(run) for run in runs]
    if os.environ.get("RAY_ADDRESS") or connected or any(estimate is None for estimate in estimates):
        return False
    if sum(estimates) > SMALL_CORE_SECONDS:
        return False
    names = ", ".join(run.job.label for run in runs)
    print(f"{names}: a small job, run in this process without Ray (--address local starts one)", file=sys.stderr)
    return True


def _pending_core_seconds(run: TableRun) -> float | None:
    total, items = run.job.core_seconds, sum(c.stop - c.start for c in run.output.chunks)
    if total is None:
        return None
    return total * sum(c.stop - c.start for c in run.chunks()) / max(1, items)


def run_inline(run: TableRun) -> MapResult:
    """Run all pending chunks, one after the other. Raises like `raysys.engine.drive.drive`."""
    chunks = run.chunks()
    if not chunks:
        return MapResult()
    return drive(run, len(chunks), _reports(run, chunks), starting="loading the model" if run.job.stage.heavy else None)


def _reports(run: TableRun, chunks: Sequence[Chunk]) -> Iterator[dict[str, Any]]:
    worker = _Worker(run)
    for chunk in chunks:
        yield worker.report(chunk)


class _Worker:
    """Holds the stage, which is built for the first chunk, as in a Ray worker."""

    def __init__(self, run: TableRun) -> None:
        self._run = run
        self._stage: Stage | None = None

    def report(self, chunk: Chunk) -> dict[str, Any]:
        while True:
            try:
                return whole_chunk(self._run, chunk, self._built)
            except WorkerBroken as exc:
                # This loop ends: attempts are counted on storage, and after a few of them the chunk is processed item
                # by item and the culprit is recorded as an error.
                print(f"{self._run.job.label}: rebuilding the stage: {exc}", file=sys.stderr, flush=True)
                self._stage = None
            except Exception as exc:
                return failure(chunk, exc)

    def _built(self, chunk: Chunk) -> Stage:
        if self._stage is None:
            self._stage = built(self._run, chunk.name)
        return self._stage
