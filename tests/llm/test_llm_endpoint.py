"""The endpoint engine against a server whose faults are planned: what is asked, answered, retried, recorded, told."""

from __future__ import annotations

import asyncio
import base64
import email.utils
import gc
import html
import io
import json
import logging
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from aiohttp import web
from PIL import Image

from raysys.errors import InputError
from raysys.llm import endpoint_session
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Completion, Failure, Request, SamplingConfig
from raysys.llm.endpoint import EndpointGenerator
from raysys.llm.endpoint_http import data_url
from raysys.llm.endpoint_reason import server_reason
from raysys.llm.endpoint_session import check_endpoint
from raysys.llm.preflight import preflight
from raysys.llm.rate_limit import Pace, backoff_s, retry_after_s
from raysys.llm.seeds import draw_seed
from tests.support.fake_endpoint import (
    FakeEndpoint,
    Fault,
    always,
    answer,
    echoes,
    first,
    hangs,
    no_http,
    prompt_of,
    resets,
    says,
    status,
    truncates,
)

WARM = SamplingConfig(temperature=1.0, max_tokens=8)


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def config(server: FakeEndpoint, endpoint: dict | None = None, **fields: object) -> LlmConfig:
    """Waits of hundredths of a second; three tries."""
    quick = {"base_url": server.base_url, "max_attempts": 3, "max_wait_s": 0.02, "timeout_s": 20.0, **(endpoint or {})}
    return LlmConfig(**{"engine": "openai", "model": "tiny", "endpoint": quick, **fields})


def ask(server: FakeEndpoint, *texts: str, endpoint: dict | None = None, **fields: object) -> list:
    """The replies to these prompts."""
    generator = EndpointGenerator(config(server, endpoint, **fields))
    try:
        return generator.generate([Request(text, text, WARM, seed=7) for text in texts])
    finally:
        generator.close()


@contextmanager
def when_logged(words: str, action: Callable[[], object]) -> Iterator[None]:
    """In a thread, as soon as the engine logs a message with `words`, `action`; it has to happen within the block."""
    heard = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if words in record.getMessage():
                heard.set()

    def wait_and_act() -> None:
        if heard.wait(60):
            action()

    listener, logger = Listener(), logging.getLogger("raysys.llm.endpoint")
    thread = threading.Thread(target=wait_and_act)
    logger.addHandler(listener)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        logger.removeHandler(listener)
    assert heard.is_set()


def said(text: str, seed: int = 7, index: int = 0) -> str:
    """What the server answers to a prompt."""
    return f"tiny|{text}|{draw_seed(seed)}|{index}"


def texts_of(reply: list[Completion] | Failure) -> list[str]:
    assert isinstance(reply, list), reply
    return [completion.text for completion in reply]


def choices(**choice: object) -> Fault:
    """200 with this one choice."""
    return status(200, {"choices": [{"index": 0, "finish_reason": "stop", **choice}]})


# What is asked


def test_the_smallest_chat_body_holds_no_name_that_strict_servers_refuse() -> None:
    with FakeEndpoint() as server:
        ask(server, "a red circle")
    assert [seen.path for seen in server.seen] == ["/v1/chat/completions"]
    assert server.seen[0].body == {
        "model": "tiny",
        "messages": [{"role": "user", "content": "a red circle"}],
        "max_tokens": 8,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": draw_seed(7),
    }
    assert "Authorization" not in server.seen[0].headers


