"""Meters of a run: rows in flight, tokens per second, GPU hours; and the gate used by threaded workers."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Gate:
    """A shared/exclusive lock: any number of chunks at once, or one chunk alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._alone = 0, False

    @contextmanager
    def hold(self, alone: bool) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and (not alone or self._inside == 0))
            self._inside += 1
            self._alone = alone
        try:
            yield
        finally:
            with self._changed:
                self._inside -= 1
                self._alone = False
                self._changed.notify_all()


class Gauge:
    """One worker's meter: how long it has been alive and how many rows it is processing."""

    def __init__(self) -> None:
        self._id, self._began_s = uuid.uuid4().hex, time.monotonic()
        self._lock, self._rows = threading.Lock(), 0

    @contextmanager
    def holding(self, n_rows: int) -> Iterator[None]:
        with self._lock:
            self._rows += n_rows
        try:
            yield
        finally:
            with self._lock:
                self._rows -= n_rows

    def read(self) -> dict[str, Any]:
        """{"id", "alive_s", "rows": being processed now}"""
        with self._lock:
            return {"id": self._id, "alive_s": time.monotonic() - self._began_s, "rows": self._rows}


SILENT_S = 600.0
"""A worker that has not reported for this long is assumed dead or preempted: its rows are not counted."""


class Meters:
    """The driver's sums over the reports of finished chunks."""

    def __init__(self, num_gpus: float = 0.0, clock_s: Callable[[], float] = time.monotonic) -> None:
        """num_gpus: GPUs per worker. A worker's GPU hours are counted from its start to its latest report."""
        self._num_gpus, self._clock_s = num_gpus, clock_s
        self.sums: dict[str, int] = {}
        self._workers: dict[str, dict[str, Any]] = {}

    def add(self, report: dict[str, Any]) -> None:
        """Add a report: {"sums": {column: n}, "worker": a `Gauge` reading}. Both are optional."""
        for name, value in report.get("sums", {}).items():
            self.sums[name] = self.sums.get(name, 0) + value
        if worker := report.get("worker"):
            self._workers[worker["id"]] = worker | {"reported_s": self._clock_s()}

    @property
    def gpu_hours(self) -> float:
        return sum(w["alive_s"] for w in self._workers.values()) * self._num_gpus / 3600

    def totals(self) -> dict[str, Any]:
        """Values for the summary of a run; empty if nothing was metered."""
        return ({"meters": self.sums} if self.sums else {}) | (
            {"gpu_hours": round(self.gpu_hours, 4)} if self._num_gpus else {}
        )

    def shown(self) -> dict[str, float]:
        """Values for the progress line: rows in flight, GPU hours."""
        shown: dict[str, float] = {}
        if self.sums and self._workers:
            since_s = self._clock_s() - SILENT_S
            shown["in_flight"] = sum(w["rows"] for w in self._workers.values() if w["reported_s"] >= since_s)
        if self._num_gpus:
            shown["gpu_hours"] = self.gpu_hours
        return shown
