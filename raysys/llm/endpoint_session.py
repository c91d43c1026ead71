"""The way to an OpenAI-compatible server: its address, the key, connections, and whether it is there before a run."""

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
from raysys.llm.endpoint_http import DENIED, Trouble, parse_json

CONNECT_TIMEOUT_S = 10.0
"""A host that is there accepts a connection within this time, even when it is busy."""

CHECK_TIMEOUT_S = 20.0

MAX_LISTED = 10
"""Models that a message names."""

MAX_REPLY_BYTES = 32 * 2**20
"""Longer replies are not answers of a language model."""

GATEWAY = frozenset({502, 503, 504})
"""Codes of a proxy or load balancer for a server that is away; servers also send them themselves."""

WATCH_EVERY_S = 10.0
"""Seconds between two checks that a server with open requests still takes connections."""

LOST_LOOKS = 2
"""Failed checks in a row before a server counts as lost: one may be a hiccup of the network."""

NEXT_ADDRESS_S = 0.25
"""The start that a host's address has before the next one is tried too (RFC 8305): some lead nowhere."""


@dataclass(frozen=True)
class Answer:
    """A whole HTTP reply."""

    status: int
    headers: Mapping[str, str]
    payload: bytes


def endpoint_of(config: LlmConfig) -> EndpointConfig:
    if config.endpoint is None:
        raise InputError("endpoint is not set", "give endpoint.base_url, for example http://127.0.0.1:8000/v1")
    return config.endpoint


def base_url_of(endpoint: EndpointConfig) -> str:
    """base_url without a slash at its end. InputError when it is not one; keys and passwords in it are not repeated."""
    example = "give for example http://127.0.0.1:8000/v1"
    try:
        parts = urlsplit(endpoint.base_url)
        host, _ = parts.hostname, parts.port  # a bad port raises here only
    except ValueError:
        raise InputError("endpoint.base_url is not a valid address", example) from None
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise InputError(
            "endpoint.base_url holds more than scheme, host and path",
            "put the key into an environment variable and its name into endpoint.api_key_env",
        )
    if parts.scheme not in ("http", "https") or not host:
        raise InputError(f"endpoint.base_url = {endpoint.base_url!r} is not an http(s) address", example)
    for path in ("/chat/completions", "/completions", "/models"):
        if parts.path.rstrip("/").endswith(path):
            raise InputError(f"endpoint.base_url = {endpoint.base_url!r} ends with {path}", f"take {path} away")
    return endpoint.base_url.rstrip("/")


def key_of(endpoint: EndpointConfig) -> str | None:
    """The key from the environment; None when the configuration names no variable."""
    if (name := endpoint.api_key_env) is None:
        return None
    key = os.environ.get(name, "").strip()
    if not key:
        raise InputError(f"the environment variable {name} (endpoint.api_key_env) is not set", f"export {name}=…")
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"the environment variable {name} holds characters that no key has", f"set {name} again")
    return key


def denied(endpoint: EndpointConfig, status: int) -> InputError:
    """What a 401 or 403 means for the command."""
    what = f"{endpoint.base_url} refuses us with {status}"
    if endpoint.api_key_env is None:
        return InputError(what, "name the environment variable that holds the key in endpoint.api_key_env")
    return InputError(what, f"check the key in the environment variable {endpoint.api_key_env}")


def away(endpoint: EndpointConfig, failure: Failure) -> InputError:
    """What an outage beyond `max_outage_s` means for the command."""
    return InputError(
        f"{base_url_of(endpoint)} has been away for more than max_outage_s = {endpoint.max_outage_s:g} s: "
        f"{failure.detail}",
        "when the server is up, run the same command again: what is done stays, and no row failed by this",
    )


