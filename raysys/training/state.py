"""Checkpoints for exact resume: weights, average, optimiser, position. Nothing in them runs code when loaded.

    model.safetensors  ema.safetensors  optimiser.pt (torch, loaded with weights_only=True)  state.json

There is no generator state: every random number is a function of (seed, sample position) or (seed, step, rank)
(training/draws.py), and step and position are saved. The learning rate is a function of the step.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from raysys.errors import InputError
from raysys.latents.parts import LoaderState
from raysys.training.config import DiffusionTrainingConfig
from raysys.training.ema import Ema

MODEL, EMA, OPTIMISER, STATE = "model.safetensors", "ema.safetensors", "optimiser.pt", "state.json"
FREE_ON_RESUME = (
    "log_every_steps",
    "checkpoint_every_steps",
    "validation_every_steps",
    "validation_samples",
    "gradient_accumulation_steps",
    "gradient_checkpointing",
    "start_from",
)
"""Config keys that do not change the result (beyond float rounding), so a resumed run may have other values."""


@dataclass(frozen=True)
class TrainState:
    """Where a training stands: after `step` optimiser steps, `loader` batches consumed."""

    step: int
    loader: LoaderState
    ema_updates: int
    config: dict[str, Any]
    training_set: dict[str, Any]
    """{"rows", "parts", "seed"} of the manifest: the position means nothing in another set."""


def save_checkpoint(
    folder: Path, model: torch.nn.Module, ema: Ema, optimiser: torch.optim.Optimizer, state: TrainState
) -> Path:
    """Write a checkpoint folder; it appears complete, by one rename, replacing one of the same name."""
    staging = folder.with_name(f"_{folder.name}")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    save_file({name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()}, staging / MODEL)
    save_file({name: x.cpu().contiguous() for name, x in ema.shadow.items()}, staging / EMA)
    torch.save(optimiser.state_dict(), staging / OPTIMISER)
    content = {
        "step": state.step,
        "loader": state.loader.as_dict(),
        "ema_updates": state.ema_updates,
        "config": state.config,
        "training_set": state.training_set,
    }
    (staging / STATE).write_text(json.dumps(content, indent=2), encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    staging.rename(folder)
    return folder


def read_state(folder: str | Path) -> TrainState:
    """The position saved in a checkpoint; InputError when the folder is not a complete checkpoint."""
    folder = Path(folder)
    if missing := [name for name in (STATE, MODEL, EMA, OPTIMISER) if not (folder / name).is_file()]:
        raise InputError(f"{folder} is no complete checkpoint: {missing} missing", "name an older checkpoint folder")
    data = json.loads((folder / STATE).read_text(encoding="utf-8"))
    return TrainState(
        data["step"],
        LoaderState.from_dict(data["loader"]),
        data["ema_updates"],
        data["config"],
        data["training_set"],
    )


def load_checkpoint(
    folder: str | Path, model: torch.nn.Module, ema: Ema, optimiser: torch.optim.Optimizer
) -> TrainState:
    """Load a checkpoint into freshly built objects, on the devices where they are; return the position."""
    folder = Path(folder)
    state = read_state(folder)
    model.load_state_dict(load_file(folder / MODEL))
    ema.load(load_file(folder / EMA), state.ema_updates)
    optimiser.load_state_dict(torch.load(folder / OPTIMISER, map_location="cpu", weights_only=True))
    return state


def check_resumable(state: TrainState, config: DiffusionTrainingConfig, training_set: dict[str, Any]) -> None:
    """InputError naming every difference that would make the resumed run another run."""
    free = set(FREE_ON_RESUME)
    if config.optimiser.schedule == "constant_with_warmup":
        free.add("max_steps")  # the rate does not depend on it: training longer is the same run
    now = config.model_dump(mode="json")
    changes = [
        f"{key}: {state.config.get(key)!r} → {now[key]!r}"
        for key in now
        if key not in free and now[key] != state.config.get(key)
    ]
    if state.training_set != training_set:
        changes.append(f"training set: {state.training_set} → {training_set}")
    if changes:
        raise InputError(
            f"the checkpoint of step {state.step} belongs to another training: " + "; ".join(changes),
            "restore these values, or start in a new folder",
        )
