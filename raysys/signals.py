"""SIGTERM as a graceful stop: it raises KeyboardInterrupt in the main thread, like Ctrl-C.

Schedulers, `ray job stop` and `kill` send SIGTERM. `ray.init` replaces the handler by one that exits at once, so the
engine calls `install()` again after it.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

_received = False


def install() -> None:
    """Make SIGTERM raise KeyboardInterrupt. Does nothing outside the main thread, where handlers cannot be set."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _on_sigterm)


def received() -> bool:
    """Whether a SIGTERM was received, to distinguish it from Ctrl-C."""
    return _received


def _on_sigterm(_signum: int, _frame: FrameType | None) -> None:
    global _received
    _received = True
    raise KeyboardInterrupt("SIGTERM")
