"""A Ray job server that records what it gets and runs nothing: the part of the dashboard that `raysys submit` uses."""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import Callable
from typing import Any
from zipfile import ZipFile

import ray
from aiohttp import web

JOB_ID = "raysubmit_fake"


class FakeJobServer:
    """`with FakeJobServer() as server:` listens on server.url until the end of the block.

    token: what requests must carry. status, exit_code, message: how the job ends. log: what it prints, or a function
    that is called, in the server's thread, when somebody follows the job, which then never ends. refuses: why a job is
    not started. breaks: the connection ends in the middle of the log.
    """

    def __init__(
        self,
        *,
        token: str | None = None,
        ray_version: str = ray.__version__,
        status: str = "SUCCEEDED",
        exit_code: int | None = 0,
        message: str = "",
        log: str | Callable[[], None] = "",
        refuses: str = "",
        breaks: bool = False,
    ) -> None:
        self.token, self.ray_version, self.log = token, ray_version, log
        self.refuses, self.breaks = refuses, breaks
        self.end = {"status": status, "driver_exit_code": exit_code, "message": message}
        self.stored: dict[str, bytes] = {}
        self.puts: list[tuple[str, bytes]] = []
        self.jobs: list[dict[str, Any]] = []

    def __enter__(self) -> FakeJobServer:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def files(self, uri: str) -> dict[str, bytes]:
        """What a stored package holds."""
        with ZipFile(io.BytesIO(self.stored[uri])) as packed:
            return {name: packed.read(name) for name in packed.namelist() if not name.endswith("/")}

    async def _listen(self) -> None:
        app = web.Application(client_max_size=2**28, middlewares=[self._check])
        app.router.add_get("/api/version", self._version)
        app.router.add_get("/api/packages/gcs/{name}", self._has)
        app.router.add_put("/api/packages/gcs/{name}", self._store)
        app.router.add_post("/api/jobs/", self._submit)
        app.router.add_get(f"/api/jobs/{JOB_ID}", self._details)
        app.router.add_get(f"/api/jobs/{JOB_ID}/logs/tail", self._tail)
        self._runner = web.AppRunner(app, shutdown_timeout=0.01)  # 0 would mean for ever
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @web.middleware
    async def _check(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """As Ray's own: 401 without a token, 403 with another one."""
        given = request.headers.get("Authorization")
        if self.token is not None and given != f"Bearer {self.token}":
            return web.Response(status=403 if given else 401, text="Forbidden" if given else "Unauthorized")
        return await handler(request)

    async def _version(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"version": "4", "ray_version": self.ray_version, "ray_commit": "", "session_name": ""}
        )

    async def _has(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if f"gcs://{request.match_info['name']}" in self.stored else 404)

    async def _store(self, request: web.Request) -> web.Response:
        uri = f"gcs://{request.match_info['name']}"
        self.stored[uri] = await request.read()
        self.puts.append((uri, self.stored[uri]))
        return web.Response()

    async def _submit(self, request: web.Request) -> web.Response:
        if self.refuses:
            return web.Response(status=500, text=f"Traceback (most recent call last):\nValueError: {self.refuses}\n")
        self.jobs.append(await request.json())
        return web.json_response({"job_id": JOB_ID, "submission_id": JOB_ID})

    async def _details(self, request: web.Request) -> web.Response:
        return web.json_response(
            {"type": "SUBMISSION", "submission_id": JOB_ID, "entrypoint": self.jobs[-1]["entrypoint"], **self.end}
        )

    async def _tail(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        if callable(self.log):
            self.log()
            await asyncio.sleep(3600)
        await socket.send_str(self.log)
        if self.breaks:
            request.transport.abort()
        await socket.close()
        return socket
