"""Images → CAPTIONS rows: every captioner asks each of its prompts about every image."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
from pydantic import Field, ValidationInfo, field_validator, model_validator

from raysys import outcomes
from raysys.captions.ask import Question, ask, seed_of
from raysys.captions.checks import ChecksConfig, problem
from raysys.captions.images import pixels_of
from raysys.captions.recipes import RECIPES, sampling_with_recipe, with_recipe
from raysys.config import Config
from raysys.errors import InputError
from raysys.llm.build import build_generator, identity, resolve_engine, revision
from raysys.llm.config import LlmConfig
from raysys.llm.contract import Request, SamplingConfig
from raysys.llm.folder import model_folder
from raysys.llm.instructions import GENERALIZE
from raysys.rows import FATE
from raysys.tables.stage import Stage

ORIGINAL = "original"
"""Captioner of the captions that came with the images."""

NAME = r"^[a-z0-9][a-z0-9_.-]*$"
"""Pattern of the names of captioners and prompts, which become parts of caption_id."""


class CaptionerConfig(Config):
    """One captioner: a model and its prompts. Validation fills missing values from the recipe."""

    name: str = Field(
        "", pattern=NAME, description="name of the captioner in caption_id and in reports; default: the recipe's"
    )
    recipe: str = Field("chat", description=f"defaults for a kind of model: {', '.join(RECIPES)}")
    llm: LlmConfig = Field(description="model and engine")
    prompts: dict[str, str] | None = Field(
        None, description="prompt name → text, with one caption for each; null = the recipe's"
    )
    spare_prompts: dict[str, str] | None = Field(
        None,
        description="prompt name → text: alternative wordings, asked in this order for images with a rejected caption, "
        "which the answer replaces; null = the recipe's if its prompts are used, else none",
    )
    language: str | None = Field(None, description="language of the captions: en, ja …; null = the recipe's")
    image_size: int | None = Field(
        None, ge=16, description="longest side in pixels to which images are shrunk; null = the recipe's"
    )
    sampling: SamplingConfig = Field(
        SamplingConfig(), description="sampling of tokens; max_tokens defaults to the recipe's"
    )
    adapter: str | dict[str, str] | None = Field(
        None,
        description="LoRA adapter to use, one of the engine's `adapters`: for all prompts, or prompt name → adapter",
    )

    @property
    def producer(self) -> str:
        """Name of this captioner as a producer of rows, in a table with several producers."""
        return f"caption-{self.name}"

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_recipe(cls, data: Any) -> Any:
        recipe = cls.model_fields["recipe"].default
        return {"name": data.get("recipe", recipe)} | data if isinstance(data, dict) else data

    @field_validator("name")
    @classmethod
    def _name_is_free(cls, name: str) -> str:
        if name == ORIGINAL:
            raise ValueError("is reserved for the captions that came with the images")
        return name

    @field_validator("recipe")
    @classmethod
    def _recipe_is_known(cls, recipe: str) -> str:
        if recipe not in RECIPES:
            raise ValueError(f"use one of {', '.join(RECIPES)}")
        return recipe

    # Filled in here, so that the recorded configuration, which a retry reads, is complete.
    @field_validator("llm")
    @classmethod
    def _llm_with_recipe(cls, llm: LlmConfig, info: ValidationInfo) -> LlmConfig:
        recipe = info.data.get("recipe")  # missing if it is invalid
        return llm if recipe is None else with_recipe(llm, RECIPES[recipe])

    @field_validator("sampling")
    @classmethod
    def _sampling_with_recipe(cls, sampling: SamplingConfig, info: ValidationInfo) -> SamplingConfig:
        recipe = info.data.get("recipe")
        return sampling if recipe is None else sampling_with_recipe(sampling, RECIPES[recipe])

    @field_validator("prompts", "spare_prompts")
    @classmethod
    def _prompt_names_are_free(cls, prompts: dict[str, str] | None) -> dict[str, str] | None:
        return None if prompts is None else _with_free_names(prompts)

    @model_validator(mode="after")
    def _names_fit(self) -> CaptionerConfig:
        prompts, spares = prompts_of(self)
        if twice := sorted(set(prompts) & set(spares)):
            raise ValueError(f"{twice[0]!r} is the name of both a prompt and a spare prompt")
        names = {*prompts, *spares}
        if isinstance(self.adapter, dict) and (unknown := sorted(set(self.adapter) - names)):
            raise ValueError(f"adapter is set for unknown prompt {unknown[0]!r}; prompts: {', '.join(sorted(names))}")
        return self


def prompts_of(config: CaptionerConfig) -> tuple[dict[str, str], dict[str, str]]:
    """(prompts, spare prompts): the configured ones or the recipe's; the recipe's spares only with its prompts."""
    recipe = RECIPES[config.recipe]
    spares = recipe.spare_prompts if config.prompts is None else {}
    return (
        recipe.prompts if config.prompts is None else config.prompts,
        spares if config.spare_prompts is None else config.spare_prompts,
    )


def adapters_of(config: CaptionerConfig) -> dict[str, str | None]:
    """Name of every prompt and spare prompt → its LoRA adapter, or None."""
    prompts, spares = prompts_of(config)
    own = config.adapter
    return {name: own.get(name) if isinstance(own, dict) else own for name in [*prompts, *spares]}


def _with_free_names(prompts: Mapping[str, str]) -> Mapping[str, str]:
    """Raise ValueError for a name that would make caption_ids ambiguous."""
    for name in prompts:
        if not re.fullmatch(NAME, name):
            raise ValueError(f"prompt name {name!r}: use lowercase letters, digits, '_', '.' and '-'")
        if name in GENERALIZE:
            raise ValueError(f"prompt name {name!r} is the name of a level of generalized captions")
    return prompts


@dataclass(frozen=True)
class Captioner:
    """A captioner with its recipe applied and its engine chosen.

    adapters: prompt name → LoRA adapter, or None. revision: identifies the weights or the endpoint's model.
    """

    name: str
    llm: LlmConfig
    prompts: dict[str, str]
    spare_prompts: dict[str, str]
    adapters: dict[str, str | None]
    language: str
    image_size: int
    sampling: SamplingConfig
    revision: str
    seed: int
    checks: ChecksConfig

    @property
    def producer(self) -> str:
        """Name of this captioner as a producer of rows, in a table with several producers."""
        return f"caption-{self.name}"

    @property
    def texts(self) -> list[str]:
        """The texts of all prompts and spare prompts."""
        return [*self.prompts.values(), *self.spare_prompts.values()]

    def identity(self) -> dict[str, Any]:
        """Everything that changes its captions."""
        return {
            "llm": identity(self.llm),
            # As lists, because the order determines which spare prompt replaces which rejected caption.
            "prompts": list(self.prompts.items()),
            "spare_prompts": list(self.spare_prompts.items()),
            "adapters": self.adapters,
            "language": self.language,
            "image_size": self.image_size,
            "sampling": self.sampling.identity(),
            "seed": self.seed,
            "checks": self.checks.identity(),
        }


def resolve(config: CaptionerConfig, checks: ChecksConfig, seed: int) -> Captioner:
    """Apply the recipe and choose the engine.

    Raises InputError for a missing model folder, or a recipe that needs remote code that is not allowed.
    """
    recipe, llm = RECIPES[config.recipe], config.llm
    if not llm.is_remote:
        model_folder(llm.model, recipe.repository)
    llm = llm.model_copy(update={"engine": resolve_engine(llm)})
    if recipe.needs_remote_code and llm.remote_code_commit is None and not llm.is_remote:
        raise InputError(
            f"captioner {config.name}: models of recipe {config.recipe} contain Python code that must be run",
            "review it, then set llm.remote_code_commit to the commit that you reviewed",
        )
    prompts, spares = prompts_of(config)
    if not prompts:
        raise InputError(f"captioner {config.name} has no prompts", "give at least one; its text may be empty")
    return Captioner(
        name=config.name,
        llm=llm,
        prompts=prompts,
        spare_prompts=spares,
        adapters=adapters_of(config),
        language=config.language or recipe.language,
        image_size=config.image_size or recipe.image_size,
        sampling=config.sampling,
        revision=revision(llm),
        seed=seed,
        checks=checks,
    )


def refuse_same_names(captioners: Sequence[CaptionerConfig]) -> None:
    """Raise ValueError if two captioners of one table have the same name."""
    twice = [name for name, n in Counter(c.name for c in captioners).items() if n > 1]
    if twice:
        raise ValueError(f"captioners are named twice: {', '.join(twice)}")


def refuse_too_few(captioners: Sequence[CaptionerConfig], min_captions: int) -> None:
    """Raise InputError if the captioners have fewer than `min_captions` different prompts.

    A prompt that is repeated for the same model would give the same caption.
    """
    asked = {
        (c.llm.model_dump_json(), c.sampling.model_dump_json(), adapters_of(c)[name], text)
        for c in captioners
        for name, text in prompts_of(c)[0].items()
    }
    if len(asked) < min_captions:
        raise InputError(
            f"min_captions = {min_captions}, but the captioners have {len(asked)} different prompts in total",
            "add a captioner or a prompt, or lower min_captions",
        )


def prompt_hash(llm: LlmConfig, prompt: str) -> str:
    """A hash (12 hex digits) of everything that the model reads besides the image or caption."""
    asked = json.dumps([prompt, llm.prompt_format, llm.template, llm.system], ensure_ascii=False)
    return hashlib.sha256(asked.encode()).hexdigest()[:12]


def _asked(captioner: Captioner, name: str, prompt: str) -> dict[str, Any]:
    """The columns that depend on the prompt."""
    return {
        "adapter": captioner.adapters[name],
        "prompt_name": name,
        "prompt_hash": prompt_hash(captioner.llm, prompt),
    }


class Caption(Stage):
    """IMAGES → CAPTIONS rows, one per image and prompt. Holds the engine."""

    heavy = True

    def __init__(self, captioner: Captioner, share: float = 1.0) -> None:
        """share: this worker's part of an endpoint's rate limit."""
        self.captioner, self.name = captioner, captioner.producer
        self.generator = build_generator(captioner.llm, share)

    def expand(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        """The rows of an image, without text and fate: one per prompt."""
        captioner = self.captioner
        return [
            {
                "caption_id": f"{item['row_id']}/{captioner.name}/{name}",
                "row_id": item["row_id"],
                "sample_id": item["sample_id"],
                "language": captioner.language,
                "captioner": captioner.name,
                "model": captioner.llm.model,
                "revision": captioner.revision,
            }
            | _asked(captioner, name, prompt)
            for name, prompt in captioner.prompts.items()
        ]

    def __call__(self, items: pa.Table) -> list[dict[str, Any]]:
        """Raises EngineDied."""
        rows: list[dict[str, Any]] = []
        images: dict[int, Any] = {}
        for item in items.to_pylist():
            image = pixels_of(item)
            for row in self.expand(item):
                if image is None:
                    row |= {field.name: item[field.name] for field in FATE}
                else:
                    images[len(rows)] = image
                rows.append(row)
        answered = self._answered([rows[place] for place in images], list(images.values()))
        for place, row in zip(images, answered, strict=True):
            rows[place] = row
        for name in self.captioner.spare_prompts:
            self._stand_in(name, rows, images)
        return rows

    def _stand_in(self, name: str, rows: list[dict[str, Any]], images: Mapping[int, Any]) -> None:
        """Ask one spare prompt about every image with a rejected caption; a good answer replaces the first of these.

        Kept captions of the image by other prompts do not matter. The set of rows per image must be known beforehand,
        for resuming, retrying and selecting "captioner/prompt" downstream.
        """
        first: dict[str, int] = {}
        for place in images:
            if rows[place]["outcome"] == outcomes.REJECTED:
                first.setdefault(rows[place]["row_id"], place)
        columns = _asked(self.captioner, name, self.captioner.spare_prompts[name])
        answered = self._answered(
            [rows[place] | columns for place in first.values()], [images[p] for p in first.values()]
        )
        for place, row in zip(first.values(), answered, strict=True):
            rows[place] = _instead(rows[place], row)

    def _answered(self, rows: list[dict[str, Any]], images: list[Any]) -> list[dict[str, Any]]:
        captioner = self.captioner
        questions = [self._question(row, image) for row, image in zip(rows, images, strict=True)]
        answers = ask(self.generator, questions, captioner.checks, self.name)
        return [row | answer.columns for row, answer in zip(rows, answers, strict=True)]

    def _question(self, row: dict[str, Any], image: Any) -> Question:
        captioner, caption_id, name = self.captioner, row["caption_id"], row["prompt_name"]
        is_spare = name in captioner.spare_prompts
        request = Request(
            id=caption_id,
            text=(captioner.spare_prompts if is_spare else captioner.prompts)[name],
            sampling=captioner.sampling,
            seed=seed_of(captioner.seed, f"{caption_id}/{name}" if is_spare else caption_id),
            image=image,
            adapter=row["adapter"],
        )
        return Question(request, partial(problem, language=captioner.language, config=captioner.checks))


def _instead(rejected: dict[str, Any], spare: dict[str, Any]) -> dict[str, Any]:
    """The row of a rejected caption after a spare prompt was asked; tokens and attempts of both are added.

    If the answer is rejected, too, nothing else changes. A failure makes the row an error, which can be retried.
    """
    cost = {}
    for name in ("attempts", "prompt_tokens", "completion_tokens"):
        counts = (rejected[name], spare[name])
        cost[name] = None if None in counts else sum(counts)
    if spare["outcome"] == outcomes.REJECTED:
        return rejected | cost
    if spare["outcome"] == outcomes.KEPT:
        cost["detail"] = f"instead of {rejected['prompt_name']}, which was rejected: {rejected['reason']}"
    return spare | cost
