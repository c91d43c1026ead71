"""Bodies of requests to an OpenAI-compatible server, and interpretation of its replies.

Failures contain the server's reason only as `raysys.llm.endpoint_reason` returns it, because servers may echo prompts.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from raysys.llm.config import LlmConfig
from raysys.llm.contract import Completion, Failure, Request, SamplingConfig
from raysys.llm.endpoint_reason import server_reason, with_reason
from raysys.llm.rate_limit import retry_after_s

RETRIED = frozenset({408, 409, 425, 429})
"""Temporary client errors, which are retried like all codes of 500 and above."""

DENIED = frozenset({401, 403})

TOO_LONG = re.compile(r"context[ _](length|size|window)|exceed_context_size|maximum model length", re.I)
"""Codes and messages of OpenAI, llama.cpp, vLLM and most others for a prompt that exceeds the context."""

ANSWER_TOO_LONG = re.compile(r"max_(completion_)?tokens\W[^.]{0,60}too large", re.I)
"""Message of vLLM up to 0.10 if max_tokens does not fit into the context: the setting is at fault, not the prompt."""

FILTERED = re.compile(r"content[ _](filter|policy)|responsible_?ai|moderation|\bflagged\b", re.I)
"""Codes and messages of Azure, OpenAI and OpenRouter for a prompt or answer that a content filter blocks."""


@dataclass(frozen=True)
class Trouble:
    """An attempt without completions. wait_s: requested by the server; None = our own backoff.

    retry: whether another attempt may help. reached: whether the server has received the request. everyone: whether the
    server is overloaded, so that the whole worker must wait.
    """

    failure: Failure
    retry: bool = True
    reached: bool = True
    wait_s: float | None = None
    everyone: bool = False


class Denied(Exception):
    """The server refuses access (401, or 403 that is not about the prompt), for the `reason` that it gives."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status, self.reason = status, reason


def path_of(config: LlmConfig) -> str:
    """The path of completions, relative to base_url."""
    return "/chat/completions" if is_chat(config) else "/completions"


def is_chat(config: LlmConfig) -> bool:
    """Whether to use the chat API; `auto` is chat, because servers do not tell whether the model has a template."""
    return config.prompt_format != "completion"


def body_of(config: LlmConfig, request: Request, n: int, seed: int) -> bytes:
    """The JSON body that requests `n` answers. `adapter` is sent as the model's name, as for vLLM's LoRA modules.

    Parameters that OpenAI's API does not have (top_k, repetition_penalty) are sent only if they differ from the
    defaults of `SamplingConfig`, because strict servers reject them. temperature and top_p are always sent, because
    servers may take other defaults from the model's generation_config.json.
    """
    sampling = request.sampling
    text = config.template.replace("{prompt}", request.text)
    body: dict[str, Any] = {"model": request.adapter or config.model}
    if is_chat(config):
        body["messages"] = _messages(config.system, text, request.image)
    else:
        body["prompt"] = text
    body |= {"max_tokens": sampling.max_tokens, "temperature": sampling.temperature, "top_p": sampling.top_p}
    body["seed"] = seed
    if n > 1:
        body["n"] = n
    if sampling.stop:
        body["stop"] = list(sampling.stop)
    for name in ("top_k", "repetition_penalty"):
        if (value := getattr(sampling, name)) != SamplingConfig.model_fields[name].default:
            body[name] = value
    return json.dumps(body).encode("ascii")


def _messages(system: str | None, text: str, image: np.ndarray | None) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    content: str | list[dict[str, Any]] = text
    if image is not None:
        picture = {"type": "image_url", "image_url": {"url": data_url(image)}}
        content = [picture, {"type": "text", "text": text}]
    return [*messages, {"role": "user", "content": content}]


