"""Pictures → CAPTIONS rows: every captioner asks every prompt of its own about every image."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from pydantic import Field

from raysys.captions.ask import Question, ask, seed_of
from raysys.captions.checks import ChecksConfig, problem
from raysys.captions.pictures import pixels_of
from raysys.captions.recipes import RECIPES, default_sampling, with_recipe
from raysys.config import Config
from raysys.errors import InputError
from raysys.llm.build import build_generator, revision
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Request, SamplingConfig
from raysys.rows import FATE


class CaptionerConfig(Config):
    """One captioner: a model, and what it is asked."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="names it in caption_id and in reports")
    recipe: str = Field("chat", description=f"defaults for a kind of model: {', '.join(RECIPES)}")
    llm: LlmConfig = Field(description="model and engine")
    prompts: dict[str, str] | None = Field(
        None, description="prompt name → text, one caption for each; null = the recipe's"
    )
    language: str | None = Field(None, description="language of its captions: en, ja …; null = the recipe's")
    image_size: int | None = Field(None, ge=16, description="pictures are shrunk to this longest side, px")
    sampling: SamplingConfig | None = Field(None, description="how tokens are drawn; null = greedy, recipe's length")


@dataclass(frozen=True)
class Captioner:
    """A captioner with its recipe applied; `revision` says which weights or which endpoint's model."""

    name: str
    llm: LlmConfig
    prompts: dict[str, str]
    language: str
    image_size: int
    sampling: SamplingConfig
    revision: str
    seed: int
    checks: ChecksConfig


def resolve(config: CaptionerConfig, checks: ChecksConfig, seed: int) -> Captioner:
    """InputError on an unknown recipe, or one that needs remote code which was not allowed."""
    if config.recipe not in RECIPES:
        raise InputError(f"captioner {config.name}: recipe = {config.recipe!r}", f"use one of {', '.join(RECIPES)}")
    recipe = RECIPES[config.recipe]
    llm = with_recipe(config.llm, recipe)
    if recipe.needs_remote_code and llm.remote_code_commit is None and llm.engine != "openai":
        raise InputError(
            f"captioner {config.name}: models of recipe {config.recipe} bring Python code of their own",
            "read it, then set llm.remote_code_commit to the commit you read",
        )
    prompts = config.prompts if config.prompts is not None else recipe.prompts
    if not prompts:
        raise InputError(f"captioner {config.name} has no prompts", "give at least one, it may be empty text")
    return Captioner(
        name=config.name,
        llm=llm,
        prompts=prompts,
        language=config.language or recipe.language,
        image_size=config.image_size or recipe.image_size,
        sampling=config.sampling or default_sampling(recipe),
        revision=revision(llm),
        seed=seed,
        checks=checks,
    )


def prompt_hash(llm: LlmConfig, prompt: str) -> str:
    """12 hex digits of everything the model reads around the picture or caption."""
    asked = json.dumps([prompt, llm.prompt_format, llm.template, llm.system], ensure_ascii=False)
    return hashlib.sha256(asked.encode()).hexdigest()[:12]


def captions_called_for(captioner: Captioner, item: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows, without text and fate, that one picture must end as: one per prompt."""
    return [
        {
            "caption_id": f"{item['row_id']}/{captioner.name}/{name}",
            "row_id": item["row_id"],
            "sample_id": item["sample_id"],
            "language": captioner.language,
            "captioner": captioner.name,
            "model": captioner.llm.model,
            "revision": captioner.revision,
            "prompt_name": name,
            "prompt_hash": prompt_hash(captioner.llm, prompt),
        }
        for name, prompt in captioner.prompts.items()
    ]


class Caption:
    """A stage: PICTURES → CAPTIONS rows, one per picture and prompt. Holds the engine."""

    def __init__(self, captioner: Captioner, share: float = 1.0) -> None:
        """share: this worker's part of an endpoint's rate limit."""
        self.captioner = captioner
        self.generator = build_generator(captioner.llm, share)

    def __call__(self, items: pa.Table) -> list[dict[str, Any]]:
        """Raises EngineDied."""
        captioner = self.captioner
        rows: list[dict[str, Any]] = []
        questions: list[Question] = []
        asked: list[int] = []
        for item in items.to_pylist():
            image = pixels_of(item)
            for row in captions_called_for(captioner, item):
                if image is None:
                    row |= {field.name: item[field.name] for field in FATE}
                else:
                    asked.append(len(rows))
                    questions.append(self._question(row, image))
                rows.append(row)
        answers = ask(self.generator, questions, captioner.checks, f"caption-{captioner.name}")
        for place, answer in zip(asked, answers, strict=True):
            rows[place] |= answer.columns
        return rows

    def _question(self, row: dict[str, Any], image: Any) -> Question:
        captioner, caption_id = self.captioner, row["caption_id"]
        request = Request(
            id=caption_id,
            text=captioner.prompts[row["prompt_name"]],
            sampling=captioner.sampling,
            seed=seed_of(captioner.seed, caption_id),
            image=image,
        )
        return Question(request, partial(problem, language=captioner.language, config=captioner.checks))