def test_every_setting_arrives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sesame")
    image = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    sampling = SamplingConfig(
        temperature=0.7, top_p=0.9, top_k=5, repetition_penalty=1.1, max_tokens=3, stop=("\n", "。")
    )
    request = Request("1", "赤い円", sampling, seed=1, n=2, image=image, adapter="wide")
    with FakeEndpoint() as server:
        full = config(server, {"api_key_env": "TEST_ENDPOINT_KEY"}, system="Be brief.", template="{prompt}!")
        generator = EndpointGenerator(full)
        replies = generator.generate([request])
        generator.close()
    body = server.seen[0].body
    system, user = body.pop("messages")
    assert body == {
        "model": "wide",
        "max_tokens": 3,
        "temperature": 0.7,
        "top_p": 0.9,
        "seed": draw_seed(1),
        "n": 2,
        "stop": ["\n", "。"],
        "top_k": 5,
        "repetition_penalty": 1.1,
    }
    assert system == {"role": "system", "content": "Be brief."}
    picture, text = user["content"]
    assert text == {"type": "text", "text": "赤い円!"}
    head, _, data = picture["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), image)
    assert server.seen[0].headers["Authorization"] == "Bearer sesame"
    assert texts_of(replies[0]) == [f"wide|赤い円!|{draw_seed(1)}|{index}" for index in range(2)]


def test_completion_format_sends_the_template_and_takes_no_image() -> None:
    picture = Request("2", "caption", WARM, image=np.zeros((2, 2, 3), np.uint8))
    with FakeEndpoint() as server:
        generator = EndpointGenerator(config(server, prompt_format="completion", template="Q: {prompt} A:"))
        plain, refused = generator.generate([Request("1", "a red circle", WARM, seed=7), picture])
        generator.close()
    assert [seen.path for seen in server.seen] == ["/v1/completions"]
    assert server.seen[0].body["prompt"] == "Q: a red circle A:"
    assert texts_of(plain) == [said("Q: a red circle A:")]
    assert isinstance(refused, Failure)
    assert (refused.reason, refused.bad_input) == ("image_not_supported", True)


@pytest.mark.filterwarnings("error::ResourceWarning")
def test_large_pictures_travel_whole() -> None:
    image = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    with FakeEndpoint() as server:
        generator = EndpointGenerator(config(server))
        replies = generator.generate([Request(str(i), f"picture {i}", WARM, image=image) for i in range(4)])
        generator.close()
    assert [texts_of(reply) for reply in replies] == [[said(f"picture {i}", 0)] for i in range(4)]
    assert {len(seen.body["messages"][0]["content"][0]["image_url"]["url"]) > 10**6 for seen in server.seen} == {True}


# What is answered


def test_replies_keep_the_order_of_the_requests_whatever_thread_asks() -> None:
    with FakeEndpoint(delay_s=0.01) as server:
        generator = EndpointGenerator(config(server, {"max_in_flight": 5}))

        def chunk(number: int) -> list[str]:
            requests = [Request(str(i), f"{number}.{i}", WARM, seed=i) for i in range(20)]
            return [texts_of(reply)[0] for reply in generator.generate(requests)]

        with ThreadPoolExecutor(4) as threads:
            answered = list(threads.map(chunk, range(4)))
        generator.close()
    assert answered == [[said(f"{number}.{i}", i) for i in range(20)] for number in range(4)]
    assert len(server.seen) == 80
    assert server.open_most == 5  # all slots are used, by all threads together


def test_no_requests_no_replies() -> None:
    with FakeEndpoint() as server:
        assert ask(server) == []


def test_tokens_are_counted_where_one_answer_can_be_told_from_another() -> None:
    with FakeEndpoint() as server:
        generator = EndpointGenerator(config(server))
        one, two = generator.generate([Request("1", "abc", WARM), Request("2", "abcd", WARM, n=2)])
        generator.close()
    assert [(c.finish_reason, c.prompt_tokens, c.completion_tokens) for c in one] == [("stop", 3, 7)]
    assert [(c.finish_reason, c.prompt_tokens, c.completion_tokens) for c in two] == [("stop", 4, None)] * 2


def test_missing_choices_are_asked_for_again_with_other_seeds() -> None:
    with FakeEndpoint(n_choices=2) as server:
        generator = EndpointGenerator(config(server))
        (reply,) = generator.generate([Request("1", "abc", WARM, seed=7, n=5)])
        generator.close()
    assert [seen.body.get("n") for seen in server.seen] == [5, 3, None]
    assert [seen.body["seed"] for seen in server.seen] == [draw_seed(7, number) for number in (0, 2, 4)]
    assert len(set(texts_of(reply))) == 5


def test_choices_beyond_n_are_dropped_and_their_numbers_give_the_order() -> None:
    with FakeEndpoint(n_choices=3) as server:
        assert texts_of(ask(server, "abc")[0]) == [said("abc")]
    mixed = {"choices": [{"index": i, "finish_reason": "length", "message": {"content": f" {i}\n"}} for i in (2, 0, 1)]}
    with FakeEndpoint(always(status(200, mixed))) as server:
        generator = EndpointGenerator(config(server))
        (reply,) = generator.generate([Request("1", "abc", WARM, n=3)])
        generator.close()
    assert reply == [Completion(str(i), "length", None, None) for i in range(3)]


def test_thinking_that_used_all_tokens_is_an_empty_answer() -> None:
    with FakeEndpoint(always(choices(message={"content": None}, finish_reason="length"))) as server:
        assert ask(server, "abc") == [[Completion("", "length", None, None)]]


def test_replies_without_end_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_session, "MAX_REPLY_BYTES", 10_000)
    with FakeEndpoint(first(says(" " * 20_000))) as server:
        assert texts_of(ask(server, "abc")[0]) == [said("abc")]
        assert len(server.seen) == 2


def test_greedy_answers_are_asked_for_once() -> None:
    with FakeEndpoint() as server:
        generator = EndpointGenerator(config(server))
        (reply,) = generator.generate([Request("1", "abc", SamplingConfig(), n=3)])
        generator.close()
    assert texts_of(reply) == [said("abc", 0)] * 3
    assert len(server.seen) == 1
    assert "n" not in server.seen[0].body


# What passes, and what stays


PASSING: dict[str, tuple[Fault, str]] = {
    "408": (status(408), "http_408"),
    "409": (status(409), "http_409"),
    "429": (status(429), "http_429"),
    "500": (status(500), "http_500"),
    "502 as a page": (status(502, "<html>Bad Gateway</html>"), "http_502"),
    "503": (status(503), "http_503"),
    "529": (status(529), "http_529"),
    "hangs": (hangs, "timeout"),
    "resets": (resets, "connection"),
    "truncates": (truncates, "bad_reply"),
    "no HTTP": (no_http, "bad_reply"),
    "a page": (status(200, "<html>Welcome</html>"), "bad_reply"),
    "garbage": (says('{"choices": [{"message": {"content": "half'), "bad_reply"),
    "nothing": (says(""), "bad_reply"),
    "deep JSON": (says("[" * 100_000), "bad_reply"),
    "a list": (says("[1, 2]"), "bad_reply"),
    "no choices": (status(200, {"error": {"message": "overloaded"}}), "bad_reply"),
    "empty choices": (status(200, {"choices": []}), "bad_reply"),
    "choices of text": (status(200, {"choices": ["hello"]}), "bad_reply"),
    "null content": (choices(message={"content": None}), "bad_reply"),
    "no message": (choices(), "bad_reply"),
    "content of parts": (choices(message={"content": [{"type": "text"}]}), "bad_reply"),
    "lone surrogate": (says('{"choices": [{"message": {"content": "\\ud800"}}]}'), "bad_reply"),
    "204": (status(204), "bad_reply"),
    "aborted": (choices(message={"content": "a red"}, finish_reason="abort"), "aborted"),
}


