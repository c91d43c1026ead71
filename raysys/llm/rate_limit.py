"""Timing of requests: evenly spaced starts, pauses requested by the server, exponential backoff."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time

FIRST_WAIT_S = 1.0
"""The wait before the second attempt; it doubles with each further attempt."""


class Pace:
    """Schedules the starts of one worker's requests: at most `per_minute`, evenly spaced, and none during a pause.

    Even spacing satisfies the limit in every time window, however the server counts. For use in one event loop.
    """

    def __init__(self, per_minute: float | None) -> None:
        self._interval_s = 60.0 / per_minute if per_minute else 0.0
        self._next_start = 0.0
        self._resume = 0.0

    def reserve(self, now: float) -> float:
        """Take the next free start and return its time; `now` is from a monotonic clock."""
        start = max(now, self._next_start, self._resume)
        self._next_start = start + self._interval_s
        return start

    def pause(self, until: float) -> None:
        """Start nothing before `until`; a shorter pause than the current one has no effect."""
        self._resume = max(self._resume, until)

    def paused(self, now: float) -> bool:
        return now < self._resume

    async def turn(self) -> None:
        """Wait for a start. If a pause begins meanwhile, a new start is reserved."""
        clock = asyncio.get_running_loop().time
        while True:
            start = self.reserve(clock())
            await sleep_until(start)
            if not self.paused(clock()):
                return


async def sleep_until(when: float) -> None:
    """Sleep until the event loop's clock reaches `when`."""
    clock = asyncio.get_running_loop().time
    while (left := when - clock()) > 0:  # timers may fire one clock tick early
        await asyncio.sleep(left)


def backoff_s(n_failed: int, longest_s: float) -> float:
    """The wait after `n_failed` ≥ 1 failed tries: FIRST_WAIT_S·2^(n−1), at most `longest_s`; a random half is left.

    Randomized, so that requests that failed together are not retried together.
    """
    exponent = min(n_failed - 1, 32)  # 2^32 s is for ever; larger powers would only overflow
    return min(longest_s, FIRST_WAIT_S * 2.0**exponent) * random.uniform(0.5, 1.0)


def retry_after_s(header: str | None) -> float | None:
    """Seconds from now, ≥ 0, according to a Retry-After header (RFC 9110 §10.2.3: seconds or a date).

    None if the header is missing or invalid. Fractions of a second, which some servers send, are accepted.
    """
    if header is None:
        return None
    text = header.strip()
    if text.replace(".", "", 1).isdecimal() and text.isascii():
        return float(text)
    try:
        date = email.utils.parsedate_to_datetime(text)
    except ValueError:
        return None
    return max(0.0, date.timestamp() - time.time())
