"""Configuration of dual fusion and of the baseline mitigations."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from raysys.config import OPERATIONAL, Config


class FusionConfig(Config):
    """Dual fusion. Defaults are the paper's best setting (embedding level, w_lat 0.1, w_emb 0.5)."""

    level: Literal["none", "embedding", "token"] = Field(
        "none",
        description="none = plain training; embedding = mix latents and text states; token = mix latents and captions",
    )
    w_lat: float = Field(0.1, ge=0, le=1, description="weight of the fusion image's latents (Eq. 1); 0 = none")
    w_emb: float = Field(
        0.5, ge=0, le=1, description="weight of the fusion caption's states (Eq. 2); embedding level only"
    )
    set: Annotated[str | None, OPERATIONAL] = Field(
        None,
        description="folder of the assembled fusion set, identified by its contents; each distinct caption is a class",
    )

    @model_validator(mode="after")
    def _needs_set(self) -> FusionConfig:
        if self.level != "none" and not self.set:
            raise ValueError(f"level {self.level!r} needs a fusion set; give its folder in `set`")
        return self


class CaptionMitigationConfig(Config):
    """A baseline mitigation applied to captions or text states during training (GN, RC, CWR or RT)."""

    kind: Literal["none", "gaussian_noise", "random_caption", "word_repetition", "random_tokens"] = Field(
        "none", description="gaussian_noise changes the text states, the others rewrite the caption"
    )
    probability: float = Field(0.4, ge=0, le=1, description="probability of rewriting a caption, per sample and step")
    scale: float = Field(0.1, ge=0, description="gaussian_noise: standard deviation of the noise on the text states")