def data_url(image: np.ndarray) -> str:
    """uint8 [H, W, 3] as a PNG data URL: lossless, so that all engines get the same pixels."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(
        buffer, format="PNG", compress_level=1
    )  # level 6 takes 3 times as long and saves a few percent
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def read_reply(
    status: int, headers: Mapping[str, str], payload: bytes, request: Request, n: int, config: LlmConfig
) -> list[Completion] | Trouble:
    """The completions in the reply to `request` (at least 1, at most `n`), or the reason why there are none.

    Raises Denied for 401, and for a 403 that is not about the prompt.
    """
    if 200 <= status < 300:
        return _completions(payload, n, is_chat(config))
    reason = reason_in(payload, config, request)
    if status != 401 and (known := _known_refusal(status, payload, reason)) is not None:
        return Trouble(known, retry=False)
    if status in DENIED:
        raise Denied(status, reason)
    if status in RETRIED or status >= 500:
        wait_s = retry_after_s(headers.get("Retry-After"))
        everyone = status == 429 or (status == 503 and wait_s is not None)
        failure = Failure(f"http_{status}", with_reason(f"the server answered {status}", reason))
        return Trouble(failure, wait_s=wait_s, everyone=everyone)
    if 300 <= status < 400:
        detail = f"the server answered {status}: it redirects; base_url has to be the final address"
        return Trouble(Failure(f"http_{status}", detail), retry=False)
    if status == 404 and request.adapter is not None:
        detail = with_reason(f"the server has no {request.adapter!r}", reason)
        return Trouble(Failure("unknown_adapter", detail, bad_input=True), retry=False)
    # An error, not a rejection: if the server refuses a parameter, the job must stop.
    return Trouble(Failure("bad_request", with_reason(f"the server answered {status}", reason)), retry=False)


def reason_in(payload: bytes, config: LlmConfig, request: Request | None = None) -> str:
    """The server's reason in an error reply, without the texts of the request and the key."""
    variable = config.endpoint.api_key_env if config.endpoint is not None else None
    key = os.environ.get(variable, "") if variable else ""
    sent = [key, config.system or "", config.template, request.text if request is not None else ""]
    adapter = request.adapter if request is not None else None
    return server_reason(payload, sent, [config.model, adapter or ""])


def _known_refusal(status: int, payload: bytes, reason: str) -> Failure | None:
    """A refusal because of the prompt, for which a retry cannot help; None for other refusals."""
    if status == 413:
        detail = with_reason("the server answered 413: the request has too many bytes", reason)
        return Failure("prompt_too_large", detail, bad_input=True)
    words = " ".join(str(value) for value in _error_of(payload).values())
    if TOO_LONG.search(words) and not ANSWER_TOO_LONG.search(words):
        detail = with_reason(f"the server answered {status}: prompt and answer are longer than its context", reason)
        return Failure("prompt_too_long", detail, bad_input=True)
    if status < 500 and FILTERED.search(words):
        detail = with_reason(f"the server answered {status}: its filter refuses the prompt", reason)
        return Failure("content_filter", detail, bad_input=True)
    return None


def _error_of(payload: bytes) -> dict[str, Any]:
    """The error object of a reply: its `error`, or the reply itself; {} if there is none."""
    data = parse_json(payload)
    if isinstance(data, dict) and isinstance(data.get("error"), dict):
        data = data["error"]
    elif isinstance(data, dict) and isinstance(data.get("error"), str):
        data = {"message": data["error"]}
    if not isinstance(data, dict):
        return {}
    return {key: data[key] for key in ("message", "type", "code") if isinstance(data.get(key), str)}


def _completions(payload: bytes, n: int, chat: bool) -> list[Completion] | Trouble:
    data = parse_json(payload)
    if data is None:
        return _bad_reply("the reply is not JSON")
    choices = data.get("choices") if isinstance(data, dict) else None
    if not isinstance(choices, list) or not choices:
        return _bad_reply("the reply has no choices")
    if not all(isinstance(choice, dict) for choice in choices):
        return _bad_reply("a choice of the reply is not an object")
    if all(isinstance(choice.get("index"), int) for choice in choices):
        choices = sorted(choices, key=lambda choice: choice["index"])
    usage = data.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    alone = len(choices) == 1  # servers report the sum over all answers of a request
    counts = (_count(usage, "prompt_tokens"), _count(usage, "completion_tokens") if alone else None)
    answers = []
    for choice in choices[:n]:
        answer = _completion(choice, counts, chat)
        if isinstance(answer, Trouble):
            return answer
        answers.append(answer)
    return answers


def _completion(choice: dict[str, Any], counts: tuple[int | None, int | None], chat: bool) -> Completion | Trouble:
    holder = choice.get("message") if chat else choice
    text = holder.get("content" if chat else "text") if isinstance(holder, dict) else None
    reason = choice.get("finish_reason")
    if reason in ("abort", "error"):
        # vLLM's reasons for aborted answers, for example because it is shutting down.
        return Trouble(Failure("aborted", "the server broke the answer off"))
    if reason == "content_filter":
        return Trouble(Failure("content_filter", "the server's filter holds the answer back", True), retry=False)
    if text is None and reason == "length":
        text = ""  # a reasoning model used all tokens before the answer
    if not isinstance(text, str):
        return _bad_reply("a choice of the reply has no text")
    if not _is_unicode(text):
        return _bad_reply("the text of a choice is not valid Unicode")
    return Completion(text.strip(), reason if isinstance(reason, str) else "unknown", *counts)


def _bad_reply(detail: str) -> Trouble:
    return Trouble(Failure("bad_reply", detail))


def _count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if type(value) is int and value >= 0 else None


def _is_unicode(text: str) -> bool:
    """Whether the text has no lone surrogates, which are valid in JSON but not in tables."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def parse_json(payload: bytes) -> Any:
    """The JSON value; None if it is not JSON. The error is not reported, because it contains the reply's text."""
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return None
