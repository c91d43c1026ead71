"""The configuration of a diffusion training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raysys.config import Config
from raysys.fusion import CaptionMitigationConfig, FusionConfig
from raysys.models.schedule import NoiseScheduleConfig
from raysys.models.unet import UNetConfig
from raysys.training.optim import OptimiserConfig


class DiffusionTrainingConfig(Config):
    """One training of the Stable Diffusion family. The defaults are the demo's."""

    unet: UNetConfig = Field(UNetConfig(), description="shape of a U-Net trained from scratch; unused with start_from")
    start_from: str | None = Field(None, description="folder of a diffusers pipeline or U-Net to fine-tune")
    noise_schedule: NoiseScheduleConfig = Field(
        NoiseScheduleConfig(), description="noise levels and prediction type (epsilon or v_prediction)"
    )
    optimiser: OptimiserConfig = Field(OptimiserConfig(), description="AdamW, learning rate, clipping")
    seed: int = Field(0, ge=0, description="seed of weights, sample order, noise, timesteps and dropout")
    max_steps: int = Field(1500, ge=1, description="optimiser steps")
    batch_size: int = Field(16, ge=1, description="samples per optimiser step, over all workers and micro steps")
    gradient_accumulation_steps: int = Field(1, ge=1, description="micro steps that one worker's share is cut into")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the weights' moving average, per optimiser step")
    caption_dropout: float = Field(
        0.1, ge=0, le=1, description="chance that a caption is replaced by the empty one; guidance needs it"
    )
    min_snr_gamma: float | None = Field(None, gt=0, description="Min-SNR loss weighting; null = plain mean")
    mixed_precision: Literal["no", "bf16"] = Field("no", description="type of the forward and backward pass")
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, about 30 % more time")
    fusion: FusionConfig = Field(FusionConfig(), description="dual fusion")
    caption_mitigation: CaptionMitigationConfig = Field(
        CaptionMitigationConfig(), description="a baseline mitigation on captions or text states"
    )
    log_every_steps: int = Field(20, ge=1, description="optimiser steps between two reports of metrics")
    checkpoint_every_steps: int = Field(500, ge=1, description="optimiser steps between two checkpoints")
    validation_every_steps: int | None = Field(
        None, ge=1, description="optimiser steps between two validation losses; null = none; needs a validation set"
    )
    validation_samples: int = Field(64, ge=1, description="samples of the validation loss")

    @model_validator(mode="after")
    def _consistent(self) -> DiffusionTrainingConfig:
        if self.batch_size % self.gradient_accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps = {self.gradient_accumulation_steps} does not divide "
                f"batch_size = {self.batch_size}"
            )
        return self

    @property
    def encodes_in_loop(self) -> bool:
        """Captions change from step to step, so the text encoder runs inside the loop."""
        return self.fusion.level == "token" or self.caption_mitigation.kind in (
            "random_caption",
            "word_repetition",
            "random_tokens",
        )
