"""Access to an OpenAI-compatible server: address, key, connections, and the check before a run."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import aiohttp

from raysys.errors import InputError
from raysys.llm.config import EndpointConfig, LlmConfig
from raysys.llm.contract import Failure
from raysys.llm.endpoint_http import DENIED, Trouble, parse_json, reason_in
from raysys.llm.endpoint_reason import with_reason

CONNECT_TIMEOUT_S = 10.0
"""Time within which an available host accepts a connection, even if it is busy."""

CHECK_TIMEOUT_S = 20.0

MAX_LISTED = 10
"""Maximum number of models that a message lists."""

MAX_REPLY_BYTES = 32 * 2**20
"""Longer replies are not answers of a language model."""

GATEWAY = frozenset({502, 503, 504})
"""Codes that a proxy or load balancer sends for an unavailable server; servers may also send them themselves."""

WATCH_EVERY_S = 10.0
"""Seconds between two checks that a server with open requests still takes connections."""

LOST_LOOKS = 2
"""Consecutive failed checks before a server counts as lost; a single one may be a network glitch."""

NEXT_ADDRESS_S = 0.25
"""Delay before a host's next address is tried in parallel (RFC 8305), because some may not be reachable."""


@dataclass(frozen=True)
class Answer:
    """A complete HTTP reply."""

    status: int
    headers: Mapping[str, str]
    payload: bytes


def endpoint_of(config: LlmConfig) -> EndpointConfig:
    if config.endpoint is None:
        raise InputError("endpoint is not set", "give endpoint.base_url, for example http://127.0.0.1:8000/v1")
    return config.endpoint


def base_url_of(endpoint: EndpointConfig) -> str:
    """base_url without a trailing slash. Raises InputError if it is invalid, without repeating keys or passwords."""
    example = "give for example http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(endpoint.base_url)
        host, _ = parts.hostname, parts.port  # a bad port raises here only
    except ValueError:
        raise InputError("endpoint.base_url is not a valid address", example) from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InputError(
            "endpoint.base_url holds more than scheme, host and path",
            "put the key into an environment variable and set endpoint.api_key_env to its name",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"endpoint.base_url = {endpoint.base_url!r} is not an http(s) address", example)
    for path in ("/chat/completions", "/completions", "/models"):
        if parts.path.rstrip("/").endswith(path):
            raise InputError(f"endpoint.base_url = {endpoint.base_url!r} ends with {path}", f"remove {path}")
    return endpoint.base_url.rstrip("/")


def key_of(endpoint: EndpointConfig) -> str | None:
    """The key from the environment; None if the configuration names no variable. Raises InputError if it is not set."""
    if (name := endpoint.api_key_env) is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise InputError(f"the environment variable {name} (endpoint.api_key_env) is not set", f"export {name}=…")
    if not (key.isascii() and key.isprintable()):
        raise InputError(
            f"the environment variable {name} has characters that are not valid in a key", f"set {name} again"
        )
    return key


def denied(endpoint: EndpointConfig, status: int, reason: str) -> InputError:
    """The InputError for a 401 or 403, with the reason that the server gives."""
    what = with_reason(f"{endpoint.base_url} refuses access ({status})", reason)
    if endpoint.api_key_env is None:
        return InputError(what, "set endpoint.api_key_env to the name of the environment variable that holds the key")
    return InputError(what, f"check the key in the environment variable {endpoint.api_key_env}")


def away(endpoint: EndpointConfig, failure: Failure) -> InputError:
    """The InputError for an outage longer than `max_outage_s`."""
    return InputError(
        f"{base_url_of(endpoint)} has been unavailable for more than max_outage_s = {endpoint.max_outage_s:g} s: "
        f"{failure.detail}",
        "when the server is up, run the same command again; it resumes, and no row has failed because of this",
    )


