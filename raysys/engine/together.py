"""Several blocking Ray calls at the same time from one driver, with a Ctrl-C that stops them all at once."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import ray

T = TypeVar("T")
POLL_S = 0.2
"""Python delivers signals between the main thread's instructions: it must not block for good."""
STOP_S = 10.0
"""How long interrupted threads get to leave Ray: Ray Data stops its own threads in this time."""


def together(actions: Sequence[Callable[[], T]]) -> list[T]:
    """Run `actions` in threads; their results in order. The first failure is raised when all have ended.

    A Ctrl-C or SIGTERM goes to every action, then on to the caller. What does not end by it is disconnected from Ray,
    which makes it fail.
    """
    results: dict[int, T] = {}
    failures: dict[int, BaseException] = {}

    def run(i: int, action: Callable[[], T]) -> None:
        try:
            results[i] = action()
        except BaseException as exc:
            failures[i] = exc

    threads = [threading.Thread(target=run, args=(i, a), daemon=True) for i, a in enumerate(actions)]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(POLL_S)
    except BaseException:
        _interrupt(threads)
        raise
    for i in sorted(failures):
        raise failures[i]
    return [results[i] for i in range(len(actions))]


def _interrupt(threads: Sequence[threading.Thread]) -> None:
    """Raise KeyboardInterrupt in the threads, at their next Python instruction.

    Not ray.shutdown() while they are in the middle of a call: Ray's core can crash then (signal 11).
    """
    for thread in threads:
        if thread.is_alive():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt)
            )
    deadline = time.monotonic() + STOP_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    if any(thread.is_alive() for thread in threads):
        ray.shutdown()
