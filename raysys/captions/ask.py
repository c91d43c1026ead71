"""Ask a model, check the answers, ask again where a check failed: what captioning and rewriting share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from raysys import outcomes
from raysys.captions.checks import ChecksConfig, Problem, clean
from raysys.llm.contract import Completion, Failure, Generator, Request

Check = Callable[[str, str], Problem | None]
"""(clean text, finish_reason) → what is wrong with it."""


@dataclass(frozen=True)
class Question:
    """One text to be written: the request of the first try, and what its answer must pass."""

    request: Request
    check: Check


@dataclass(frozen=True)
class Answer:
    """How one question ended. `columns` are those of CAPTIONS that the model decides, the fate among them."""

    text: str | None
    columns: dict[str, Any]

    @property
    def is_kept(self) -> bool:
        return self.columns["outcome"] == outcomes.KEPT


def ask(generator: Generator, questions: Sequence[Question], checks: ChecksConfig, stage: str) -> list[Answer]:
    """One answer per question, in order. A text that fails its check is asked for up to `max_resamples` times more.

    All questions of a round go to the engine at once. Raises EngineDied.
    """
    tries = [_Tries(question) for question in questions]
    for attempt in range(checks.max_resamples + 1):
        open_tries = [t for t in tries if t.is_open]
        if not open_tries:
            break
        replies = generator.generate([t.next_request(attempt, checks) for t in open_tries])
        for one, reply in zip(open_tries, replies, strict=True):
            one.take(reply)
    return [t.answer(stage) for t in tries]


def seed_of(run_seed: int, name: str, attempt: int = 0) -> int:
    """31 bits that belong to this text and this try alone: the same in any batch, on any worker."""
    digest = hashlib.blake2b(f"{run_seed}\x00{name}\x00{attempt}".encode(), digest_size=4).digest()
    return int.from_bytes(digest) & 0x7FFFFFFF


class _Tries:
    """The tries of one question."""

    def __init__(self, question: Question) -> None:
        self._question = question
        self._request = question.request
        self._last: Completion | None = None
        self._text: str | None = None
        self._problem: Problem | None = None
        self._failure: Failure | None = None
        self._attempts = self._prompt_tokens = self._completion_tokens = 0

    @property
    def is_open(self) -> bool:
        return self._failure is None and (self._attempts == 0 or self._problem is not None)

    def next_request(self, attempt: int, checks: ChecksConfig) -> Request:
        if attempt:
            first = self._question.request
            temperature = max(first.sampling.temperature, checks.resample_temperature)
            sampling = first.sampling.model_copy(update={"temperature": temperature})
            self._request = replace(first, sampling=sampling, seed=seed_of(first.seed, first.id, attempt))
        return self._request

    def take(self, reply: list[Completion] | Failure) -> None:
        self._attempts += 1
        if isinstance(reply, Failure):
            self._failure = reply
            return
        # Several candidates of one request: the first that passes.
        self._prompt_tokens += reply[0].prompt_tokens or 0
        self._completion_tokens += sum(c.completion_tokens or 0 for c in reply)
        for completion in reply:
            self._last, self._text = completion, clean(completion.text)
            self._problem = self._question.check(self._text, completion.finish_reason)
            if self._problem is None:
                return

    def answer(self, stage: str) -> Answer:
        columns: dict[str, Any] = {
            "sampling": self._request.sampling.model_dump_json(),
            "seed": self._request.seed,
            "attempts": self._attempts,
            "finish_reason": self._last.finish_reason if self._last else None,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
        }
        if self._failure is not None:
            fate, text = self._failure.fate(stage), None
        elif self._problem is not None:
            fate, text = outcomes.rejected(self._problem.reason, self._problem.detail), self._text
        else:
            fate, text = outcomes.kept(), self._text
        return Answer(text, {"text": text} | columns | fate)
