"""The training loop. It is independent of what is trained (recipe.py) and of where it runs (worker.py).

build → parallelize → optimizer → EMA → load → steps: loader ─▶ loss ─▶ backward ─▶ clip, AdamW, EMA ─▶ report
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from raysys.errors import InputError
from raysys.training.checkpoint import (
    CheckpointWriter,
    Trained,
    TrainState,
    check_resumable,
    named_parameters,
    read_state,
)
from raysys.training.draws import step_seed
from raysys.training.ema import Ema
from raysys.training.optim import build_optimizer, learning_rate_at, set_learning_rate
from raysys.training.parallel import (
    Agreement,
    gradients_stay_local,
    mean_over_ranks,
    parallelize,
    reshard,
    unwrapped,
    whole,
)
from raysys.training.progress import Window
from raysys.training.recipe import Batch, Recipe, Share
from raysys.training.run_config import RunConfig
from raysys.training.worker import Request, Worker


@dataclass(frozen=True)
class Finished:
    """The result of `fit`. `completed` is False if the training was asked to stop before max_steps."""

    step: int
    completed: bool
    metrics: dict[str, float]
    modules: dict[str, torch.nn.Module]
    """The modules with their trained weights, not the EMA; sharded under FSDP2."""
    ema: Ema


def fit(recipe: Recipe, run: RunConfig, worker: Worker) -> Finished:
    """Train up to `run.max_steps` optimizer steps, from the checkpoint `worker.load_from` if it is set.

    Every worker must call this. Samples, draws and updates are the same for any number of workers and any `parallel`,
    up to float rounding; a resumed run reproduces them bit for bit if the number of workers and `parallel` stay the
    same. On a stop request, a checkpoint is written before returning. Raises InputError for a checkpoint of another
    training, and FloatingPointError if the loss is not finite.
    """
    share = Share(worker.rank, worker.world_size, run.batch_size)
    run.check_workers(worker.world_size)
    devices = [worker.device] if worker.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        loop = _Loop(recipe, run, worker, share)
        try:
            return loop.run()
        finally:
            loop.loader.close()


class _Loop:
    """The objects of one worker's training, built in the order that FSDP2 requires."""

    def __init__(self, recipe: Recipe, config: RunConfig, worker: Worker, share: Share) -> None:
        self.recipe, self.config, self.worker, self.share = recipe, config, worker, share
        self.identity = {"run": config.identity(), "recipe": recipe.identity()}
        self.step, loader_state = 0, None
        state = None if worker.load_from is None else self._resumable(read_state(worker.load_from))
        self.modules = parallelize(recipe.build(), config.parallel, worker)
        inner = unwrapped(self.modules)
        parameters = named_parameters(inner)
        self.parameters = [p for _, p in parameters]
        self.optimizer = build_optimizer(self.parameters, config.optimizer)
        self.ema = Ema(parameters, config.ema_decay)
        self.trained, self.writer = Trained(inner, self.optimizer, self.ema), CheckpointWriter(worker)
        if state is not None:
            self.trained.load(worker.load_from, state, self.writer.group)
            self.step, loader_state = state.step, state.loader
        self.loader = recipe.loader(share, loader_state)

    def _resumable(self, state: TrainState) -> TrainState:
        check_resumable(state, self.identity)
        if state.step > self.config.max_steps:
            raise InputError(
                f"the checkpoint is at step {state.step}, beyond max_steps = {self.config.max_steps}",
                "raise max_steps, or start in a new folder",
            )
        return state

    def run(self) -> Finished:
        """Train until max_steps or a stop request; report metrics at log, validation and checkpoint steps."""
        config, worker = self.config, self.worker
        window, metrics, request = Window(config.batch_size, config.max_steps), {}, Request.NOTHING
        writer, agreement = self.writer, Agreement(worker.world_size)
        while self.step < config.max_steps and request is not Request.STOP:
            rate = learning_rate_at(self.step, config.optimizer, config.max_steps)
            with window.waiting():
                batch = next(self.loader)
            window.add(*self._optimizer_step(batch, rate))
            self.step += 1
            request, written = agreement.turn(worker.requested(), writer.written)
            if writer.writing and written == writer.writing:
                writer.publish()
            due = self._at(config.checkpoint_every_steps) or self.step == config.max_steps or request
            if due or self._at(config.log_every_steps) or self._at(config.validation_every_steps):
                metrics = window.close(self.step, rate, worker) | self._validation()
                worker.report(metrics)
            if due:
                writer.start(self.trained, self._state(), metrics)
        writer.publish()
        agreement.close()
        return Finished(self.step, self.step >= config.max_steps, metrics, self.modules, self.ema)

    def _at(self, every: int | None) -> bool:
        return every is not None and self.step % every == 0

    def _optimizer_step(self, batch: Batch, rate: float) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """One step on this worker's share of a global batch; returns (metrics, gradient norm before clipping).

        Losses are weighted by the size of their micro batch, so that the mean over workers of gradients and metrics is
        the mean over the samples of the global batch, even if shares differ in size.
        """
        config, share = self.config, self.share
        positions = share.positions(self.step)
        torch.manual_seed(step_seed(config.seed, self.step, share.rank))
        set_learning_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, torch.Tensor] = {}
        n_micro = config.gradient_accumulation_steps
        for k in range(n_micro):
            part = slice(len(share) * k // n_micro, len(share) * (k + 1) // n_micro)
            weight = (part.stop - part.start) * share.world_size / share.batch_size
            with gradients_stay_local(self.modules.values(), k + 1 < n_micro):
                with self._autocast():
                    loss, named = self.recipe.loss(self.modules, batch[part], positions[part])
                (loss * weight).backward()
            for name, value in {"loss": loss, **named}.items():
                totals[name] = totals.get(name, 0.0) + value.detach() * weight
        norm = whole(torch.nn.utils.clip_grad_norm_(self.parameters, config.optimizer.max_grad_norm))
        self.optimizer.step()
        self.ema.update()
        return totals, norm

    def _autocast(self) -> torch.autocast:
        enabled = self.config.mixed_precision == "bf16"
        return torch.autocast(self.worker.device.type, dtype=torch.bfloat16, enabled=enabled)

    def _validation(self) -> dict[str, float]:
        """The recipe's held-out metrics with the averaged weights, as validation_<name>; {} if none are due."""
        if not self._at(self.config.validation_every_steps):
            return {}
        modules, share = self.modules.values(), self.share
        reshard(modules)
        for module in modules:
            module.eval()
        with self.ema.swapped(), torch.no_grad(), self._autocast():
            found = self.recipe.validate(self.modules, share, self.config.validation_samples)
            reshard(modules)
        for module in modules:
            module.train()
        weight = len(share) * share.world_size / share.batch_size
        means = mean_over_ranks([x * weight for x in found.values()], share.world_size, self.worker.device)
        return {f"validation_{name}": mean for name, mean in zip(found, means, strict=True)}

    def _state(self) -> TrainState:
        return TrainState(self.step, self.loader.state(), self.ema.updates, self.identity, self.worker.world_size)
