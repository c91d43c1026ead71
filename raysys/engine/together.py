"""Several blocking Ray calls at the same time from one driver, with a Ctrl-C that stops them all at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import ray

T = TypeVar("T")
POLL_S = 0.2
"""Python delivers signals between the main thread's instructions: it must not block for good."""


def together(actions: Sequence[Callable[[], T]]) -> list[T]:
    """Run `actions` in threads; their results in order. The first failure is raised when all have ended.

    A Ctrl-C or SIGTERM disconnects from Ray, which makes every action fail at once, and goes on to the caller.
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
        ray.shutdown()
        raise
    for i in sorted(failures):
        raise failures[i]
    return [results[i] for i in range(len(actions))]
