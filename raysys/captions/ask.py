"""Ask a model, check the answers, and ask again if a check fails: shared by captioning and rewriting."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raysys import outcomes
from raysys.captions.checks import ChecksConfig, Problem
from raysys.llm.contract import Completion, Failure, Generator, Request

Check = Callable[[str, str], Problem | None]
"""(cleaned text, finish_reason) → the problem, or None."""


@dataclass(frozen=True)
class Question:
    """One text to be written: the request of the first attempt, and the check for its answers."""

    request: Request
    check: Check


@dataclass(frozen=True)
class Answer:
    """The final answer to one question. columns: the columns of CAPTIONS that depend on it, including the fate."""

    text: str | None
    columns: dict[str, Any]

    @property
    def is_kept(self) -> bool:
        return self.columns["outcome"] == outcomes.KEPT


def ask(generator: Generator, questions: Sequence[Question], checks: ChecksConfig, stage: str) -> list[Answer]:
    """One answer per question, in order. If a text fails its check, it is asked for up to `max_resamples` more times.

    All questions of a round are sent to the engine at once. Raises EngineDied.
    """
    tries = [_Tries(question, checks) for question in questions]
    for attempt in range(checks.max_resamples + 1):
        open_tries = [t for t in tries if t.is_open]
        if not open_tries:
            break
        replies = generator.generate([t.next_request(attempt) for t in open_tries])
        for one, reply in zip(open_tries, replies, strict=True):
            one.take(reply)
    return [t.answer(stage) for t in tries]


def seed_of(run_seed: int, name: str, attempt: int = 0) -> int:
    """A 31-bit seed that depends only on the run's seed, the text's name and the attempt, not on batch or worker."""
    digest = hashlib.blake2b(f"{run_seed}\x00{name}\x00{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) & 0x7FFFFFFF


class Tokens:
    """The number of tokens of all replies to one question; None if an engine does not report it."""

    def __init__(self) -> None:
        self._prompt: int | None = 0
        self._completion: int | None = 0

    def add(self, reply: Sequence[Completion]) -> None:
        self._prompt = _plus(self._prompt, reply[0].prompt_tokens)
        for completion in reply:
            self._completion = _plus(self._completion, completion.completion_tokens)

    def columns(self) -> dict[str, int | None]:
        return {"prompt_tokens": self._prompt, "completion_tokens": self._completion}


def _plus(total: int | None, n: int | None) -> int | None:
    return None if total is None or n is None else total + n


class _Tries:
    """The attempts for one question."""

    def __init__(self, question: Question, config: ChecksConfig) -> None:
        self._question, self._config = question, config
        self._request = question.request
        self._last: Completion | None = None
        self._text: str | None = None
        self._problem: Problem | None = None
        self._failure: Failure | None = None
        self._attempts = 0
        self._tokens = Tokens()

    @property
    def is_open(self) -> bool:
        return self._failure is None and (self._attempts == 0 or self._problem is not None)

    def next_request(self, attempt: int) -> Request:
        if attempt:
            first = self._question.request
            temperature = max(first.sampling.temperature, self._config.resample_temperature)
            sampling = first.sampling.model_copy(update={"temperature": temperature})
            self._request = replace(first, sampling=sampling, seed=seed_of(first.seed, first.id, attempt))
        return self._request

    def take(self, reply: list[Completion] | Failure) -> None:
        self._attempts += 1
        if isinstance(reply, Failure):
            self._failure = reply
            return
        self._tokens.add(reply)
        # Of several candidates for one request, the first that passes is used.
        for completion in reply:
            self._last, self._text = completion, self._config.clean(completion.text)
            self._problem = self._question.check(self._text, completion.finish_reason)
            if self._problem is None:
                return

    def answer(self, stage: str) -> Answer:
        columns: dict[str, Any] = {
            "sampling": self._request.sampling.model_dump_json(),
            "seed": self._request.seed,
            "attempts": self._attempts,
            "finish_reason": self._last.finish_reason if self._last else None,
        } | self._tokens.columns()
        if self._failure is not None:
            fate, text = self._failure.fate(stage), None
        elif self._problem is not None:
            fate, text = outcomes.rejected(self._problem.reason, self._problem.detail), self._text
        else:
            fate, text = outcomes.kept(), self._text
        return Answer(text, {"text": text} | columns | fate)
