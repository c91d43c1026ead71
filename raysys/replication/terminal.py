"""Progress lines of a measurement in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from raysys.progress import Progress
from raysys.replication.compare import ProgressFn

SHOWN = ("describe", "search", "background")
"""First words of the names of the stages that are shown."""


@contextmanager
def terminal_progress() -> Iterator[ProgressFn]:
    """A progress callback that shows one line with rate and ETA per stage of `SHOWN`."""
    open_lines: dict[str, Progress] = {}
    finished: set[str] = set()  # a stage may report its end twice: after its last full batch and when it is done

    def report(stage: str, done: int, total: int) -> None:
        if stage.split()[0] not in SHOWN:
            return
        if stage in finished:
            return
        if stage not in open_lines:
            open_lines[stage] = Progress(stage, total, "images")
        open_lines[stage].update(done)
        if done >= total:
            open_lines[stage].close()
            finished.add(stage)

    try:
        yield report
    finally:
        for line in open_lines.values():
            line.close("stopped")
