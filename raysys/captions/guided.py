"""Score-guided choice: of n candidates keep the most general one that still means the same.

The paper (Li et al. 2023) names this as future work. A round asks for n candidates; those that pass the caption checks
and the semantic floor compete by generality score. Rounds go on while nothing passed or the target is not reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field

from raysys import outcomes
from raysys.captions.ask import Answer, Question, seed_of
from raysys.captions.checks import Problem, clean
from raysys.config import Config
from raysys.llm.contract import Failure, Generator, Reply, Request


class GuidedConfig(Config):
    """Choose among candidates by their generality score."""

    candidates: int = Field(8, ge=2, description="texts drawn per round")
    temperature: float = Field(0.9, gt=0, description="temperature of the candidates")
    min_similarity: float = Field(0.4, ge=-1, le=1, description="semantic floor: cosine to the original caption")
    target_gs: float | None = Field(None, ge=0, le=10, description="stop once a candidate reaches it; null = one round")
    max_rounds: int = Field(3, ge=1, description="rounds at most while the target is not reached")


@dataclass(frozen=True)
class Measures:
    """Generality and similarity of texts. scorer: texts → GS in [0, 10]; embed: texts → float32 [N, D], unit length."""

    scorer: Callable[[Sequence[str]], Sequence[float]]
    embed: Callable[[Sequence[str]], np.ndarray] | None

    def gs(self, texts: Sequence[str]) -> list[float]:
        return list(self.scorer(texts))

    def similarity(self, texts: Sequence[str], sources: Sequence[str]) -> list[float | None]:
        """Cosines, pair by pair; None each when nothing measures it."""
        if self.embed is None or not texts:
            return [None] * len(texts)
        vectors = self.embed([*texts, *sources])
        return (vectors[: len(texts)] * vectors[len(texts) :]).sum(axis=1).tolist()


def choose(
    generator: Generator,
    questions: Sequence[Question],
    sources: Sequence[str],
    config: GuidedConfig,
    measures: Measures,
    stage: str,
) -> list[Answer]:
    """One answer per question, in order. Raises EngineDied.

    Rejected: the last check that failed, or `below_semantic_floor` when no candidate was similar enough.
    """
    searches = [_Search(q, source, config) for q, source in zip(questions, sources, strict=True)]
    for round_number in range(config.max_rounds):
        waiting = [s for s in searches if s.is_open]
        if not waiting:
            break
        replies = generator.generate([s.next_request(round_number) for s in waiting])
        candidates = [c for s, reply in zip(waiting, replies, strict=True) for c in s.candidates(reply)]
        texts = [c.text for c in candidates]
        gs, similarity = measures.gs(texts), measures.similarity(texts, [c.search.source for c in candidates])
        for candidate, score, cosine in zip(candidates, gs, similarity, strict=True):
            candidate.search.consider(candidate, score, cosine)
    return [s.answer(stage) for s in searches]


@dataclass(frozen=True)
class _Candidate:
    """A text that passed the checks, and whose it is."""

    search: _Search
    text: str
    finish_reason: str


class _Search:
    """The best candidate of one question so far."""

    def __init__(self, question: Question, source: str, config: GuidedConfig) -> None:
        self.source = source
        self._question, self._config = question, config
        self._request = question.request
        self._best: _Candidate | None = None
        self._gs = -1.0
        self._problem: Problem | None = None
        self._failure: Failure | None = None
        self._rounds = self._prompt_tokens = self._completion_tokens = 0

    @property
    def is_open(self) -> bool:
        target = self._config.target_gs
        unfinished = self._best is None or (target is not None and self._gs < target)
        return self._failure is None and unfinished

    def next_request(self, round_number: int) -> Request:
        first = self._question.request
        sampling = first.sampling.model_copy(update={"temperature": self._config.temperature})
        seed = seed_of(first.seed, first.id, round_number)
        self._request = replace(first, sampling=sampling, n=self._config.candidates, seed=seed)
        return self._request

    def candidates(self, reply: Reply) -> list[_Candidate]:
        """The different texts of a round that pass the checks."""
        self._rounds += 1
        if isinstance(reply, Failure):
            # What an earlier round found is still good.
            self._failure = reply
            return []
        self._prompt_tokens += reply[0].prompt_tokens or 0
        self._completion_tokens += sum(c.completion_tokens or 0 for c in reply)
        found: dict[str, _Candidate] = {}
        for completion in reply:
            text = clean(completion.text)
            if problem := self._question.check(text, completion.finish_reason):
                self._problem = problem
            else:
                found.setdefault(text, _Candidate(self, text, completion.finish_reason))
        return list(found.values())

    def consider(self, candidate: _Candidate, gs: float, similarity: float | None) -> None:
        """Ties go to the candidate that came first."""
        if similarity is None or similarity < self._config.min_similarity:
            self._problem = Problem(
                "below_semantic_floor", f"similarity {similarity}, floor {self._config.min_similarity}"
            )
        elif gs > self._gs:
            self._best, self._gs = candidate, gs

    def answer(self, stage: str) -> Answer:
        if self._best is not None:
            fate, text, finish_reason = outcomes.kept(), self._best.text, self._best.finish_reason
        else:
            text = finish_reason = None
            assert self._failure is not None or self._problem is not None, "no candidate without a reason"
            fate = self._failure.fate(stage) if self._failure else _rejected(self._problem)
        columns: dict[str, Any] = {
            "text": text,
            "sampling": self._request.sampling.model_dump_json(),
            "seed": self._request.seed,
            "attempts": self._rounds,
            "finish_reason": finish_reason,
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._completion_tokens,
        }
        return Answer(text, columns | fate)


def _rejected(problem: Problem | None) -> dict[str, Any]:
    assert problem is not None
    return outcomes.rejected(problem.reason, problem.detail)
