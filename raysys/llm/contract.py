"""The interface of all engines. Stages use only these types; the configuration selects the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pydantic import Field

from raysys import outcomes
from raysys.config import Config
from raysys.errors import WorkerBroken


class SamplingConfig(Config):
    """Sampling of tokens, with the names of vLLM's SamplingParams."""

    temperature: float = Field(0.0, ge=0, description="0 = greedy: always the most likely token")
    top_p: float = Field(1.0, gt=0, le=1, description="sample from the most likely tokens with this total probability")
    top_k: int = Field(0, ge=0, description="sample from this many most likely tokens; 0 = all")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1, tokens that have occurred become less likely")
    max_tokens: int = Field(128, ge=1, description="maximum tokens of an answer; longer ones end with `length`")
    stop: tuple[str, ...] = Field((), description="the answer ends before any of these strings")


@dataclass(frozen=True)
class Request:
    """One question to the model, asked for `n` answers.

    id: its name in outcomes and messages, which never contain its text (it may be private).
    text: the instruction; the engine inserts it into the chat template or completion prompt of the model.
    image: uint8 [H, W, 3], RGB, already resized; None = text only.
    seed: of this request, so that its answers do not depend on other requests in the batch.
    adapter: name of a LoRA adapter from the engine's configuration; None = the base model.
    """

    id: str
    text: str
    sampling: SamplingConfig
    seed: int = 0
    n: int = 1
    image: np.ndarray | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Completion:
    """One answer. finish_reason: stop (end of answer), length (max_tokens), or the engine's own reason.

    text: without surrounding white space, special tokens and the stop string.
    prompt_tokens: including the image's.
    completion_tokens: None if the engine only reports the sum over all answers of a request.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class Failure:
    """The reason why a request has no answer. bad_input: the request is at fault (too long …); a retry cannot help.

    detail: never contains prompt text.
    """

    reason: str
    detail: str
    bad_input: bool = False

    def fate(self, stage: str) -> dict[str, str | None]:
        """The fate columns of the request's row."""
        if self.bad_input:
            return outcomes.rejected(self.reason, self.detail)
        return outcomes.error(stage, self.reason, self.detail)


Reply = list[Completion] | Failure
"""The `n` answers to one request in order, or a failure."""


class EngineDied(WorkerBroken):
    """The process of a generator's engine died."""


class Generator(Protocol):
    """A loaded model. Thread-safe, so that several chunks can be in flight to keep the engine busy."""

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order; a bad request does not affect others. Raises EngineDied."""

    def close(self) -> None:
        """Free the model and stop its processes and threads."""
