"""An OpenAI-compatible server whose faults are planned: each request meets the fault that the plan names, or an answer.

Answers can be recognized: they repeat model, prompt, seed and the number of the choice.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Fault = Callable[[web.Request], Awaitable[web.StreamResponse]]
"""What a request meets instead of an answer."""


@dataclass
class Seen:
    """One POST as the server saw it; times from time.monotonic."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    began: float = field(default_factory=time.monotonic)


def prompt_of(body: dict[str, Any]) -> str:
    """The text of the user's message, or the completion prompt."""
    if "prompt" in body:
        return body["prompt"]
    content = body["messages"][-1]["content"]
    return content if isinstance(content, str) else content[-1]["text"]


def answer(body: dict[str, Any], n: int | None = None) -> dict[str, Any]:
    """A well-formed reply with `n` choices (None = as many as were asked for)."""
    choices = []
    for index in range(n or body.get("n", 1)):
        text = f"{body['model']}|{prompt_of(body)}|{body['seed']}|{index}"
        said = {"text": text} if "prompt" in body else {"message": {"role": "assistant", "content": text}}
        choices.append({"index": index, "finish_reason": "stop", **said})
    usage = {"prompt_tokens": len(prompt_of(body)), "completion_tokens": 7 * len(choices)}
    return {"object": "chat.completion", "choices": choices, "usage": usage}


class FakeEndpoint:
    """`with FakeEndpoint(plan) as server:` listens on server.base_url until the end of the block.

    plan: (number of this POST from 0, its body) → the fault it meets, or None for an answer. delay_s: before answers.
    models: what GET /models lists; a fault instead of a list is met by every GET.
    """

    def __init__(
        self,
        plan: Callable[[int, dict[str, Any]], Fault | None] = lambda number, body: None,
        *,
        delay_s: float = 0.0,
        models: list[str] | Fault = ("tiny",),
        n_choices: int | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.plan, self.delay_s, self.models, self.n_choices = plan, delay_s, models, n_choices
        self.tls = tls
        self.seen: list[Seen] = []
        self.open_now = self.open_most = 0
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> FakeEndpoint:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()

    def stop(self) -> None:
        """Breaks the connections that are open."""
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _listen(self) -> None:
        app = web.Application(client_max_size=2**28)
        app.router.add_get("/{path:.*}", self._get)
        app.router.add_post("/{path:.*}", self._post)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)  # 0 would mean for ever
        await self._runner.setup()
        await self._open()

    async def _open(self) -> None:
        tls = self.tls
        self._site = web.TCPSite(self._runner, "127.0.0.1", self.port, reuse_address=True, ssl_context=tls)
        await self._site.start()

    def close_door(self) -> None:
        """No new connections; those that are open stay."""
        asyncio.run_coroutine_threadsafe(self._site.stop(), self._loop).result()

    def open_door(self) -> None:
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    async def _get(self, request: web.Request) -> web.StreamResponse:
        if callable(self.models):
            return await self.models(request)
        if request.path != "/v1/models":
            return web.json_response({"detail": "Not Found"}, status=404)
        return web.json_response({"object": "list", "data": [{"id": name} for name in self.models]})

    async def _post(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(Seen(request.path, dict(request.headers), body))
        fault = self.plan(len(self.seen) - 1, body)
        if fault is not None:
            return await fault(request)
        self.open_now += 1
        self.open_most = max(self.open_most, self.open_now)
        try:
            await asyncio.sleep(self.delay_s)
        finally:
            self.open_now -= 1
        return web.json_response(answer(body, self.n_choices))


def first(*faults: Fault) -> Callable[[int, dict[str, Any]], Fault | None]:
    """A plan: the first POSTs meet these, all others an answer."""
    return lambda number, body: faults[number] if number < len(faults) else None


def always(fault: Fault, prompt: str | None = None) -> Callable[[int, dict[str, Any]], Fault | None]:
    """A plan: every POST meets this fault, or every POST with this prompt."""
    return lambda number, body: fault if prompt in (None, prompt_of(body)) else None


def status(code: int, body: Any = None, **headers: str) -> Fault:
    """A reply with this status; `body` goes out as JSON, a string as HTML."""

    async def reply(request: web.Request) -> web.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if isinstance(body, str):
            return web.Response(status=code, text=body, content_type="text/html", headers=named)
        return web.json_response(body or {"error": {"message": "planned"}}, status=code, headers=named)

    return reply


def says(text: str) -> Fault:
    """200 with this body."""

    async def reply(request: web.Request) -> web.Response:
        return web.Response(text=text, content_type="application/json")

    return reply


def echoes(code: int, **extra: str) -> Fault:
    """A refusal that quotes the whole request, as validators do."""

    async def reply(request: web.Request) -> web.Response:
        body = await request.text()
        error = {"message": f"bad input: {body}", "type": body, "code": body, "param": body, "input": json.loads(body)}
        return web.json_response({"error": error | extra}, status=code, reason=prompt_of(json.loads(body)))

    return reply


async def hangs(request: web.Request) -> web.Response:
    """No reply at all."""
    await asyncio.sleep(3600)
    raise AssertionError("nobody waits this long")


async def resets(request: web.Request) -> web.Response:
    """The connection breaks before a reply."""
    request.transport.abort()
    return web.Response()


async def truncates(request: web.Request) -> web.StreamResponse:
    """Half of a good reply, then the connection breaks."""
    text = json.dumps(answer(await request.json())).encode()
    response = web.StreamResponse(headers={"Content-Length": str(len(text)), "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(text[: len(text) // 2])
    request.transport.close()
    return response


async def no_http(request: web.Request) -> web.Response:
    """Something that is not HTTP."""
    request.transport.write(b"220 mail.example ESMTP ready\r\n\r\n")
    request.transport.close()
    return web.Response()
