"""The engine for an OpenAI-compatible endpoint, with an async client.

One thread runs an event loop with a connection pool; callers' threads pass requests to it and wait. Temporary failures
are retried with exponential backoff, or after the time that the server asks for. If the server cannot be reached, the
worker waits, which does not count as an attempt. After `max_outage_s` the run stops, and the current rows stay pending;
otherwise an unavailable server would turn millions of rows into errors.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import random
import threading
from collections.abc import Sequence

from raysys.errors import InputError
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Completion, Failure, Reply, Request
from raysys.llm.endpoint_http import Denied, Trouble, body_of, is_chat, path_of, read_reply
from raysys.llm.endpoint_reason import with_reason
from raysys.llm.endpoint_session import Answer, Connection, away, denied, endpoint_of
from raysys.llm.rate_limit import Pace, backoff_s
from raysys.llm.seeds import draw_seed

logger = logging.getLogger(__name__)

RECONNECT_WAIT_S = 5.0
"""Maximum wait between two attempts to reach an unavailable server; a refused connection is cheap."""

CROWDED_PER_TRY = 10
"""While other requests are answered, a request fails only after `max_attempts` times this many "too many requests"."""


class EndpointGenerator:
    """A model behind an OpenAI-compatible endpoint. Thread-safe: callers share connections, slots and the rate limit.

    share: this worker's fraction of the job's `requests_per_minute`, in (0, 1]. If the server refuses the key,
    `generate` raises InputError from then on, because all requests would be refused. A 403 after a successful request
    only fails its own request. If the server is unavailable for `max_outage_s`, `generate` raises InputError until it
    is available again.
    """

    def __init__(self, config: LlmConfig, share: float = 1.0) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share {share} is not in (0, 1]")
        self._config, self._endpoint = config, endpoint_of(config)
        self._connection = Connection(self._endpoint)
        per_minute = self._endpoint.requests_per_minute
        self._pace = Pace(per_minute * share if per_minute else None)
        self._slots = asyncio.Semaphore(self._endpoint.max_in_flight)
        self._last_success = float("-inf")
        self._away_since: float | None = None
        self._slowed_down = False
        self._denied: InputError | None = None
        self._closed = False
        self._lock = threading.Lock()
        # Not the process's default loop: Ray installs uvloop if available, which cannot race addresses (RFC 8305).
        self._loop = asyncio.SelectorEventLoop()
        # A daemon thread, so that a program that fails without close() can exit.
        self._thread = threading.Thread(target=self._loop.run_forever, name="raysys-endpoint", daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._connection.open(), self._loop).result()

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order. Raises InputError if the server refuses the key or is away for too long."""
        with self._lock:
            if self._closed:
                raise RuntimeError("generate() after close()")
            future = asyncio.run_coroutine_threadsafe(self._answer_all(list(requests)), self._loop)
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise RuntimeError("closed while it was generating") from None
        except BaseException:
            future.cancel()  # Ctrl-C in this thread: the answers are no longer needed
            raise

    def close(self) -> None:
        """Cancel open requests, close the connections and end the thread. A second call does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._connection.close()
        await self._loop.shutdown_default_executor()

    async def _answer_all(self, requests: list[Request]) -> list[Reply]:
        tasks = [asyncio.create_task(self._answer(request)) for request in requests]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:  # gather leaves the others running when one raises
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, request: Request) -> Reply:
        """The request's n completions. Greedy answers are requested once; some servers return fewer than requested."""
        if request.image is not None and not is_chat(self._config):
            detail = "the completion format takes no image: use prompt_format: chat"
            return Failure("image_not_supported", detail, bad_input=True)
        greedy = request.sampling.temperature == 0
        wanted = 1 if greedy else request.n
        answers: list[Completion] = []
        async with self._slots:
            while len(answers) < wanted:
                seed = draw_seed(request.seed, len(answers))  # vLLM counts up too: asking again repeats no answer
                got = await self._ask(request, wanted - len(answers), seed)
                if isinstance(got, Failure):
                    return got
                answers += got
        return answers * request.n if greedy else answers

    async def _ask(self, request: Request, n: int, seed: int) -> list[Completion] | Failure:
        """At least one completion, with as many attempts as needed and allowed."""
        clock = self._loop.time
        n_failed = n_unreached = n_crowded = 0
        last_try = clock()
        while True:
            await self._pace.turn()
            if self._denied is not None:
                raise self._denied
            got = await self._try(request, n, seed)
            if not isinstance(got, Trouble):
                self._last_success = clock()
                return got
            if not got.retry:
                return got.failure
            if not got.reached:
                n_unreached += 1
                if clock() - self._away_since >= self._endpoint.max_outage_s:
                    raise away(self._endpoint, got.failure)
                await asyncio.sleep(backoff_s(n_unreached, min(RECONNECT_WAIT_S, self._endpoint.max_wait_s)))
                continue
            # "Too many requests" while others are answered is caused by our other requests, so it does not count as an
            # attempt of this one, unless it persists: then this request alone exceeds the server's limit.
            crowded = got.everyone and self._last_success >= last_try
            crowded = crowded and n_crowded < CROWDED_PER_TRY * self._endpoint.max_attempts
            n_crowded, n_failed = n_crowded + crowded, n_failed + (not crowded)
            last_try = clock()
            if n_failed >= self._endpoint.max_attempts:
                return Failure(got.failure.reason, f"{got.failure.detail}; tried {n_crowded + n_failed} times")
            await self._wait(got, n_failed)

    async def _wait(self, trouble: Trouble, n_failed: int) -> None:
        if trouble.wait_s is None:
            wait_s = backoff_s(max(1, n_failed), self._endpoint.max_wait_s)
        else:  # slightly later than requested, and not all at once
            wait_s = min(self._endpoint.max_outage_s, trouble.wait_s * random.uniform(1.0, 1.1))
        if trouble.everyone:
            self._pace.pause(self._loop.time() + wait_s)
            if not self._slowed_down:
                self._slowed_down = True
                message = "%s asks for fewer requests; endpoint.requests_per_minute can keep its limit"
                logger.warning(message, self._connection.base_url)
        await asyncio.sleep(wait_s)

    async def _try(self, request: Request, n: int, seed: int) -> list[Completion] | Trouble:
        """Send one HTTP request and update what is known about the server's availability."""
        if request.image is None:
            body = body_of(self._config, request, n, seed)
        else:  # in a thread, because encoding an image takes milliseconds
            body = await asyncio.to_thread(body_of, self._config, request, n, seed)
        answer = await self._connection.post(path_of(self._config), body)
        self._note_presence(answer)
        if isinstance(answer, Trouble):
            return answer
        try:
            return read_reply(answer.status, answer.headers, answer.payload, request, n, self._config)
        except Denied as refusal:
            if refusal.status == 403 and self._last_success > float("-inf"):
                # The key is valid, because others were answered with it.
                detail = "the server answered 403 to this request, after others were answered"
                return Trouble(Failure("http_403", with_reason(detail, refusal.reason)), retry=False)
            self._denied = denied(self._endpoint, refusal.status, refusal.reason)
            raise self._denied from None

    def _note_presence(self, answer: Answer | Trouble) -> None:
        reached = not isinstance(answer, Trouble) or answer.reached
        if reached and self._away_since is not None:
            away_s = self._loop.time() - self._away_since
            logger.info("%s is back after %.0f s", self._connection.base_url, away_s)
            self._away_since = None
        elif not reached and self._away_since is None:
            message = "%s: %s; waiting up to %.0f s for it"
            logger.warning(message, self._connection.base_url, answer.failure.detail, self._endpoint.max_outage_s)
            self._away_since = self._loop.time()
