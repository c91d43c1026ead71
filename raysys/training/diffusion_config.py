"""What a diffusion training learns: the denoiser, its noise, and what is done to images and captions."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from raysys.config import OPERATIONAL, Config
from raysys.fusion import CaptionMitigationConfig, FusionConfig
from raysys.models.families import DenoiserConfig
from raysys.models.schedule import NoiseScheduleConfig


class DiffusionConfig(Config):
    """The recipe of a denoiser. The defaults are the demo's."""

    denoiser: DenoiserConfig = Field(
        DenoiserConfig(),
        description="family and shape of a denoiser trained from scratch; start_from has its own shape",
    )
    start_from: Annotated[str | None, OPERATIONAL] = Field(
        None, description="folder of a pipeline or of its denoiser to fine-tune; counts by its contents"
    )
    noise_schedule: NoiseScheduleConfig | None = Field(
        None,
        description="noise levels and prediction type (epsilon or v_prediction); null = those saved with start_from, "
        "or Stable Diffusion's; a schedule that is set replaces the saved one",
    )
    caption_dropout: float = Field(
        0.1, ge=0, le=1, description="chance that a caption is replaced by the empty one; guidance needs it"
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
        """Without the shape where start_from has one, and without the schedule: a recipe adds the one that is used."""
        found = super().identity()
        del found["noise_schedule"]
        if self.start_from is not None:
            found["denoiser"] = {"family": self.denoiser.family}
        return found

    @property
    def encodes_in_loop(self) -> bool:
        """Captions change from step to step, so the text encoder runs inside the loop."""
        return self.fusion.level == "token" or self.caption_mitigation.kind in (
            "random_caption",
            "word_repetition",
            "random_tokens",
        )
