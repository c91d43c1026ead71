"""The diffusion training loop. It knows no engine: workers, wrapping and reports come in as arguments.

loader ─▶ BatchMaker (fusion, dropout, noise) ─▶ model ─▶ loss ─▶ clip, AdamW, EMA ─▶ report
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel

from raysys.errors import InputError
from raysys.fusion import FusionSet
from raysys.latents.parts import PartLoader, read_manifest, read_tables
from raysys.models.loading import load_noise_scheduler, load_unet
from raysys.models.schedule import build_noise_scheduler
from raysys.models.unet import build_unet
from raysys.training.batches import BatchMaker, ModelInputs, TextConditioning
from raysys.training.config import DiffusionTrainingConfig
from raysys.training.draws import step_seed
from raysys.training.ema import Ema
from raysys.training.objectives import diffusion_loss
from raysys.training.optim import build_optimiser, learning_rate_at, set_learning_rate
from raysys.training.progress import Window, mean_over_ranks
from raysys.training.state import TrainState, check_resumable, load_checkpoint, read_state, save_checkpoint


class Report(Protocol):
    """Called on every worker at the same steps. When a checkpoint is `due`, `checkpoint` is a complete folder on rank
    0, and None on the others; once the call returns it belongs to the callee, which keeps, uploads or deletes it."""

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None, due: bool) -> None: ...


@dataclass(frozen=True)
class Finished:
    """What a training ended with. `completed` is False when it was asked to stop before max_steps."""

    step: int
    completed: bool
    metrics: dict[str, float]
    model: torch.nn.Module  # the trained weights (not the average)
    ema: Ema


def build_model(config: DiffusionTrainingConfig) -> tuple[UNet2DConditionModel, DDPMScheduler]:
    """The U-Net to train, and its noise schedule: new from the seed, or those of `start_from`."""
    if config.start_from is None:
        return build_unet(config.unet, config.seed), build_noise_scheduler(config.noise_schedule)
    return load_unet(config.start_from).requires_grad_(True), load_noise_scheduler(config.start_from)


def train(
    config: DiffusionTrainingConfig,
    training_set: str | Path,
    *,
    text: TextConditioning,
    report: Report,
    checkpoint_root: str | Path,
    validation_set: str | Path | None = None,
    rank: int = 0,
    world_size: int = 1,
    device: torch.device | str = "cpu",
    wrap_model: Callable[[torch.nn.Module], torch.nn.Module] = lambda model: model,
    load_from: str | Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Finished:
    """Train up to `config.max_steps` optimiser steps on an assembled set; resume exactly from checkpoint `load_from`.

    `wrap_model` gets the model on its device (DDP, or nothing); workers are ranks of torch's default process group.
    Checkpoints are written to `<checkpoint_root>/step-00000500` by rank 0 and handed to `report`. `should_stop` is
    asked after each step (with several workers: at each log step, and one yes counts for all); a stop ends with a
    checkpoint. The same config gives the same samples, noise and dropout for any number of workers.
    """
    if config.batch_size % (world_size * config.gradient_accumulation_steps):
        raise InputError(
            f"batch_size = {config.batch_size} does not divide over {world_size} workers × "
            f"{config.gradient_accumulation_steps} micro steps",
            "choose a multiple",
        )
    fusion_set = None if config.fusion.level == "none" else FusionSet.from_tables(read_tables(config.fusion.set))
    with torch.random.fork_rng(devices=[device] if torch.device(device).type == "cuda" else []):
        loop = _Loop(config, Path(training_set), text, fusion_set, rank, world_size, device, wrap_model, load_from)
        loop.validation_set = validation_set
        with loop.loader:
            return loop.run(report, Path(checkpoint_root), should_stop)


class _Loop:
    """The objects of one worker's training, built once; `run` is the loop."""

    def __init__(
        self,
        config: DiffusionTrainingConfig,
        training_set: Path,
        text: TextConditioning,
        fusion_set: FusionSet | None,
        rank: int,
        world_size: int,
        device: torch.device | str,
        wrap_model: Callable[[torch.nn.Module], torch.nn.Module],
        load_from: str | Path | None,
    ) -> None:
        self.config, self.rank, self.world_size, self.device = config, rank, world_size, device
        manifest = read_manifest(training_set)
        self.set_identity = {
            "rows": manifest["rows"]["kept"],
            "parts": len(manifest["parts"]),
            "seed": manifest["seed"],
        }
        model, noise_scheduler = build_model(config)
        if config.gradient_checkpointing:
            model.enable_gradient_checkpointing()
        self.model = model.to(device).train()
        self.ema = Ema(self.model, config.ema_decay)
        self.optimiser = build_optimiser(self.model.parameters(), config.optimiser)
        self.step, loader_state = 0, None
        if load_from is not None:
            check_resumable(read_state(load_from), config, self.set_identity)
            state = load_checkpoint(load_from, self.model, self.ema, self.optimiser)
            self.step, loader_state = state.step, state.loader
        self.wrapped = wrap_model(self.model)
        self.loader = PartLoader(training_set, config.batch_size, rank, world_size, config.seed, loader_state)
        self.batches = BatchMaker(
            config, noise_scheduler.alphas_cumprod, noise_scheduler.config.prediction_type, text, fusion_set
        )
        self.validation_set: str | Path | None = None

    def run(self, report: Report, checkpoint_root: Path, should_stop: Callable[[], bool]) -> Finished:
        """Steps until max_steps or a stop, with a report at each log and checkpoint step."""
        config = self.config
        window, metrics, stopping = Window(config.batch_size, config.max_steps), {}, False
        while self.step < config.max_steps and not stopping:
            rate = learning_rate_at(self.step, config.optimiser, config.max_steps)
            with window.waiting():
                batch = next(self.loader)
            window.add(*self._optimiser_step(batch, rate))
            self.step += 1
            at_log = self.step % config.log_every_steps == 0
            stopping = self._stop_agreed(should_stop, at_log)
            due = self.step % config.checkpoint_every_steps == 0 or self.step == config.max_steps or stopping
            if at_log or due:
                metrics = window.close(self.step, rate, self.device) | self._validation()
                report(metrics, self._save(checkpoint_root) if due and self.rank == 0 else None, due)
        return Finished(self.step, self.step >= config.max_steps, metrics, self.model, self.ema)

    def _optimiser_step(self, batch: dict[str, Any], rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """One step over this worker's share of a global batch; returns (mean loss, gradient norm before clipping)."""
        config = self.config
        share = config.batch_size // self.world_size
        micro = share // config.gradient_accumulation_steps
        first = (self.loader.state().batches - 1) * config.batch_size + self.rank * share
        inputs = self.batches.make(batch, range(first, first + share))
        torch.manual_seed(step_seed(config.seed, self.step, self.rank))
        set_learning_rate(self.optimiser, rate)
        self.optimiser.zero_grad(set_to_none=True)
        total = torch.zeros((), device=self.device)
        for start in range(0, share, micro):
            last = start + micro == share
            # DDP sums gradients over workers in each backward pass unless told not to; once per step is enough.
            sync = nullcontext() if last or not hasattr(self.wrapped, "no_sync") else self.wrapped.no_sync()
            with sync:
                loss = self._loss(inputs.slice(start, start + micro, self.device)) / config.gradient_accumulation_steps
                loss.backward()
            total += loss.detach()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optimiser.max_grad_norm)
        self.optimiser.step()
        self.ema.update(self.model)
        return total, norm

    def _loss(self, inputs: ModelInputs) -> torch.Tensor:
        """Forward pass in the configured precision, loss in float32."""
        bf16 = self.config.mixed_precision == "bf16"
        with torch.autocast(torch.device(self.device).type, dtype=torch.bfloat16, enabled=bf16):
            output = self.wrapped(
                inputs.noisy_latents, inputs.timesteps, encoder_hidden_states=inputs.prompt_embeds
            ).sample
        return diffusion_loss(output, inputs.target, inputs.weights)

    def _stop_agreed(self, should_stop: Callable[[], bool], at_log: bool) -> bool:
        """Whether to stop; workers must agree, or one would wait forever for the others."""
        if self.world_size == 1:
            return should_stop()
        return at_log and mean_over_ranks([float(should_stop())], self.device)[0] > 0

    def _validation(self) -> dict[str, float]:
        """{"validation_loss"} when one is due: plain denoising loss on held-out samples, always the same noise."""
        config = self.config
        every = config.validation_every_steps
        if self.validation_set is None or every is None or self.step % every:
            return {}
        losses = []
        loader = PartLoader(self.validation_set, config.batch_size, self.rank, self.world_size, config.seed)
        share = config.batch_size // self.world_size
        with loader, torch.no_grad():
            for k in range(-(-config.validation_samples // config.batch_size)):
                first = k * config.batch_size + self.rank * share
                inputs = self.batches.make_plain(next(loader), range(first, first + share), stream=config.seed + 1)
                losses.append(float(self._loss(inputs.slice(0, share, self.device))))
        return {"validation_loss": mean_over_ranks([sum(losses) / len(losses)], self.device)[0]}

    def _save(self, root: Path) -> Path:
        state = TrainState(
            self.step,
            self.loader.state(),
            self.ema.updates,
            self.config.model_dump(mode="json"),
            self.set_identity,
        )
        return save_checkpoint(root / f"step-{self.step:08d}", self.model, self.ema, self.optimiser, state)
