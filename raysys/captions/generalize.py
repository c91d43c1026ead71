"""Captions → more general captions (Li et al. 2023, §3.1), at temperature 0 or guided by their generality score.

Score-guided generalization is the paper's future work: of n candidates, keep the one with the highest GS. A semantic
floor, where there is one, leaves out candidates that are not similar enough to the original caption.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import Field, model_validator

from raysys import outcomes
from raysys.captions.ask import Question, ask, seed_of
from raysys.captions.caption import prompt_hash
from raysys.captions.checks import ChecksConfig, Problem, problem
from raysys.captions.guided import GuidedConfig, Measures, choose
from raysys.config import OPERATIONAL, Config, Place
from raysys.language.generality import score
from raysys.language.nlp import load_pipeline
from raysys.llm.build import build_generator
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Request, SamplingConfig
from raysys.llm.instructions import GENERALIZE, generalize_prompt
from raysys.models.device import AUTO, DEVICE_HELP, Device
from raysys.similarity.texts import WORDS, make_text_embedder
from raysys.tables.stage import Stage

Level = Literal["general", "five_words"]

MAX_WORDS = {"general": None, "five_words": 5}
"""The paper's prompt asks for fewer than five words, but its results have up to five."""


class GeneralizeConfig(Config):
    """Configuration of the generalization of captions."""

    llm: LlmConfig = Field(LlmConfig(model="zoo:rewriter"), description="model and engine")
    adapter: str | None = Field(None, description="LoRA adapter to use, one of the engine's `adapters`; null = none")
    levels: tuple[Level, ...] = Field(
        ("general", "five_words"), min_length=1, description="levels; one generalized caption is made for each"
    )
    sampling: SamplingConfig = Field(
        SamplingConfig(max_tokens=96), description="sampling of tokens; the paper uses temperature 0"
    )
    seed: int = Field(0, ge=0, description="seed of resampling and of candidates")
    guided: GuidedConfig | None = Field(
        None, description="choose the candidate with the highest GS; null = use the first answer"
    )
    similarity_model: Place | None = Field(
        WORDS, description="similarity to the original: a CLIP folder, or words = shared words; null = not measured"
    )
    device: Device = Field(AUTO, description=f"of the similarity model; {DEVICE_HELP}")
    pipeline: Annotated[Literal["auto", "en_core_web_sm", "rules"], OPERATIONAL] = Field(
        "auto", description="spaCy pipeline of the generality score; auto = en_core_web_sm if it is installed"
    )
    checks: ChecksConfig = Field(ChecksConfig(), description="checks of every caption")

    @model_validator(mode="after")
    def _floor_is_measurable(self) -> GeneralizeConfig:
        if self.guided is not None and self.guided.min_similarity is not None and self.similarity_model is None:
            raise ValueError("guided.min_similarity needs a similarity_model to measure it")
        return self


class Generalize(Stage):
    """English captions → CAPTIONS rows, one per level. Holds the engine, the NLP pipeline and a CLIP."""

    name, heavy = "generalize", True

    def __init__(self, config: GeneralizeConfig, revision: str, share: float = 1.0) -> None:
        """`config.pipeline` must be resolved by the driver, because "auto" could differ between nodes."""
        self.config, self.revision = config, revision
        self.generator = build_generator(config.llm, share)
        embed = make_text_embedder(config.similarity_model, config.device) if config.similarity_model else None
        nlp = load_pipeline(config.pipeline)
        floor = config.guided.floor(config.similarity_model) if config.guided else None
        self.measures = Measures(lambda texts: [g.gs for g in score(texts, nlp)], embed, floor)

    def expand(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of a caption, without text and fate: one per level."""
        config = self.config
        return [
            {
                "caption_id": f"{item['caption_id']}/{level}",
                "row_id": item["row_id"],
                "sample_id": item["sample_id"],
                "language": "en",
                "captioner": item["captioner"],
                "level": level,
                "source_caption_id": item["caption_id"],
                "source_text": item["text"],
                "model": config.llm.model,
                "revision": self.revision,
                "adapter": config.adapter,
                "prompt_name": level,
                "prompt_hash": prompt_hash(config.llm, GENERALIZE[level]),
            }
            for level in config.levels
        ]

    def __call__(self, items: pa.Table) -> list[dict[str, Any]]:
        """Raises EngineDied."""
        rows = [row for item in items.to_pylist() for row in self.expand(item)]
        questions = [self._question(row) for row in rows]
        if self.config.guided is None:
            answers = ask(self.generator, questions, self.config.checks, self.name)
        else:
            sources = [row["source_text"] for row in rows]
            answers = choose(
                self.generator, questions, sources, self.config.guided, self.measures, self.config.checks, "generalize"
            )
        rows = [row | answer.columns for row, answer in zip(rows, answers, strict=True)]
        return self._measured(rows)

    def _question(self, row: dict[str, Any]) -> Question:
        config, level, source = self.config, row["level"], row["source_text"]
        request = Request(
            id=row["caption_id"],
            text=generalize_prompt(level, source),
            sampling=config.sampling,
            seed=seed_of(config.seed, row["caption_id"]),
            adapter=config.adapter,
        )
        return Question(request, lambda text, finish: generalization_problem(text, finish, level, config.checks))

    def _measured(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Add GS before and after, and similarity, to the kept rows."""
        kept = [row for row in rows if row["outcome"] == outcomes.KEPT]
        texts, sources = [row["text"] for row in kept], [row["source_text"] for row in kept]
        before, after = self.measures.gs(sources), self.measures.gs(texts)
        similarity = self.measures.similarity(texts, sources)
        for row, source_gs, gs, cosine in zip(kept, before, after, similarity, strict=True):
            row |= {"source_gs": source_gs, "gs": gs, "similarity": cosine}
        return rows


def generalization_problem(text: str, finish_reason: str, level: str, checks: ChecksConfig) -> Problem | None:
    """All caption checks, then the word limit of the level (`too_many_words`). A hyphenated word counts as one."""
    if found := problem(text, finish_reason, "en", checks):
        return found
    limit, n_words = MAX_WORDS[level], len(text.split())
    if limit is not None and n_words > limit:
        return Problem("too_many_words", f"{n_words} words, {limit} allowed")
    return None