@pytest.mark.parametrize("name", PASSING)
def test_what_may_pass_is_tried_again_and_then_recorded(name: str) -> None:
    """Met once it costs a wait; met always it costs this row, after max_attempts tries, and no other."""
    fault, reason = PASSING[name]
    endpoint = {"timeout_s": 0.5} if fault is hangs else {}
    with FakeEndpoint(first(fault)) as server:
        assert texts_of(ask(server, "abc", endpoint=endpoint)[0]) == [said("abc")]
        assert len(server.seen) == 2 or fault is hangs  # on a busy machine an answer too may take half a second
    with FakeEndpoint(always(fault, prompt="bad")) as server:
        good, bad, fine = ask(server, "good", "bad", "fine", endpoint={"max_in_flight": 1, **endpoint})
        assert (texts_of(good), texts_of(fine)) == ([said("good")], [said("fine")])
        assert isinstance(bad, Failure)
        assert (bad.reason, bad.bad_input) == (reason, False)
        assert "tried 3 times" in bad.detail
        asked = [prompt_of(seen.body) for seen in server.seen]
        assert asked.count("bad") == 3
        assert len(asked) == 5 or fault is hangs


STAYING: dict[str, tuple[Fault, str, bool]] = {
    "400": (status(400, {"error": {"message": "'top_k' is not supported", "code": 400}}), "bad_request", False),
    "404": (status(404, {"detail": "Not Found"}), "bad_request", False),
    "422": (status(422, {"detail": [{"loc": ["body", "seed"], "msg": "extra"}]}), "bad_request", False),
    "405 as a page": (status(405, "<html>no</html>"), "bad_request", False),
    "redirect": (status(308, Location="https://example.invalid/v1"), "http_308", False),
    "413": (status(413), "prompt_too_large", True),
    "context of vLLM": (
        status(400, {"error": {"message": "This model's maximum context length is 8 tokens. However, …", "code": 400}}),
        "prompt_too_long",
        True,
    ),
    "max_tokens beyond the context": (
        status(400, {"error": {"message": "max_tokens=800 cannot be greater than max_model_len=128", "code": 400}}),
        "bad_request",
        False,
    ),
    "context of OpenAI": (
        status(400, {"error": {"message": "…", "code": "context_length_exceeded"}}),
        "prompt_too_long",
        True,
    ),
    "context of llama.cpp": (
        status(500, {"error": {"message": "…", "type": "exceed_context_size_error"}}),
        "prompt_too_long",
        True,
    ),
    "filtered prompt": (status(400, {"error": {"message": "…", "code": "content_filter"}}), "content_filter", True),
    "no room for the answer": (
        status(
            400, {"error": {"message": "'max_tokens' is too large: 800. This model's maximum context length is 128"}}
        ),
        "bad_request",
        False,
    ),
    "moderation of OpenRouter": (
        status(403, {"error": {"message": "This model requires moderation and your input was flagged.", "code": 403}}),
        "content_filter",
        True,
    ),
    "filtered answer": (choices(message={"content": None}, finish_reason="content_filter"), "content_filter", True),
}


@pytest.mark.parametrize("name", STAYING)
def test_what_stays_is_recorded_at_once(name: str) -> None:
    fault, reason, bad_input = STAYING[name]
    with FakeEndpoint(always(fault, prompt="bad")) as server:
        good, bad = ask(server, "good", "bad")
    assert texts_of(good) == [said("good")]
    assert isinstance(bad, Failure)
    assert (bad.reason, bad.bad_input) == (reason, bad_input)
    assert len(server.seen) == 2
    if name in ("400", "422"):
        said_there = "'top_k' is not supported" if name == "400" else "body.seed: extra"
        assert bad.detail == f"the server answered {name}: {said_there}"


