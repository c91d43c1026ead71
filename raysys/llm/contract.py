"""What every engine takes and gives. Stages use only these types; the configuration chooses the engine."""

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
    """How tokens are drawn; the names are those of vLLM's SamplingParams."""

    temperature: float = Field(0.0, ge=0, description="0 = greedy: always the most likely token")
    top_p: float = Field(1.0, gt=0, le=1, description="draw among the most likely tokens that hold this probability")
    top_k: int = Field(0, ge=0, description="draw among this many tokens; 0 = all")
    repetition_penalty: float = Field(1.0, gt=0, description="above 1 makes tokens that occurred less likely")
    max_tokens: int = Field(128, ge=1, description="tokens of an answer at most; longer ones end with `length`")
    stop: tuple[str, ...] = Field((), description="the answer ends before any of these strings")


@dataclass(frozen=True)
class Request:
    """One question to the model, asked for `n` answers.

    id: names it in outcomes and messages; its text never is (it may be private).
    text: the instruction; the engine puts it into the chat template or completion prompt of the model.
    image: uint8 [H, W, 3], RGB, already resized; None = text only.
    seed: of this request alone, so that its answers do not depend on what is beside it in a batch.
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
    """One answer. `finish_reason`: stop (the model ended), length (max_tokens), or the engine's own word.

    text: without white space around it, special tokens, and a stop string that ended it.
    prompt_tokens: the image's included.
    completion_tokens: None when the engine counts the answers of one request together and cannot tell them apart.
    """

    text: str
    finish_reason: str
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True)
class Failure:
    """Why a request has no answer. bad_input: the request itself is at fault (too long …), a retry would not help.

    `detail` never holds prompt text.
    """

    reason: str
    detail: str
    bad_input: bool = False

    def fate(self, stage: str) -> dict[str, str | None]:
        """The outcome columns of the row that stands for this request."""
        if self.bad_input:
            return outcomes.rejected(self.reason, self.detail)
        return outcomes.error(stage, self.reason, self.detail)


Reply = list[Completion] | Failure
"""The `n` answers of one request in order, or why there are none."""


class EngineDied(WorkerBroken):
    """The engine behind a generator is gone (its process died)."""


class Generator(Protocol):
    """A loaded model. Thread-safe: several chunks may be in flight, which keeps the engine busy."""

    def generate(self, requests: Sequence[Request]) -> list[Reply]:
        """One reply per request, in order; one bad request does not affect another. Raises EngineDied."""

    def close(self) -> None:
        """Free the model, end its processes and threads."""
