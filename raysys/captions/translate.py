"""Translate CAPTIONS with a language model, using the same engines and checks as captioning."""

from __future__ import annotations

import unicodedata
from typing import Any

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from raysys.captions.ask import Question, ask, seed_of
from raysys.captions.caption import prompt_hash
from raysys.captions.checks import ChecksConfig, Problem, problem
from raysys.config import Config
from raysys.llm.build import build_generator
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Request, SamplingConfig
from raysys.llm.instructions import LANGUAGE_NAMES, translate_prompt
from raysys.tables.stage import Stage


class TranslateConfig(Config):
    """Configuration of the translation of captions."""

    llm: LlmConfig = Field(LlmConfig(model="zoo:rewriter"), description="model and engine")
    adapter: str | None = Field(None, description="LoRA adapter to use, one of the engine's `adapters`; null = none")
    source: str = Field("en", description=f"language of the captions to translate: {', '.join(LANGUAGE_NAMES)}")
    target: str = Field("ja", description="language of the translations, different from source")
    sampling: SamplingConfig = Field(SamplingConfig(max_tokens=128), description="sampling of tokens")
    seed: int = Field(0, ge=0, description="seed of the sampling")
    min_length_ratio: float = Field(
        0.2,
        ge=0,
        description="minimum length of the translation ÷ length of the source, else `length_ratio`; wide "
        "characters (猫) count as two",
    )
    max_length_ratio: float = Field(5.0, gt=0, description="maximum of the same ratio")
    checks: ChecksConfig = Field(ChecksConfig(), description="checks of every caption")

    @field_validator("source", "target")
    @classmethod
    def _has_a_name(cls, language: str) -> str:
        if language not in LANGUAGE_NAMES:
            raise ValueError(f"{language!r} is not among {', '.join(LANGUAGE_NAMES)}")
        return language

    @model_validator(mode="after")
    def _two_languages(self) -> TranslateConfig:
        if self.source == self.target:
            raise ValueError(f"source and target are both {self.source!r}")
        return self


class Translate(Stage):
    """CAPTIONS rows in `config.source` → CAPTIONS rows in `config.target`, one each. Holds the engine."""

    name, heavy = "translate", True

    def __init__(self, config: TranslateConfig, revision: str, share: float = 1.0) -> None:
        self.config, self.revision = config, revision
        self.generator = build_generator(config.llm, share)

    def expand(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        """The row of a translation, without text and fate."""
        config = self.config
        return [
            {
                "caption_id": f"{item['caption_id']}/{config.target}",
                "row_id": item["row_id"],
                "sample_id": item["sample_id"],
                "language": config.target,
                "captioner": item["captioner"],
                "level": item["level"],
                "source_caption_id": item["caption_id"],
                "source_text": item["text"],
                "model": config.llm.model,
                "revision": self.revision,
                "adapter": config.adapter,
                "prompt_name": f"translate_{config.source}_{config.target}",
                "prompt_hash": prompt_hash(config.llm, translate_prompt("{caption}", config.source, config.target)),
            }
        ]

    def __call__(self, items: pa.Table) -> list[dict[str, Any]]:
        """Raises EngineDied."""
        rows = [row for item in items.to_pylist() for row in self.expand(item)]
        questions = [self._question(row) for row in rows]
        answers = ask(self.generator, questions, self.config.checks, self.name)
        return [row | answer.columns for row, answer in zip(rows, answers, strict=True)]

    def _question(self, row: dict[str, Any]) -> Question:
        config, source = self.config, row["source_text"]
        request = Request(
            id=row["caption_id"],
            text=translate_prompt(source, config.source, config.target),
            sampling=config.sampling,
            seed=seed_of(config.seed, row["caption_id"]),
            adapter=config.adapter,
        )
        return Question(request, lambda text, finish: self._problem(source, text, finish))

    def _problem(self, source: str, text: str, finish_reason: str) -> Problem | None:
        config = self.config
        if found := problem(text, finish_reason, config.target, config.checks):
            return found
        ratio = _columns(text) / max(_columns(source), 1)
        if not config.min_length_ratio <= ratio <= config.max_length_ratio:
            return Problem("length_ratio", f"{len(text)} characters for {len(source)}: {ratio:.2f} of its length")
        return None


def _columns(text: str) -> int:
    """The number of terminal columns of `text`: a Japanese character carries about as much as two Latin letters.

    Thus the same bounds work in both directions. Widths are Unicode's (UAX #11).
    """
    return sum(1 + (unicodedata.east_asian_width(c) in "WF") for c in text)