class Connection:
    """A pool of connections to one server; must be created, used and closed in the same event loop.

    The number of connections is limited by the caller. Redirects are not followed, because the key would be sent along.
    """

    def __init__(self, endpoint: EndpointConfig, timeout_s: float | None = None) -> None:
        """timeout_s: overrides the configuration's. Raises InputError for a bad address or a missing key."""
        self.base_url = base_url_of(endpoint)
        self._proxy = _proxy_of(self.base_url)
        key = key_of(endpoint)
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {key}"} if key else {})
        self._timeout = aiohttp.ClientTimeout(total=timeout_s or endpoint.timeout_s, sock_connect=CONNECT_TIMEOUT_S)
        self._session: aiohttp.ClientSession | None = None
        self._open: set[asyncio.Timeout] = set()
        self._watcher: asyncio.Task | None = None

    async def open(self) -> None:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, happy_eyeballs_delay=NEXT_ADDRESS_S),
            timeout=self._timeout,
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._watcher = asyncio.create_task(self._watch())

    async def close(self) -> None:
        self._watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._watcher
        await self._session.close()

    async def get(self, path: str) -> Answer | Trouble:
        return await self._exchange("GET", path, None)

    async def post(self, path: str, data: bytes) -> Answer | Trouble:
        """The reply, or the reason why there is none. If the server disappears while we wait (noticed by `_watch`), it
        counts as not reached.

        If a gateway reports that the server is unavailable, it counts as not reached only if GET /models gives the same
        answer, because a server may also fail for a single request.
        """
        if self._watcher.done():
            self._watcher.result()  # it only ends through a bug; raise it, or requests would wait forever
        try:
            async with asyncio.timeout(None) as wait:
                self._open.add(wait)
                try:
                    # A file object, because aiohttp yields to the loop between its chunks.
                    answer = await self._exchange("POST", path, io.BytesIO(data))
                finally:
                    self._open.discard(wait)
        except TimeoutError:  # from _watch; a timeout of the request itself is a Trouble
            detail = "the server owes a reply and cannot be reached any more"
            return Trouble(Failure("connection", detail), reached=False)
        if isinstance(answer, Answer) and answer.status in GATEWAY and not await self._serves():
            detail = f"the server cannot be reached (its gateway answers {answer.status})"
            return Trouble(Failure("connection", detail), reached=False)
        return answer

    async def _serves(self) -> bool:
        answer = await self.get("/models")
        return isinstance(answer, Answer) and answer.status not in GATEWAY

    async def _watch(self) -> None:
        """Cancel the wait for replies of a server that no longer accepts connections.

        When vLLM is stopped, it leaves open requests unanswered until the client disconnects; a lost machine does not
        send anything.
        """
        address = urlsplit(self._proxy or self.base_url)
        port = address.port or (443 if address.scheme == "https" else 80)
        n_failed = 0
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            n_failed = n_failed + 1 if self._open and not await _accepts(address.hostname, port) else 0
            if n_failed >= LOST_LOOKS:
                for wait in self._open:
                    wait.reschedule(asyncio.get_running_loop().time())

    async def _exchange(self, method: str, path: str, data: io.BytesIO | None) -> Answer | Trouble:
        """One HTTP request. Errors are reported only by type, because their texts may contain what was sent."""
        try:
            async with self._session.request(
                method, self.base_url + path, data=data, proxy=self._proxy, allow_redirects=False
            ) as response:
                payload = await _read(response)
                if payload is None:
                    return Trouble(Failure("bad_reply", f"the reply is longer than {MAX_REPLY_BYTES} bytes"))
                return Answer(response.status, response.headers, payload)
        except aiohttp.ClientConnectorCertificateError:
            return Trouble(Failure("certificate", "the server's certificate is not trusted"), retry=False)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            return Trouble(Failure("connection", f"the server cannot be reached ({_kind(error)})"), reached=False)
        except TimeoutError:
            return Trouble(Failure("timeout", f"no reply within {self._timeout.total:g} s"))
        except (aiohttp.ClientPayloadError, aiohttp.ClientResponseError) as error:
            return Trouble(Failure("bad_reply", f"the reply is cut off or no HTTP ({_kind(error)})"))
        except (aiohttp.ClientError, OSError) as error:
            return Trouble(Failure("connection", f"the connection broke ({_kind(error)})"))