def test_an_adapter_that_the_server_does_not_know() -> None:
    with FakeEndpoint(always(status(404))) as server:
        generator = EndpointGenerator(config(server))
        (reply,) = generator.generate([Request("1", "abc", WARM, adapter="wide")])
        generator.close()
    assert reply == Failure("unknown_adapter", "the server has no 'wide': planned", bad_input=True)


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_ends_the_command(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sesame")
    with FakeEndpoint(always(status(code))) as server:
        generator = EndpointGenerator(config(server, {"api_key_env": "TEST_ENDPOINT_KEY", "max_in_flight": 2}))
        requests = [Request(str(i), "abc", WARM) for i in range(50)]
        with pytest.raises(InputError, match="TEST_ENDPOINT_KEY") as raised:
            generator.generate(requests)
        with pytest.raises(InputError, match=str(code)):
            generator.generate(requests)
        generator.close()
        assert len(server.seen) <= 2  # what was under way
    assert "sesame" not in "".join(traceback.format_exception(raised.value))


@pytest.mark.parametrize(("code", "ends"), [(401, True), (403, False)])
def test_after_an_answer_only_401_is_about_the_key(code: int, ends: bool) -> None:
    with FakeEndpoint(always(status(code), prompt="bad")) as server:
        generator = EndpointGenerator(config(server))
        good, bad = (Request(text, text, WARM, seed=7) for text in ("good", "bad"))
        assert texts_of(generator.generate([good])[0]) == [said("good")]
        if ends:
            with pytest.raises(InputError, match="401"):
                generator.generate([bad])
        else:
            (refused,) = generator.generate([bad])
            assert (refused.reason, refused.bad_input) == ("http_403", False)
            assert texts_of(generator.generate([good])[0]) == [said("good")]
        generator.close()


def test_a_moderated_first_prompt_is_not_a_refused_key() -> None:
    flagged = {"error": {"message": "Your input was flagged", "code": "moderation_blocked"}}
    with FakeEndpoint(first(status(403, flagged))) as server:
        refused, good = ask(server, "bad", "good", endpoint={"max_in_flight": 1})
    assert (refused.reason, refused.bad_input) == ("content_filter", True)
    assert texts_of(good) == [said("good")]


# The server's reason

OPENAI_404 = {"error": {"message": "The model `tiny` does not exist.", "type": "NotFoundError", "code": 404}}
REASONS: dict[str, tuple[Fault, str]] = {
    "OpenAI": (status(400, {"error": {"message": "Unrecognized argument: best_of"}}), "Unrecognized argument: best_of"),
    "unknown model": (status(404, OPENAI_404), "The model `tiny` does not exist."),
    "FastAPI": (
        status(
            422, {"detail": [{"loc": ["body", "n"], "msg": "Input should be less than 9", "input": "a red bicycle"}]}
        ),
        "body.n: Input should be less than 9",
    ),
    "TGI": (status(422, {"error": "`top_p` must be > 0.0 and < 1.0", "error_type": "validation"}), "`top_p` must be"),
    "page": (
        status(
            500, "<html><head><title>500</title><style>p {color: red}</style></head><body>CUDA out of memory</body>"
        ),
        "500 CUDA out of memory",
    ),
    "text": (status(500, "worker   crashed\n"), "worker crashed"),
    "nothing": (status(400, {"object": 1}), ""),
}


@pytest.mark.parametrize("name", REASONS)
def test_the_servers_reason_is_in_the_rows_detail(name: str) -> None:
    fault, reason = REASONS[name]
    with FakeEndpoint(always(fault)) as server:
        (reply,) = ask(server, "a red bicycle")
    assert isinstance(reply, Failure)
    assert reason in reply.detail
    assert reply.detail.startswith("the server answered ")
    assert ("; tried 3 times" in reply.detail) == (name in ("page", "text"))
    assert reason or reply.detail == "the server answered 400"


@pytest.mark.parametrize("code", [401, 403])
def test_a_refused_key_is_told_with_the_servers_reason(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sesame-4711")
    message = {"error": {"message": "Incorrect API key provided: sesame-4***. Your account is suspended."}}
    endpoint = {"api_key_env": "TEST_ENDPOINT_KEY"}
    with FakeEndpoint(always(status(code, message)), models=status(code, message)) as server:
        for start in (lambda: ask(server, "abc", endpoint=endpoint), lambda: check_endpoint(config(server, endpoint))):
            with pytest.raises(InputError, match="Your account is suspended") as raised:
                start()
            assert f"refuses access ({code}): Incorrect API key provided: …" in str(raised.value)
            assert "sesame" not in str(raised.value)


def test_a_long_reason_is_cut() -> None:
    long = {"error": {"message": "no capacity " * 1000}}
    with FakeEndpoint(always(status(400, long))) as server:
        (reply,) = ask(server, "abc")
    assert len(reply.detail) <= 200 + len("the server answered 400: ")
    assert reply.detail.endswith("…")


PROMPT = 'Anna\'s "crimson" bicycle\nleans at 12 Elm Road <door> & the model of the red 赤い自転車の写真 façade'
PRIVATE = ("anna", "crimson", "bicycle", "lean", "elm", "road", "door", "red", "赤い", "自転車", "写真", "faç")
ECHOES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": json.dumps,
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "repr": repr,
    "repr of bytes": lambda text: repr(text.encode()),
    "HTML": html.escape,
    "URL": quote,
    "upper case": str.upper,
    "one line": lambda text: " ".join(text.split()),
    "without spaces": lambda text: "".join(text.split()),
    "words with underscores": lambda text: "_".join(text.split()),
}


@pytest.mark.parametrize("name", ECHOES)
@pytest.mark.parametrize("cut", [(None, None), (0, 11), (0, 18), (9, 40), (-21, None), (-9, -3)])
def test_a_reason_that_echoes_the_prompt_loses_only_the_echo(name: str, cut: tuple) -> None:
    echo = ECHOES[name](PROMPT)[slice(*cut)]
    payload = json.dumps({"error": {"message": f"Invalid value: {echo}; max_tokens is too large"}}).encode()
    found = server_reason(payload, [PROMPT])
    assert [word for word in PRIVATE if word in found.casefold()] == []
    assert found.startswith("Invalid value: ")
    assert found.endswith("max_tokens is too large")


def test_the_reason_repeats_no_key_and_no_image_data() -> None:
    image = data_url(np.arange(300, dtype=np.uint8).reshape(10, 10, 3))
    message = f"Bad image {image} of user. Authorization: Bearer abcdef123 was read"
    found = server_reason(json.dumps({"message": message}).encode(), [])
    assert found == "Bad image … of user. Authorization: … was read"


# Waiting


def test_retry_after_is_kept_and_capped() -> None:
    with FakeEndpoint(first(status(503, Retry_After="0.4"))) as server:
        ask(server, "abc", endpoint={"max_wait_s": 0.01})  # that is for waits nobody asked for
        assert server.seen[1].began - server.seen[0].began >= 0.4
    with FakeEndpoint(first(status(429, Retry_After="3600"))) as server:
        began = time.monotonic()
        assert texts_of(ask(server, "abc", endpoint={"max_outage_s": 0.3})[0]) == [said("abc")]
        assert 0.3 <= time.monotonic() - began < 60


def test_retry_after_as_seconds_and_as_date() -> None:
    assert [retry_after_s(text) for text in ("7", " 0 ", "1.5")] == [7.0, 0.0, 1.5]
    in_a_minute = email.utils.format_datetime(email.utils.localtime(), usegmt=False)
    assert retry_after_s(in_a_minute) == 0.0
    later = email.utils.formatdate(time.time() + 60, usegmt=True)
    assert 55 < retry_after_s(later) <= 60
    for nonsense in (None, "", "soon", "-3", "nan", "inf", "1.2.3", "٣", "Fri, 99 Zzz 2026 00:00:00 GMT"):
        assert retry_after_s(nonsense) is None


def test_waits_double_up_to_the_longest_and_are_not_all_equal() -> None:
    for n_failed, whole in ((1, 1.0), (2, 2.0), (5, 16.0), (7, 60.0), (10_000, 60.0)):
        waits = [backoff_s(n_failed, 60.0) for _ in range(50)]
        assert all(whole / 2 <= wait <= whole for wait in waits)
        assert len(set(waits)) > 1


def test_too_many_requests_pauses_the_whole_worker() -> None:
    later = Request("2", "another", WARM, seed=7)
    with FakeEndpoint(first(status(429, Retry_After="0.5"))) as server:
        generator = EndpointGenerator(config(server, {"max_wait_s": 5.0}))
        replies = []
        with when_logged("asks for fewer requests", lambda: replies.extend(generator.generate([later]))):
            replies.extend(generator.generate([Request("1", "limited", WARM, seed=7)]))
        generator.close()
    assert sorted(texts_of(reply) for reply in replies) == [[said("another")], [said("limited")]]
    limited, *after = [seen.began for seen in server.seen]
    assert len(after) == 2
    assert min(after) - limited >= 0.5


def test_a_crowd_of_our_own_is_let_through_a_narrow_door() -> None:
    """A server that takes two at a time refuses most of 16 again and again; as long as some pass, none is given up."""
    open_now = 0

    async def narrow(request) -> object:
        nonlocal open_now
        if open_now >= 2:
            return await status(429)(request)
        open_now += 1
        await asyncio.sleep(0.01)
        open_now -= 1
        return await status(200, answer(await request.json()))(request)

    prompts = [f"prompt {i}" for i in range(60)]
    with FakeEndpoint(always(narrow)) as server:
        replies = ask(server, *prompts, endpoint={"max_in_flight": 16, "max_wait_s": 0.05, "max_attempts": 5})
    assert [texts_of(reply) for reply in replies] == [[said(prompt)] for prompt in prompts]
    assert len(server.seen) > 60 + 16


def test_a_request_that_is_too_large_for_the_limit_is_given_up() -> None:
    """Others are answered between any two tries of it, so it is not a crowd of ours that is in the way for ever."""
    others = [f"prompt {i}" for i in range(60)]

    def n_others() -> int:
        return sum(prompt_of(seen.body) != "huge" for seen in server.seen)

    async def too_large(request: web.Request) -> web.StreamResponse:
        before = n_others()  # one slot is left to the others: the second that begins shows that the first is answered
        while before + 2 > n_others() < len(others):
            await asyncio.sleep(0.001)
        return await status(429)(request)

    with FakeEndpoint(always(too_large, prompt="huge")) as server:
        first_, *rest = ask(server, "huge", *others, endpoint={"max_in_flight": 2, "max_attempts": 1})
    assert [texts_of(reply) for reply in rest] == [[said(prompt)] for prompt in others]
    assert isinstance(first_, Failure)
    assert (first_.reason, first_.detail) == ("http_429", "the server answered 429: planned; tried 11 times")
    assert len(server.seen) == 60 + 11


def test_pace_keeps_the_limit_in_every_minute() -> None:
    pace = Pace(60)
    rng = np.random.default_rng(0)
    starts = [pace.reserve(float(now)) for now in np.sort(rng.uniform(0, 300, 500))]
    assert all(later - earlier >= 1.0 - 1e-9 for earlier, later in pairwise(starts))
    assert all(sum(minute <= start < minute + 60 for start in starts) <= 60 for minute in np.arange(0, 500, 0.25))
    idle = pace.reserve(10_000.0)
    assert idle == 10_000.0  # what was not used is not saved up
    assert pace.reserve(10_000.0) == 10_001.0


def test_pace_without_a_limit_only_pauses() -> None:
    pace = Pace(None)
    assert [pace.reserve(5.0) for _ in range(3)] == [5.0] * 3
    pace.pause(8.0)
    pace.pause(6.0)
    assert (pace.reserve(5.0), pace.paused(7.9), pace.paused(8.0), pace.reserve(9.0)) == (8.0, True, False, 9.0)


def test_the_limit_is_shared_by_threads_and_split_among_workers() -> None:
    """1200 a minute, half of it ours: one start each 0.1 s."""
    with FakeEndpoint() as server:
        began = time.monotonic()
        generator = EndpointGenerator(config(server, {"requests_per_minute": 1200}), share=0.5)
        with ThreadPoolExecutor(3) as threads:
            jobs = [threads.submit(generator.generate, [Request("1", "abc", WARM)] * 3) for _ in range(3)]
            assert [len(job.result()) for job in jobs] == [3, 3, 3]
        assert time.monotonic() - began >= 0.8  # the ninth start is 8 × 0.1 s after the first
        generator.close()
    with pytest.raises(ValueError, match="share"):
        EndpointGenerator(config(server), share=0.0)


# A server that is away


def test_a_server_that_comes_late_costs_only_waiting(caplog: pytest.LogCaptureFixture) -> None:
    server = FakeEndpoint()
    with caplog.at_level(logging.INFO, logger="raysys"), when_logged("cannot be reached", server.start):
        # One try: a request that no server has seen has not been tried.
        replies = ask(server, "abc", "def", endpoint={"max_attempts": 1, "max_wait_s": 60.0})
    server.stop()
    assert [texts_of(reply) for reply in replies] == [[said("abc")], [said("def")]]
    assert len(server.seen) == 2
    assert [record.levelname for record in caplog.records if record.name.startswith("raysys")] == ["WARNING", "INFO"]


def test_a_server_stopped_and_started_in_the_middle_costs_only_waiting() -> None:
    """It answers 20 of 60, holds four, breaks off, is away for a while, and comes back."""
    prompts = [f"prompt {i}" for i in range(60)]
    requests = [Request(prompt, prompt, WARM, seed=7) for prompt in prompts]
    with FakeEndpoint(lambda number, body: hangs if number >= 20 else None) as server:
        generator = EndpointGenerator(config(server, {"max_in_flight": 4, "max_attempts": 2, "max_wait_s": 30.0}))
        with ThreadPoolExecutor(1) as thread:
            job = thread.submit(generator.generate, requests)
            while len(server.seen) < 24:
                time.sleep(0.005)
            with when_logged("cannot be reached", server.start):
                server.plan = lambda number, body: None
                server.stop()
                replies = job.result()
        generator.close()
    assert [texts_of(reply) for reply in replies] == [[said(prompt)] for prompt in prompts]
    assert len(server.seen) == 64


def test_a_server_that_stays_away_stops_the_run_and_costs_no_row() -> None:
    """Not one of the rows may end as an error: with the server gone there would soon be millions of them."""
    server = FakeEndpoint()  # not started
    generator = EndpointGenerator(config(server, {"max_attempts": 1, "max_outage_s": 0.4, "max_in_flight": 2}))
    began = time.monotonic()
    with pytest.raises(InputError, match=r"max_outage_s = 0.4 s: .*(?s:.)*run the same command again"):
        generator.generate([Request(str(i), "abc", WARM) for i in range(60)])
    assert time.monotonic() - began >= 0.4
    with pytest.raises(InputError, match="has been unavailable"):  # another chunk of the same worker
        generator.generate([Request("1", "abc", WARM)])
    with server:
        (reply,) = generator.generate([Request("1", "abc", WARM, seed=7)])
        assert texts_of(reply) == [said("abc")]
    generator.close()


@pytest.mark.parametrize("code", [502, 503, 504])
def test_a_gateway_that_speaks_for_a_server_that_is_away(code: int) -> None:
    """It answers everything, but never from the server: that is an outage, and not a try of any request."""
    page = status(code, "<html>no upstream</html>")
    gone = pytest.raises(InputError, match=f"its gateway answers {code}")
    with FakeEndpoint(always(page), models=page) as server, gone:
        ask(server, "abc", endpoint={"max_attempts": 1, "max_outage_s": 0.2})

    with FakeEndpoint(always(page), models=page) as server:

        def comes_back() -> None:
            server.models, server.plan = ["tiny"], lambda number, body: None

        with when_logged("cannot be reached", comes_back):
            replies = ask(server, "abc", "def", endpoint={"max_attempts": 2, "max_outage_s": 60.0})
    assert [texts_of(reply) for reply in replies] == [[said("abc")], [said("def")]]


@pytest.fixture(params=["asyncio", "uvloop"])
def event_loops(request: pytest.FixtureRequest) -> Iterator[None]:
    """The process's kind of event loop. Ray's workers have uvloop's, where it is installed, as it is beside vLLM."""
    before = asyncio.get_event_loop_policy()
    if request.param == "uvloop":
        asyncio.set_event_loop_policy(pytest.importorskip("uvloop").EventLoopPolicy())
    yield
    asyncio.set_event_loop_policy(before)


@pytest.mark.usefixtures("event_loops")
def test_replies_of_a_server_that_takes_no_connections_any_more_are_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As vLLM does it after SIGTERM: the port is closed, the open requests stay open for ever. An outage, no try."""
    monkeypatch.setattr(endpoint_session, "WATCH_EVERY_S", 0.05)
    caplog.set_level(logging.INFO, logger="raysys")
    with FakeEndpoint(always(hangs)) as server:
        generator = EndpointGenerator(config(server, {"timeout_s": 3600.0, "max_attempts": 1, "max_outage_s": 60.0}))
        with ThreadPoolExecutor(1) as thread:
            job = thread.submit(generator.generate, [Request(text, text, WARM, seed=7) for text in ("abc", "def")])
            while len(server.seen) < 2:
                time.sleep(0.005)
            time.sleep(0.3)  # many looks at a server that is only slow
            assert len(server.seen) == 2

            def opens() -> None:
                server.plan = lambda number, body: None
                server.open_door()

            with when_logged("cannot be reached", opens):
                server.close_door()
                replies = job.result()
        generator.close()
    assert [texts_of(reply) for reply in replies] == [[said("abc")], [said("def")]]
    assert [record.levelname for record in caplog.records if record.name.startswith("raysys")] == ["WARNING", "INFO"]


@contextmanager
def mute_address() -> Iterator[tuple[str, int]]:
    """An address where a connection is neither taken nor refused: its queue is full."""
    with socket.socket() as listener, socket.socket() as fills:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fills.connect(listener.getsockname())
        yield listener.getsockname()


@pytest.mark.parametrize("trouble", ["an address that is mute", "a name that is lost for a moment"])
def test_a_server_that_answers_is_not_taken_for_lost(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reply that takes its time is waited for, though one of the host's addresses, or one look, leads nowhere."""
    monkeypatch.setattr(endpoint_session, "WATCH_EVERY_S", 0.05)
    monkeypatch.setattr(endpoint_session, "CONNECT_TIMEOUT_S", 1.0)
    real, looked_up = socket.getaddrinfo, []
    with mute_address() as mute, FakeEndpoint(delay_s=2.5) as server:

        def resolve(host: str | bytes | None, *args: object, **kwargs: object) -> list[tuple]:
            if host != "model.invalid":
                return real(host, *args, **kwargs)
            looked_up.append(host)
            if trouble == "an address that is mute":
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", at) for at in (mute, ("127.0.0.1", server.port))]
            if len(looked_up) == 2:
                raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)
        (reply,) = ask(server, "abc", endpoint={"base_url": f"http://model.invalid:{server.port}/v1"})
        assert texts_of(reply) == [said("abc")]
        assert len(server.seen) == 1
    assert len(looked_up) > 3


