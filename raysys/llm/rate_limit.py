"""When the next request may start: evenly spaced starts, pauses that a server asks for, growing waits between tries."""

from __future__ import annotations

import asyncio
import email.utils
import random
import time

FIRST_WAIT_S = 1.0
"""The wait before the second try; every later one is twice as long."""


class Pace:
    """The starts of one worker's requests: `per_minute` at most, evenly spaced, and none during a pause.

    Even spacing keeps the limit in every window of time, however the server counts. Used from one event loop only.
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
        """Let nothing start before `until`; a shorter pause than the present one changes nothing."""
        self._resume = max(self._resume, until)

    def paused(self, now: float) -> bool:
        return now < self._resume

    async def turn(self) -> None:
        """Wait for a start. A pause that begins during the wait takes the reserved start away."""
        clock = asyncio.get_running_loop().time
        while True:
            start = self.reserve(clock())
            await sleep_until(start)
            if not self.paused(clock()):
                return


async def sleep_until(when: float) -> None:
    """Until the event loop's clock shows `when`; returns at once if it does already."""
    clock = asyncio.get_running_loop().time
    while (left := when - clock()) > 0:  # timers may fire one clock tick early
        await asyncio.sleep(left)


def backoff_s(n_failed: int, longest_s: float) -> float:
    """The wait after `n_failed` ≥ 1 failed tries: FIRST_WAIT_S·2^(n−1), at most `longest_s`; a random half is left.

    Random, so that requests which failed together do not come back together.
    """
    exponent = min(n_failed - 1, 32)  # 2^32 s is for ever; larger powers would only overflow
    return min(longest_s, FIRST_WAIT_S * 2.0**exponent) * random.uniform(0.5, 1.0)


def retry_after_s(header: str | None) -> float | None:
    """Seconds from now that a Retry-After header asks for (RFC 9110 §10.2.3: seconds, or a date), ≥ 0.

    None where there is no header, or one that means nothing. Fractions of a second, which some servers send, are read.
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
