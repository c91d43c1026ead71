"""Training settings that do not depend on the recipe: steps, batches, precision, optimizer, EMA, intervals, workers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from raysys.config import OPERATIONAL, Config
from raysys.errors import InputError
from raysys.training.optim import OptimizerConfig

Parallel = Literal["auto", "none", "ddp", "fsdp2"]


class RunConfig(Config):
    """The part of the training configuration that all recipes share. The defaults are the demo's."""

    seed: int = Field(0, ge=0, description="seed for weights, sample order, noise and dropout")
    max_steps: int = Field(1500, ge=1, description="optimizer steps")
    batch_size: int = Field(16, ge=1, description="samples per optimizer step, over all workers and micro steps")
    optimizer: OptimizerConfig = Field(OptimizerConfig(), description="AdamW, learning rate, clipping")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="decay of the weights' moving average, per optimizer step")
    mixed_precision: Literal["no", "bf16"] = Field("no", description="dtype of the forward and backward pass")
    parallel: Annotated[Parallel, OPERATIONAL] = Field(
        "auto",
        description="with several workers: ddp = each holds the whole model; fsdp2 = each holds a shard of weights, "
        "gradients, optimizer state and EMA; auto = ddp; none = one worker only",
    )
    gradient_accumulation_steps: Annotated[int, OPERATIONAL] = Field(
        1, ge=1, description="micro steps into which each worker's share of a batch is split"
    )
    log_every_steps: Annotated[int, OPERATIONAL] = Field(
        20, ge=1, description="optimizer steps between two metrics records"
    )
    checkpoint_every_steps: Annotated[int, OPERATIONAL] = Field(
        500, ge=1, description="optimizer steps between two checkpoints"
    )
    validation_every_steps: Annotated[int | None, OPERATIONAL] = Field(
        None, ge=1, description="optimizer steps between two validations; null = none; needs a validation set"
    )
    validation_samples: Annotated[int, OPERATIONAL] = Field(64, ge=1, description="samples per validation")

    @model_validator(mode="after")
    def _consistent(self) -> RunConfig:
        if self.gradient_accumulation_steps > self.batch_size:
            raise ValueError(
                f"gradient_accumulation_steps = {self.gradient_accumulation_steps} is above "
                f"batch_size = {self.batch_size}"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """Without max_steps if the learning rate does not depend on it: training longer then continues the same run."""
        found = super().identity()
        if self.optimizer.schedule == "constant_with_warmup":
            del found["max_steps"]
        return found

    def check_workers(self, n_workers: int) -> None:
        """Raise InputError if the batch is too small: each worker needs at least one sample in every micro step."""
        if self.batch_size // n_workers < self.gradient_accumulation_steps:
            raise InputError(
                f"batch_size = {self.batch_size} over {n_workers} workers gives one of them only "
                f"{self.batch_size // n_workers} samples, fewer than gradient_accumulation_steps = "
                f"{self.gradient_accumulation_steps}",
                "raise batch_size, or use fewer workers or micro steps",
            )
