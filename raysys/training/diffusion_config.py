"""Configuration of a diffusion training: denoiser, noise schedule, dropout, fusion and caption mitigation."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from raysys.config import OPERATIONAL, Config
from raysys.fusion import CaptionMitigationConfig, FusionConfig
from raysys.models.families import DenoiserConfig
from raysys.models.schedule import NoiseScheduleConfig


class DiffusionConfig(Config):
    """Configuration of the diffusion recipe. The defaults are the demo's."""

    denoiser: DenoiserConfig = Field(
        DenoiserConfig(),
        description="family and shape of a denoiser trained from scratch; with start_from only the family is used",
    )
    start_from: Annotated[str | None, OPERATIONAL] = Field(
        None, description="folder of a pipeline, or of its denoiser, to fine-tune; identified by its contents"
    )
    noise_schedule: NoiseScheduleConfig | None = Field(
        None,
        description="noise levels and prediction type (epsilon or v_prediction); replaces a schedule saved with "
        "start_from; null = the saved one, or Stable Diffusion's",
    )
    caption_dropout: float = Field(
        0.1, ge=0, le=1, description="probability of replacing a caption by the empty one; guidance needs it"
    )
    min_snr_gamma: float | None = Field(None, gt=0, description="Min-SNR loss weighting; null = plain mean")
    gradient_checkpointing: Annotated[bool, OPERATIONAL] = Field(
        False, description="recompute activations: less memory, about 30 % more time"
    )
    fusion: FusionConfig = Field(FusionConfig(), description="dual fusion")
    caption_mitigation: CaptionMitigationConfig = Field(
        CaptionMitigationConfig(), description="a baseline mitigation on captions or text states"
    )

    def identity(self) -> dict[str, Any]:
        """Without the noise schedule (the recipe adds the one in use) and, with start_from, without the shape."""
        found = super().identity()
        del found["noise_schedule"]
        if self.start_from is not None:
            found["denoiser"] = {"family": self.denoiser.family}
        return found

    @property
    def encodes_in_loop(self) -> bool:
        """Whether captions change from step to step, so that the text encoder must run inside the loop."""
        return self.fusion.level == "token" or self.caption_mitigation.kind in (
            "random_caption",
            "word_repetition",
            "random_tokens",
        )