async def _accepts(host: str, port: int) -> bool:
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, writer = await asyncio.open_connection(host, port, happy_eyeballs_delay=NEXT_ADDRESS_S)
    except OSError:  # TimeoutError is one
        return False
    writer.close()
    return True


def _kind(error: BaseException) -> str:
    """The exception's class and, if there is one, the system's error name, but never its text."""
    number = getattr(error, "errno", None)
    name = errno.errorcode.get(number) if isinstance(number, int) else None
    return f"{type(error).__name__}, {name}" if name else type(error).__name__


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body; None if it is longer than MAX_REPLY_BYTES."""
    payload = bytearray()
    async for part in response.content.iter_any():
        payload += part
        if len(payload) > MAX_REPLY_BYTES:
            return None
    return bytes(payload)


def _proxy_of(url: str) -> str | None:
    """The proxy for this address according to the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).

    aiohttp's trust_env would also read ~/.netrc and reject our key if there is an entry for the host.
    """
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def check_endpoint(config: LlmConfig, needed_tokens: int = 0, adapters: Sequence[str] = ()) -> str | None:
    """Check address, key and models before a run. Returns a note if something could not be checked, else None.

    needed_tokens: lower bound for the longest prompt and its answer. adapters: names that requests will use.

    Raises InputError if the address is malformed, the key is missing or refused, the server does not have a model, or
    its context (reported by vLLM) is shorter than needed.
    """
    endpoint = endpoint_of(config)
    got, below_v1 = asyncio.run(_get_models(endpoint))
    url = base_url_of(endpoint)
    if isinstance(got, Trouble):
        if got.failure.reason == "certificate":
            raise InputError(f"{url}: {got.failure.detail}", "set SSL_CERT_FILE to a file of trusted certificates")
        return f"{url} gave no list of models: {got.failure.detail}; the run waits for a server that is away"
    if got.status in DENIED:
        raise denied(endpoint, got.status, reason_in(got.payload, config))
    if 300 <= got.status < 400:
        raise InputError(f"{url} redirects ({got.status})", "give the final address as endpoint.base_url")
    contexts = _contexts(got)
    if contexts is None and below_v1 is not None and _contexts(below_v1) is not None:
        raise InputError(f"endpoint.base_url = {url} is not an API, {url}/v1 is", f"endpoint.base_url={url}/v1")
    if contexts is None:
        answered = with_reason(f"it answered {got.status}", "" if got.status == 200 else reason_in(got.payload, config))
        return f"{url} gave no list of models ({answered}): the model's name is not checked"
    for kind, name in [("model", config.model), *(("adapter", name) for name in adapters)]:
        if name not in contexts:
            raise InputError(f"{url} has no {kind} {name!r}", f"it has: {', '.join(sorted(contexts)[:MAX_LISTED])}")
    context = contexts[config.model]
    if context is not None and needed_tokens > context:
        raise InputError(
            f"prompt and answer need {needed_tokens} tokens, {config.model!r} at {url} has a context of {context}",
            "lower sampling.max_tokens, shorten the prompt, or serve the model with a larger --max-model-len",
        )
    return None


async def _get_models(endpoint: EndpointConfig) -> tuple[Answer | Trouble, Answer | None]:
    """The reply to GET /models and, if that is 404, to GET /v1/models, because /v1 is often forgotten."""
    connection = Connection(endpoint, min(endpoint.timeout_s, CHECK_TIMEOUT_S))
    await connection.open()
    try:
        got = await connection.get("/models")
        if isinstance(got, Answer) and got.status == 404:
            below_v1 = await connection.get("/v1/models")
            return got, below_v1 if isinstance(below_v1, Answer) else None
        return got, None
    finally:
        await connection.close()


def _contexts(answer: Answer) -> dict[str, int | None] | None:
    """{id: context length if reported} from a list of models; None if the reply is not such a list."""
    data = parse_json(answer.payload) if answer.status == 200 else None
    cards = data.get("data") if isinstance(data, dict) else None
    if not isinstance(cards, list):
        return None
    named = [card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)]
    lengths = [card.get("max_model_len") for card in named]
    return {card["id"]: length if type(length) is int else None for card, length in zip(named, lengths, strict=True)}