# Secrets

SECRET = "xyzzy-secret"
QUOTING: dict[str, Fault] = {
    **{str(code): echoes(code) for code in (400, 404, 413, 422, 429, 500)},
    "context": echoes(400, type="context_length_exceeded"),
    "page": status(502, f"<html>{SECRET}</html>", X_Note=SECRET),
    "garbage": says(f'{{"choices": "{SECRET}'),
    "choice": choices(message={"content": None, "note": SECRET}, finish_reason=SECRET),
    "resets": resets,
    "truncates": truncates,
    "hangs": hangs,
}


@pytest.mark.parametrize("name", [*QUOTING, "401", "away"])
def test_nothing_tells_the_prompt_the_reply_or_the_key(
    name: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", f"key-{SECRET}")
    monkeypatch.setenv("PYTHONASYNCIODEBUG", "1")  # asyncio logs more
    caplog.set_level(logging.DEBUG)
    logging.getLogger("aiohttp").setLevel(logging.DEBUG)
    server = FakeEndpoint(always(QUOTING.get(name, echoes(401))))
    if name != "away":
        server.start()
    endpoint = {"api_key_env": "TEST_ENDPOINT_KEY", "max_attempts": 2, "max_wait_s": 0.02, "timeout_s": 0.5}
    endpoint |= {"max_outage_s": 0.1}
    generator = EndpointGenerator(config(server, endpoint, system=f"system {SECRET}"))
    told = [repr(generator)]
    try:
        (reply,) = generator.generate([Request("1", f"prompt {SECRET}", WARM)])
        assert isinstance(reply, Failure)
        told += [repr(reply), str(reply.fate("caption"))]
    except InputError as exc:
        assert name in ("401", "away")
        told += ["".join(traceback.format_exception(exc)), repr(exc)]
    generator.close()
    if name != "away":
        server.stop()
    # The fake server's own log is not ours.
    ours = [record for record in caplog.records if record.name not in ("aiohttp.server", "aiohttp.access")]
    told += [logging.Formatter().format(record) for record in ours] + list(capfd.readouterr())
    assert [line for line in told if SECRET in line] == []


# Before a run


def test_check_finds_the_model() -> None:
    with FakeEndpoint(models=["other", "tiny"]) as server:
        assert check_endpoint(config(server)) is None
        with pytest.raises(InputError, match=r"no model 'huge'(.|\n)*other, tiny"):
            check_endpoint(config(server, model="huge"))
        forgotten = config(server, {"base_url": f"http://127.0.0.1:{server.port}"})
        with pytest.raises(InputError, match=f"base_url=http://127.0.0.1:{server.port}/v1"):
            check_endpoint(forgotten)


def test_check_compares_the_context_with_what_is_needed() -> None:
    cards = {"data": [{"id": "tiny", "max_model_len": 128}, {"id": "wide", "max_model_len": 128}, {"id": "mute"}]}
    with FakeEndpoint(models=status(200, cards)) as server:
        assert check_endpoint(config(server), needed_tokens=128, adapters=["wide"]) is None
        assert check_endpoint(config(server, model="mute"), needed_tokens=10**6) is None
        with pytest.raises(InputError, match=r"need 129 tokens, 'tiny' .* has a context of 128\n.*max_tokens"):
            check_endpoint(config(server), needed_tokens=129)
        with pytest.raises(InputError, match=r"no adapter 'narrow'\n.*it has: mute, tiny, wide"):
            check_endpoint(config(server), adapters=["narrow"])
        with pytest.raises(InputError, match="context of 128"):
            preflight(config(server), ["word " * 60], max_tokens=100)
        preflight(config(server), ["word " * 20], max_tokens=100)


@pytest.mark.parametrize(
    ("fault", "note"),
    [
        (status(404), "answered 404"),
        (status(500), "answered 500"),
        (says("[]"), "answered 200"),
        (says("<html>"), "answered 200"),
        (resets, "connection broke"),
        (hangs, "no reply within"),
    ],
)
def test_check_notes_what_the_server_does_not_tell(fault: Fault, note: str) -> None:
    with FakeEndpoint(models=fault) as server:
        assert note in check_endpoint(config(server, {"timeout_s": 0.3}))


def test_check_notes_a_server_that_is_not_up_yet() -> None:
    assert "cannot be reached" in check_endpoint(config(FakeEndpoint()))


def test_check_refuses_a_wrong_key_and_a_redirect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_ENDPOINT_KEY", "sesame")
    with FakeEndpoint(models=status(401)) as server:
        with pytest.raises(InputError, match="TEST_ENDPOINT_KEY"):
            check_endpoint(config(server, {"api_key_env": "TEST_ENDPOINT_KEY"}))
        with pytest.raises(InputError, match=r"endpoint\.api_key_env"):
            check_endpoint(config(server))
    with (
        FakeEndpoint(models=status(301, Location="https://example.invalid/")) as server,
        pytest.raises(InputError, match="redirects"),
    ):
        check_endpoint(config(server))


@pytest.mark.parametrize("key", [None, "", "  ", "line\nbreak", "ключ"])
def test_a_key_that_cannot_be_one_is_named_by_its_variable(key: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TEST_ENDPOINT_KEY", raising=False)
    if key is not None:
        monkeypatch.setenv("TEST_ENDPOINT_KEY", key)
    wanted = config(FakeEndpoint(), {"api_key_env": "TEST_ENDPOINT_KEY"})
    for start in (check_endpoint, EndpointGenerator):
        with pytest.raises(InputError, match="TEST_ENDPOINT_KEY") as raised:
            start(wanted)
        assert not (key or "").strip() or key not in str(raised.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("127.0.0.1:8000/v1", "not an http"),
        ("ftp://host/v1", "not an http"),
        ("http:///v1", "not an http"),
        ("http://host:port/v1", "not a valid address"),
        ("http://user:hunter2@host/v1", "api_key_env"),
        ("http://host/v1?key=hunter2", "api_key_env"),
        ("http://host/v1/chat/completions/", "remove /chat/completions"),
    ],
)
def test_a_base_url_that_is_none(url: str, message: str) -> None:
    wrong = config(FakeEndpoint(), {"base_url": url})
    for start in (check_endpoint, EndpointGenerator):
        with pytest.raises(InputError, match=message) as raised:
            start(wrong)
        assert "hunter2" not in str(raised.value)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_that_nobody_signed(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with FakeEndpoint(tls=context) as server:
        with pytest.raises(InputError, match="SSL_CERT_FILE"):
            check_endpoint(config(server))
        (reply,) = ask(server, "abc")
        assert isinstance(reply, Failure)
        assert reply.reason == "certificate"


def test_an_endpoint_is_needed() -> None:
    with pytest.raises(InputError, match="base_url"):
        EndpointGenerator(LlmConfig(engine="vllm", model="tiny"))


def test_the_environments_proxy_is_used_except_where_it_says_no(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fake server as a proxy: it is asked for another host's address."""
    with FakeEndpoint() as server:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{server.port}")
        monkeypatch.setenv("no_proxy", "")
        elsewhere = {"base_url": "http://model.invalid/v1"}
        assert texts_of(ask(server, "abc", endpoint=elsewhere)[0]) == [said("abc")]
        assert server.seen[0].headers["Host"] == "model.invalid"
        monkeypatch.setenv("no_proxy", "model.invalid")
        with pytest.raises(InputError, match="cannot be reached"):
            ask(server, "abc", endpoint=elsewhere | {"max_outage_s": 0.1})


# The end


@pytest.fixture
def hanging() -> Iterator[tuple[FakeEndpoint, EndpointGenerator]]:
    with FakeEndpoint(always(hangs)) as server:
        generator = EndpointGenerator(config(server))
        yield server, generator
        generator.close()


def when_asked(server: FakeEndpoint, action) -> threading.Thread:
    """A thread that acts as soon as the server has a request."""

    def watch() -> None:
        while not server.seen:
            time.sleep(0.005)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def test_ctrl_c_ends_the_wait_and_drops_the_requests(hanging: tuple[FakeEndpoint, EndpointGenerator]) -> None:
    server, generator = hanging
    main = threading.main_thread().ident
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        thread = when_asked(server, lambda: signal.pthread_kill(main, signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            generator.generate([Request(str(i), "abc", WARM) for i in range(100)])
    finally:
        signal.signal(signal.SIGINT, before)
    thread.join()
    server.plan = lambda number, body: None
    (reply,) = generator.generate([Request("1", "abc", WARM, seed=7)])  # no slot is held by what was dropped
    assert texts_of(reply) == [said("abc")]


def test_close_during_a_run_ends_it(hanging: tuple[FakeEndpoint, EndpointGenerator]) -> None:
    server, generator = hanging
    thread = when_asked(server, generator.close)
    with pytest.raises(RuntimeError, match="closed while"):
        generator.generate([Request(str(i), "abc", WARM) for i in range(100)])
    thread.join()
    with pytest.raises(RuntimeError, match="after close"):
        generator.generate([])


@pytest.mark.filterwarnings("error")
def test_close_leaves_nothing_behind() -> None:
    before = set(threading.enumerate())
    with FakeEndpoint() as server:
        generator = EndpointGenerator(config(server))
        image = np.zeros((2, 2, 3), np.uint8)
        generator.generate([Request("1", "abc", WARM, image=image)])
        generator.close()
        generator.close()
    del generator
    gc.collect()
    assert set(threading.enumerate()) <= before
