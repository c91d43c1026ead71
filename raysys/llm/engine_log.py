"""Find the cause of a failed start in the logs of an engine's processes."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path

_CAUSE = re.compile(
    r"^(?:\(\S+ pid=\d+\) ?)?(?:[A-Z]+ [\d-]+ [\d:]+ \[[^\]]*\] ?)?"  # vLLM's process, its logger
    r"((?:\w+\.)*\w*(?:Error|Exception)(?:: .*)?)$"
)
"""The last line of a traceback."""

_NO_CAUSE = "root cause"
"""Text in the errors of processes that failed because of another one."""

_MAX_CHARS = 600
_MAX_BYTES = 4 * 2**20
"""Maximum number of bytes read from the end of a log."""


def own_logs() -> dict[Path, int]:
    """{file: current size} of stdout and stderr, which child processes also write to.

    In Ray's workers these are log files; terminals and pipes cannot be read again and are omitted.
    """
    found: dict[Path, int] = {}
    for number in (1, 2):
        try:
            state = os.fstat(number)
            if stat.S_ISREG(state.st_mode):
                found[Path(os.readlink(f"/proc/self/fd/{number}"))] = state.st_size
        except OSError:  # closed, or a system without /proc
            continue
    return found


def last_error(logs: Mapping[Path, int]) -> tuple[str, Path] | None:
    """(last error written to `logs` after the given sizes, its file); None if there is none."""
    for file, start in sorted(logs.items(), key=lambda item: item[0].suffix != ".err"):
        try:
            with file.open("rb") as log:
                log.seek(max(start, file.stat().st_size - _MAX_BYTES))
                lines = log.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        errors = [match[1] for line in lines if (match := _CAUSE.match(line)) and _NO_CAUSE not in line]
        if errors:
            return errors[-1][:_MAX_CHARS], file
    return None
