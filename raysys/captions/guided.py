"""Score-guided generalization: of n candidates, keep the most general one with the same meaning.

The paper (Li et al. 2023) names this as future work. A round asks for n candidates; those that pass the caption checks
and the semantic floor compete by generality score. Rounds continue until a candidate passes and the target is reached.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field

from raysys import outcomes
from raysys.captions.ask import Answer, Question, Tokens, seed_of
from raysys.captions.checks import ChecksConfig, Problem
from raysys.config import Config
from raysys.llm.contract import Failure, Generator, Reply, Request
from raysys.similarity.texts import WORDS

EMBEDDING_FLOOR = 0.4
"""The default floor for an embedding model. For shared words there is none: the paper's example of a good
generalization has a similarity of 0.38, and a floor of 0.4 rejected 86 % of the demo's five-word captions."""


class GuidedConfig(Config):
    """Choose among candidates by their generality score."""

    candidates: int = Field(8, ge=2, description="candidates per round")
    temperature: float = Field(0.9, gt=0, description="temperature of the candidates")
    min_similarity: float | None = Field(
        None,
        ge=-1,
        le=1,
        description="semantic floor: minimum cosine to the original caption; null = "
        f"{EMBEDDING_FLOOR} with an embedding model, none with shared words, of which good generalizations keep few",
    )
    target_gs: float | None = Field(
        None, ge=0, le=10, description="no further round once the best candidate has this GS; null = once one passes"
    )
    max_rounds: int = Field(3, ge=1, description="maximum number of rounds")

    def floor(self, similarity_model: str | None) -> float | None:
        """The semantic floor for similarities by this model; None if there is none."""
        is_embedding = similarity_model not in (None, WORDS)
        return EMBEDDING_FLOOR if self.min_similarity is None and is_embedding else self.min_similarity


@dataclass(frozen=True)
class Measures:
    """Generality and similarity of texts.

    scorer: texts → GS in [0, 10]. embed: texts → float32 [N, D], L2-normalized; None = similarity is not measured.
    floor: minimum similarity of a candidate to its source; None = no floor.
    """

    scorer: Callable[[Sequence[str]], Sequence[float]]
    embed: Callable[[Sequence[str]], np.ndarray] | None
    floor: float | None = None

    def gs(self, texts: Sequence[str]) -> list[float]:
        return list(self.scorer(texts))

    def similarity(self, texts: Sequence[str], sources: Sequence[str]) -> list[float | None]:
        """The cosine of each pair; None for all if there is no embedding."""
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
    checks: ChecksConfig,
    stage: str,
) -> list[Answer]:
    """One answer per question, in order. Raises EngineDied.

    The reason of a rejection is the last check that failed, or `below_semantic_floor` if no candidate was similar
    enough.
    """
    searches = [_Search(q, source, config, checks) for q, source in zip(questions, sources, strict=True)]
    for round_number in range(config.max_rounds):
        waiting = [s for s in searches if s.is_open]
        if not waiting:
            break
        replies = generator.generate([s.next_request(round_number) for s in waiting])
        candidates = [c for s, reply in zip(waiting, replies, strict=True) for c in s.candidates(reply)]
        texts = [c.text for c in candidates]
        gs, similarity = measures.gs(texts), measures.similarity(texts, [c.search.source for c in candidates])
        for candidate, score, cosine in zip(candidates, gs, similarity, strict=True):
            candidate.search.consider(candidate, score, cosine, measures.floor)
    return [s.answer(stage) for s in searches]


@dataclass(frozen=True)
class _Candidate:
    """A text of a reply, with its search and its request."""

    search: _Search
    text: str
    finish_reason: str
    request: Request


class _Search:
    """The search for the best candidate for one question."""

    def __init__(self, question: Question, source: str, config: GuidedConfig, checks: ChecksConfig) -> None:
        self.source = source
        self._question, self._config, self._checks = question, config, checks
        self._request = question.request
        self._best: _Candidate | None = None
        self._last: _Candidate | None = None
        self._gs = -1.0
        self._problem: Problem | None = None
        self._failure: Failure | None = None
        self._rounds = 0
        self._tokens = Tokens()

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
        """The distinct texts of a round that pass the checks."""
        self._rounds += 1
        if isinstance(reply, Failure):
            # What an earlier round found is still good.
            self._failure = reply
            return []
        self._tokens.add(reply)
        found: dict[str, _Candidate] = {}
        for completion in reply:
            text = self._checks.clean(completion.text)
            candidate = _Candidate(self, text, completion.finish_reason, self._request)
            if problem := self._question.check(text, completion.finish_reason):
                self._last, self._problem = candidate, problem
            else:
                found.setdefault(text, candidate)
        return list(found.values())

    def consider(self, candidate: _Candidate, gs: float, similarity: float | None, floor: float | None) -> None:
        """Ties go to the candidate that came first."""
        if floor is not None and (similarity is None or similarity < floor):
            self._last = candidate
            self._problem = Problem("below_semantic_floor", f"similarity {similarity}, floor {floor}")
        elif gs > self._gs:
            self._best, self._gs = candidate, gs

    def answer(self, stage: str) -> Answer:
        """Kept: the best one. Rejected: the last text that failed. An engine's failure has no text."""
        if self._best is not None:
            shown, fate = self._best, outcomes.kept()
        elif self._failure is not None:
            shown, fate = None, self._failure.fate(stage)
        else:
            assert self._problem is not None, "no candidate without a reason"
            shown, fate = self._last, outcomes.rejected(self._problem.reason, self._problem.detail)
        request = shown.request if shown else self._request
        columns: dict[str, Any] = {
            "text": shown.text if shown else None,
            "sampling": request.sampling.model_dump_json(),
            "seed": request.seed,
            "attempts": self._rounds,
            "finish_reason": shown.finish_reason if shown else None,
        }
        return Answer(columns["text"], columns | self._tokens.columns() | fate)