class Connection:
    """A pool of connections to one server; to be made, used and closed in one event loop.

    Any number of connections: whoever asks limits them. Redirects are not followed, they would carry the key elsewhere.
    """

    def __init__(self, endpoint: EndpointConfig, timeout_s: float | None = None) -> None:
        """InputError for a bad address or a missing key. timeout_s: another one than the configuration's."""
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
        """The reply, or why there is none. A server that goes away while it is waited for is noticed by `_watch`: not
        reached, since nothing was heard of it.

        A gateway's word that the server is away is believed (not reached) when it says the same of GET /models: a
        server can also fail on one request only.
        """
        if self._watcher.done():
            self._watcher.result()  # it ends by a mistake of ours only: raised, or requests would wait for ever
        try:
            async with asyncio.timeout(None) as wait:
                self._open.add(wait)
                try:
                    # A file object: aiohttp gives the loop free between its chunks.
                    answer = await self._exchange("POST", path, io.BytesIO(data))
                finally:
                    self._open.discard(wait)
        except TimeoutError:  # by _watch; the request's own time-out is a Trouble
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
        """End the wait for replies of a server that no longer takes connections.

        vLLM leaves open requests unanswered when it is told to stop, and stays until the client hangs up; a lost
        machine sends nothing at all.
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
        """One HTTP request. Errors are told by their kind only: their texts and arguments may hold what was sent."""
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
    """The exception's class and, where the system gave one, its error name: never its text."""
    number = getattr(error, "errno", None)
    name = errno.errorcode.get(number) if isinstance(number, int) else None
    return f"{type(error).__name__}, {name}" if name else type(error).__name__


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The body; None when it is longer than MAX_REPLY_BYTES."""
    payload = bytearray()
    async for part in response.content.iter_any():
        payload += part
        if len(payload) > MAX_REPLY_BYTES:
            return None
    return bytes(payload)


def _proxy_of(url: str) -> str | None:
    """The proxy that the environment (HTTP_PROXY, HTTPS_PROXY, NO_PROXY) names for this address.

    aiohttp's own trust_env would read ~/.netrc too and refuse our key beside an entry of it.
    """
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def check_endpoint(config: LlmConfig, needed_tokens: int = 0, adapters: Sequence[str] = ()) -> str | None:
    """Before a run: address, key and models. Returns a note for the user where the server could not tell, else None.

    needed_tokens: of the longest prompt and answer together, at least. adapters: names that requests will ask for.

    InputError when the address is malformed, the key missing or refused, a model not among the server's, or its context
    (vLLM tells it) shorter than what is needed.
    """
    endpoint = endpoint_of(config)
    got, below_v1 = asyncio.run(_get_models(endpoint))
    url = base_url_of(endpoint)
    if isinstance(got, Trouble):
        if got.failure.reason == "certificate":
            raise InputError(f"{url}: {got.failure.detail}", "SSL_CERT_FILE names a file of trusted certificates")
        return f"{url} gave no list of models: {got.failure.detail}; the run waits for a server that is away"
    if got.status in DENIED:
        raise denied(endpoint, got.status)
    if 300 <= got.status < 400:
        raise InputError(f"{url} redirects ({got.status})", "give the final address as endpoint.base_url")
    contexts = _contexts(got)
    if contexts is None and below_v1 is not None and _contexts(below_v1) is not None:
        raise InputError(f"endpoint.base_url = {url} is not an API, {url}/v1 is", f"endpoint.base_url={url}/v1")
    if contexts is None:
        return f"{url} gave no list of models (it answered {got.status}): the model's name is not checked"
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
    """The reply to GET /models and, where that is 404, to GET /v1/models: a forgotten /v1 is a common mistake."""
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
    """{id: tokens of context, where the server tells} of a list of models; None when the reply is not one."""
    data = parse_json(answer.payload) if answer.status == 200 else None
    cards = data.get("data") if isinstance(data, dict) else None
    if not isinstance(cards, list):
        return None
    named = [card for card in cards if isinstance(card, dict) and isinstance(card.get("id"), str)]
    lengths = [card.get("max_model_len") for card in named]
    return {card["id"]: length if type(length) is int else None for card, length in zip(named, lengths, strict=True)}
