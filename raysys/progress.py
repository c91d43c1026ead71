"""Progress of a stage: one live line on a terminal, a line every few seconds in a log, JSON records for plots.

    ingest  1,024/4,096 rows in  25 %  312 rows/s  ETA 0:09  kept 1,021 rejected 3 error 0

Several stages may report at once (the demo trains two models together); they share the terminal's live line.
`Waiting` says what is happening before there is anything to count: Ray starts, workers load a model.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from raysys.outcomes import Counts

LOG_INTERVAL_S = 5.0
LIVE_INTERVAL_S = 0.2
"""Seconds between two redraws of the live line."""

RATE_WINDOW_S = 30.0
"""The rate is measured over this window, so that the ETA follows changes of speed."""

ETA_MIN_ELAPSED_S = 1.0
"""Rate and ETA are not shown earlier, because a single fast first batch is not representative."""

WAIT_LINES_S = (3.0, 10.0)
"""Times of the first two lines in a log while something starts; each later line doubles the time of the one before."""


class Progress:
    """Reports `done` of `total` items of a stage. Thread-safe; use as a context manager or call `close()`.

    Args:
        stage: name shown first, e.g. "ingest".
        total: number of items; None if unknown (then no percentage and no ETA are shown).
        unit: plural name of an item: "rows", "steps", "images".
        interval_s: seconds between log lines (if not on a terminal) and between JSON records.
        metrics: append one JSON object per interval, and one at the end, to this file.
        start: items done by an earlier run; they are included in `done` but not in the rate or the counts.
        starting: what happens until the first update, e.g. "loading the model"; shown with the seconds that it takes.
        stream: output of the lines (default: standard error, so that standard output can be piped).
        clock_s: monotonic clock in seconds, for tests.
    """

    def __init__(
        self,
        stage: str,
        total: int | None,
        unit: str = "items",
        interval_s: float = LOG_INTERVAL_S,
        *,
        metrics: str | Path | None = None,
        start: int = 0,
        starting: str | None = None,
        stream: TextIO | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.stage, self.total, self.unit, self.interval_s = stage, total, unit, interval_s
        self.done = start
        self._start, self._counts, self._extra = start, None, {}
        self._clock_s = clock_s
        self._began_s = self._shown_s = self._recorded_s = clock_s()
        self._sums: Mapping[str, float] = {}
        self._window: deque[tuple[float, int, Mapping[str, float]]] = deque([(self._began_s, start, {})])
        self._metrics = Path(metrics) if metrics is not None else None
        self._stream = stream if stream is not None else sys.stderr
        self._live = _is_terminal(self._stream)
        self._lock = threading.RLock()
        self._closed = self._has_begun = False
        self._waiting = None if starting is None else Waiting(f"{stage}  {starting}", stream=self._stream).start()

    def update(
        self,
        done: int,
        counts: Counts | None = None,
        sums: Mapping[str, float] | None = None,
        worked_s: float | None = None,
        **extra: Any,
    ) -> None:
        """Report the total number of items done so far. `extra` values, e.g. loss=0.12, are shown and recorded.

        sums: other totals so far, e.g. {"completion_tokens": 512}; shown and recorded per second.
        worked_s: seconds since the work on these items began, without starting workers and loading models; the rate
        is measured from there. Only that of the first update counts; None = measure from the first update.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError(f"progress of {self.stage} is closed")
            now_s = self._clock_s()
            if not self._has_begun:
                self._has_begun = True
                self._stop_waiting()
                since = (now_s, done, dict(sums or {})) if worked_s is None else (now_s - worked_s, self._start, {})
                self._window = deque([since])
            self.done, self._extra = done, extra
            self._counts = counts if counts is not None else self._counts
            self._sums = dict(sums or {})
            self._window.append((now_s, done, self._sums))
            # Keep one sample older than the window, because the rate is measured from it.
            while len(self._window) > 2 and self._window[1][0] <= now_s - RATE_WINDOW_S:
                self._window.popleft()
            if now_s - self._recorded_s >= self.interval_s:
                self._record(now_s)
            if now_s - self._shown_s >= (LIVE_INTERVAL_S if self._live else self.interval_s):
                self._shown_s = now_s
                self._show(self.line())

    def close(self, status: str = "done") -> None:
        """Print the last line with the time taken and write the last record. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._stop_waiting()
            now_s = self._clock_s()
            self._record(now_s, status)
            line = self.line(status)
            if self._live:
                _LIVE_LINE.finish(self, line, self._stream)
            else:
                self._write_line(line)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None):
        self.close("done" if exc_type is None else "stopped")

    @property
    def rate(self) -> float | None:
        """Items per second over the last half minute; None if it cannot be measured yet."""
        with self._lock:
            now_s = self._clock_s()
            since_s, since_done, _ = self._window[0]
            if now_s - since_s < ETA_MIN_ELAPSED_S or self.done <= self._start or not self._has_begun:
                return None
            return (self.done - since_done) / max(now_s - since_s, 1e-9)

    @property
    def _overall_rate(self) -> float:
        """Items per second of the whole run, including its start."""
        return (self.done - self._start) / max(self._clock_s() - self._began_s, 1e-9)

    def _shown(self, whole: bool) -> dict[str, Any]:
        """Sums per second, over the whole run or the last half minute, then the extra values."""
        since_s, since = (self._began_s, {}) if whole else (self._window[0][0], self._window[0][2])
        elapsed_s = self._clock_s() - since_s
        if elapsed_s <= 0:
            return dict(self._extra)
        rates = {f"{name}/s": (total - since.get(name, 0)) / elapsed_s for name, total in self._sums.items()}
        return rates | self._extra

    @property
    def eta_s(self) -> float | None:
        """Seconds left at the current rate; None if unknown (no total, no rate yet, or stalled)."""
        rate = self.rate
        if self.total is None or not rate:
            return None
        return max(self.total - self.done, 0) / rate

    def line(self, status: str | None = None) -> str:
        """The text of one progress line; with a `status`, of the final one."""
        with self._lock:
            total = f"/{self.total:,}" if self.total is not None else ""
            # What goes in is not always as many rows as come out: one caption per prompt, only some captions encoded.
            unit = self.unit if self._counts is None else f"{self.unit} in"
            parts = [self.stage, f"{self.done:,}{total} {unit}"]
            if self.total:
                # Rounded down: 100 % must mean finished.
                parts.append(f"{100 * self.done // self.total} %")
            elapsed_s = self._clock_s() - self._began_s
            rate = self.rate if status is None else self._overall_rate
            if rate and elapsed_s >= ETA_MIN_ELAPSED_S:
                parts.append(format_rate(rate, self.unit))
            if status is not None:
                parts.append(f"{status} in {format_clock(elapsed_s)}")
            elif self.total is not None:
                parts.append(f"ETA {format_clock(self.eta_s)}")
            if self._counts is not None:
                kept, rejected, error = self._counts.kept, self._counts.n_rejected, self._counts.n_error
                scope = "this run: " if self._start else ""
                parts.append(f"{scope}kept {kept:,} rejected {rejected:,} error {error:,}")
            parts += [f"{name} {_short(value)}" for name, value in self._shown(whole=status is not None).items()]
            return "  ".join(parts)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.close()
            self._waiting = None

    def _show(self, line: str) -> None:
        if self._live:
            _LIVE_LINE.draw(self, line, self._stream)
        else:
            self._write_line(line)

    def _write_line(self, line: str) -> None:
        """Write a line in one call; `print` makes two, which mixes up the lines of concurrent stages."""
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def _record(self, now_s: float, status: str | None = None) -> None:
        self._recorded_s = now_s
        if self._metrics is None:
            return
        record: dict[str, Any] = {
            "time": time.time(),
            "stage": self.stage,
            "done": self.done,
            "total": self.total,
            "unit": self.unit,
            "elapsed_s": round(now_s - self._began_s, 3),
            "rate": self.rate if status is None else self._overall_rate,
            "eta_s": 0.0 if self.done == self.total else self.eta_s,
        }
        if self._counts is not None:
            counts = self._counts
            record |= {"kept": counts.kept, "rejected": counts.n_rejected, "error": counts.n_error}
        if status is not None:
            record["status"] = status
        record |= self._shown(whole=status is not None)
        self._metrics.parent.mkdir(parents=True, exist_ok=True)
        # One write per record, so that concurrent writers do not mix their lines.
        with self._metrics.open("a", encoding="utf-8") as out:
            out.write(json.dumps(record, default=str) + "\n")


class Waiting:
    """Says what is happening, with the time it has taken, while nothing can be counted yet.

    On a terminal the live line, every second; in a log, a line after 3, 10, 20, 40 … seconds. Nothing is shown that is
    over sooner. Use as a context manager, or call `start()` and `close()`; both are thread-safe.
    """

    def __init__(
        self, what: str, *, stream: TextIO | None = None, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._what, self._clock_s, self._began_s = what, clock_s, clock_s()
        self._stream = stream if stream is not None else sys.stderr
        self._live, self._next_s = _is_terminal(self._stream), WAIT_LINES_S[0]
        self._lock, self._closed = threading.Lock(), threading.Event()

    @property
    def elapsed_s(self) -> float:
        return self._clock_s() - self._began_s

    def tick(self) -> None:
        """Show what is due now."""
        with self._lock:
            elapsed_s = self.elapsed_s
            if self._closed.is_set() or (elapsed_s < self._next_s and not self._live):
                return
            line = f"{self._what}  {format_clock(elapsed_s)}"
            if self._live:
                _LIVE_LINE.draw(self, line, self._stream)
                return
            self._stream.write(f"{line}\n")
            self._stream.flush()
            while self._next_s <= elapsed_s:
                self._next_s = max(WAIT_LINES_S[1], 2 * self._next_s)

    def start(self) -> Waiting:
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def _watch(self) -> None:
        while not self._closed.wait(1.0):
            self.tick()

    def close(self) -> None:
        """Stop, and remove the text from the live line. A second call does nothing."""
        with self._lock:
            if not self._closed.is_set():
                self._closed.set()
                _LIVE_LINE.remove(self, self._stream)

    def __enter__(self) -> Waiting:
        return self.start()

    def __exit__(self, *exc: object) -> None:
        self.close()


class _LiveLine:
    """The one line at the bottom of a terminal that all open `Progress` and `Waiting` objects share.

    They call these methods while they hold their locks. These never acquire such a lock, which could deadlock; each
    owner passes its text instead.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._texts: dict[tuple[TextIO, object], str] = {}  # latest text of each, in order of appearance

    def draw(self, owner: Progress | Waiting, text: str, stream: TextIO) -> None:
        with self._lock:
            self._texts[stream, owner] = text
            self._redraw(stream)

    def remove(self, owner: Progress | Waiting, stream: TextIO) -> None:
        with self._lock:
            if self._texts.pop((stream, owner), None) is not None:
                self._redraw(stream)

    def finish(self, progress: Progress, last_line: str, stream: TextIO) -> None:
        """Print `last_line` permanently and continue below it."""
        with self._lock:
            self._texts.pop((stream, progress), None)
            stream.write(f"{_CLEAR_LINE}{last_line}\n")
            self._redraw(stream)

    def _redraw(self, stream: TextIO) -> None:
        texts = [text for (place, _), text in self._texts.items() if place is stream]
        # A line longer than the terminal would wrap, and carriage return would only go back to its last row.
        columns = shutil.get_terminal_size().columns - 1
        line = " │ ".join(texts)
        stream.write(_CLEAR_LINE + (line if len(line) <= columns else line[: columns - 1] + "…"))
        stream.flush()


_CLEAR_LINE = "\r\x1b[2K"
_LIVE_LINE = _LiveLine()


def format_clock(seconds: float | None) -> str:
    """Seconds as m:ss or h:mm:ss; "-:--" if unknown. Rounded up, so that "0:00" means finished."""
    if seconds is None:
        return "-:--"
    minutes, second = divmod(math.ceil(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def format_rate(per_second: float, unit: str) -> str:
    """312 rows/s, 3.1 rows/s; rates below 0.1 per second are given in rows/min."""
    if per_second < 0.1:
        return f"{60 * per_second:.2g} {unit}/min"
    return f"{per_second:,.0f} {unit}/s" if per_second >= 10 else f"{per_second:.2g} {unit}/s"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"
