"""The pipeline's settings of captions: what the mitigated model learns in the place of the original ones."""

from __future__ import annotations

from pydantic import Field, model_validator

from raysys.captions.caption import ORIGINAL, prompts_of
from raysys.captions.generalize import GeneralizeConfig, Level
from raysys.config import Config
from raysys.jobs.caption import PooledCaptioner


class CaptionsConfig(Config):
    """New captions for the mitigated model; the baseline keeps the original ones."""

    captioners: tuple[PooledCaptioner, ...] = Field(
        (), description="caption every image by these models; none = the original captions are generalized"
    )
    min_captions: int = Field(2, ge=1, description="captions that an image should have")
    which: str | None = Field(
        None, description="captioner/prompt whose captions are generalized; null = the first prompt of the first one"
    )
    level: Level = Field("general", description="level that the mitigated model is trained on and prompted with")
    generalize: GeneralizeConfig = Field(GeneralizeConfig(), description="model and levels")

    @model_validator(mode="after")
    def _level_is_made(self) -> CaptionsConfig:
        if self.level not in self.generalize.levels:
            raise ValueError(f"level = {self.level} is none of generalize.levels = {self.generalize.levels}")
        return self

    @property
    def generalized_from(self) -> str:
        """What is generalized: the original captions, or captioner/prompt."""
        if not self.captioners:
            return ORIGINAL
        first = self.captioners[0]
        return self.which or f"{first.name}/{next(iter(prompts_of(first)[0]))}"
