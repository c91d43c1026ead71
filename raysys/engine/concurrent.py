"""Run several blocking calls (Ray's, or a training in this process) concurrently, so that Ctrl-C stops all of them."""

from __future__ import annotations

import ctypes
import sys
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

T = TypeVar("T")
POLL_S = 0.2
"""Poll interval in seconds. The main thread must not block indefinitely, because it handles signals."""
STOP_S = 10.0
"""Time in seconds for interrupted threads to leave Ray; Ray Data stops its threads in this time."""


_ending: dict[int, float] = {}
"""Thread that is stopping its actions → deadline for them; until the last deadline Ray stays connected."""

_in_grace: set[int] = set()
"""Threads that wait for their actions to end by themselves."""


class _Thread(threading.Thread):
    """A daemon thread that reports when its action has ended.

    `Thread.is_alive()` is not reliable: before Python 3.13, a `join()` that is interrupted by a signal marks the thread
    as stopped while it still runs.
    """

    def __init__(self, action: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._action, self.ended = action, threading.Event()

    def run(self) -> None:
        try:
            self._action()
        finally:
            self.ended.set()


def run_concurrently(
    actions: Sequence[Callable[[], T]], ask_to_stop: Callable[[], None] | None = None, grace_s: float = 0.0
) -> list[T]:
    """Run `actions` in threads and return their results in order. Raises the first failure after all have ended.

    Ctrl-C or SIGTERM interrupts every action and is then raised in the caller. If an action does not end, Ray is
    disconnected, which makes it fail. If `ask_to_stop` is given, it is called first, and the actions have `grace_s`
    seconds to end by themselves; a second Ctrl-C or SIGTERM ends this grace period.
    """
    results: dict[int, T] = {}
    failures: dict[int, BaseException] = {}

    def run(i: int, action: Callable[[], T]) -> None:
        try:
            results[i] = action()
        except BaseException as exc:
            failures[i] = exc

    threads = [_Thread(partial(run, i, action)) for i, action in enumerate(actions)]
    for thread in threads:
        thread.start()
    try:
        _join(threads)
    except BaseException:
        try:
            if ask_to_stop is not None:
                _end_gracefully(threads, ask_to_stop, grace_s)
        finally:
            _interrupt(threads)
        raise
    for i in sorted(failures):
        raise failures[i]
    return [results[i] for i in range(len(actions))]


def _join(threads: Sequence[_Thread], until: float = float("inf")) -> None:
    """Wait for the threads in short intervals, between which Python handles signals."""
    for thread in threads:
        while not thread.ended.wait(POLL_S) and time.monotonic() < until:
            pass


def _all_ended(threads: Sequence[_Thread]) -> bool:
    return all(thread.ended.is_set() for thread in threads)


def _end_gracefully(threads: Sequence[_Thread], ask_to_stop: Callable[[], None], grace_s: float) -> None:
    me, until = threading.get_ident(), time.monotonic() + grace_s
    if not _in_grace:  # several trainings of a study stop together
        print(f"stopping: waiting up to {grace_s:g} s for checkpoints (Ctrl-C again to stop at once)", file=sys.stderr)
    _in_grace.add(me)
    _ending[me] = until + STOP_S
    try:
        ask_to_stop()
        _join(threads, until)
    except Exception as exc:  # the threads must be interrupted in any case
        print(f"cannot stop gracefully: {type(exc).__name__}: {exc}", file=sys.stderr)
    finally:
        _in_grace.discard(me)


def _interrupt(threads: Sequence[_Thread]) -> None:
    """Raise KeyboardInterrupt in the threads, and wait until they and the threads that they wait for have ended.

    ray.shutdown() is only the last resort: in the middle of a Ray call it can crash Ray's core (SIGSEGV).
    """
    me = threading.get_ident()
    _ending[me] = time.monotonic() + STOP_S
    try:
        _raise_in(threads)
        while not _all_ended(threads) and time.monotonic() < max(_ending.values()):
            try:
                time.sleep(POLL_S)
            except KeyboardInterrupt:  # a second one ends the grace period of nested actions, not the clean-up
                _raise_in(threads)
        if not _all_ended(threads) and "ray" in sys.modules:
            sys.modules["ray"].shutdown()
    finally:
        del _ending[me]


def _raise_in(threads: Sequence[_Thread]) -> None:
    """Raise KeyboardInterrupt in the threads that have not ended, at their next Python instruction."""
    for thread in threads:
        if not thread.ended.is_set():
            ctypes.pythonapi.PyThreadState_SetAsyncExc(
                ctypes.c_ulong(thread.ident), ctypes.py_object(KeyboardInterrupt)
            )
