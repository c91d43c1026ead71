"""Claim: a step of raysys' diffusion training takes ≤ 1.10 × a bare PyTorch loop's, and hardly waits for data.

    python benchmarks/bench_training.py [--steps 10] [--repeats 12]

Bare loop: the same U-Net, batch size, AdamW and clipping, one batch kept in memory, noise by torch.randn, no average
of the weights, no dropout, no fusion. Ours: the part loader, per-sample noise, caption dropout, dual fusion, EMA.
Both run in turns in one process (ours for `steps` steps, bare for `steps` steps, …), so that other load on the machine
meets both; the claim is the median of the turns' ratios, by wall time and by CPU time (which counts the reader
thread too, and is the steadier one on a machine that also does other work).
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import record

from raysys.latents.assemble import assemble
from raysys.outcomes import kept
from raysys.rows import TRAINING_SET, array_to_bytes
from raysys.training.batches import TextConditioning
from raysys.training.config import DiffusionTrainingConfig
from raysys.training.diffusion import build_model, train

TOKENS, ROWS = 32, 256


def write_set(folder: Path, config: DiffusionTrainingConfig, n_rows: int) -> Path:
    """An assembled set of random latents and text states of the config's sizes."""
    rng = np.random.default_rng(0)
    unet = config.unet
    rows = []
    for i in range(n_rows):
        latents, shape = array_to_bytes(rng.standard_normal((unet.in_channels, unet.sample_size, unet.sample_size)))
        embeds, embeds_shape = array_to_bytes(rng.standard_normal((TOKENS, unet.cross_attention_dim)))
        arrays = {"latents": latents, "latents_shape": shape, "prompt_embeds": embeds}
        arrays |= {"prompt_embeds_shape": embeds_shape, "bucket": f"{unet.sample_size}x{unet.sample_size}"}
        rows.append({"row_id": f"{i}", "copy": 0, "caption": f"caption {i % 8}", **arrays, **kept()})
    assemble([TRAINING_SET.table(rows)], folder, seed=0, part_rows=64)
    return folder


def bare_loop(config: DiffusionTrainingConfig) -> Callable[[int], None]:
    """A function that runs n plain training steps on one batch in memory."""
    unet, scheduler = build_model(config)
    unet.train()
    optimiser = torch.optim.AdamW(unet.parameters(), lr=config.optimiser.learning_rate, fused=True)
    size = config.unet.sample_size
    latents = torch.randn(config.batch_size, config.unet.in_channels, size, size)
    embeds = torch.randn(config.batch_size, TOKENS, config.unet.cross_attention_dim)

    def run(n_steps: int) -> None:
        for _ in range(n_steps):
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (config.batch_size,))
            noisy = scheduler.add_noise(latents, noise, timesteps)
            output = unet(noisy, timesteps, encoder_hidden_states=embeds).sample
            loss = torch.nn.functional.mse_loss(output, noise)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(unet.parameters(), config.optimiser.max_grad_norm)
            optimiser.step()

    return run


class Turns:
    """The report hook: each report ends a turn of ours, runs a turn of the bare loop, and starts the next of ours."""

    def __init__(self, bare: Callable[[int], None], steps: int) -> None:
        self.bare, self.steps = bare, steps
        self.ours: list[np.ndarray] = []  # per turn: seconds per step of [wall, CPU] time
        self.plain: list[np.ndarray] = []
        self.wait_shares: list[float] = []
        self.started: np.ndarray | None = None

    def __call__(self, metrics: dict[str, float], checkpoint: Path | None, due: bool) -> None:
        ended = clocks()
        self.bare(self.steps)
        if self.started is not None:  # the first turn warms up both
            taken = ended - self.started
            self.ours.append(taken / self.steps)
            self.plain.append((clocks() - ended) / self.steps)
            # The metrics' window also holds the bare turn before it: rescale to the turn of ours.
            window = metrics["seconds_per_step"] * self.steps
            self.wait_shares.append(metrics["data_wait_share"] * window / taken[0])
        self.started = clocks()


def clocks() -> np.ndarray:
    """[wall, CPU of this process] in seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def measure(steps: int, repeats: int) -> dict[str, Any]:
    """Seconds per step of both, the median ratio over the turns, and the share of time ours waited for data."""
    with tempfile.TemporaryDirectory() as root:
        values = {"max_steps": steps * (repeats + 1), "log_every_steps": steps, "checkpoint_every_steps": 10**9}
        config = DiffusionTrainingConfig(**values)
        fusion = {"level": "embedding", "set": str(write_set(Path(root) / "fusion", config, 64))}
        config = DiffusionTrainingConfig.model_validate(values | {"fusion": fusion})
        training_set = write_set(Path(root) / "train", config, ROWS)
        text = TextConditioning(lambda captions: torch.zeros(len(captions), TOKENS, 128), tokenizer=None)
        turns = Turns(bare_loop(config), steps)
        train(config, training_set, text=text, report=turns, checkpoint_root=Path(root) / "checkpoints")
    ours, plain = np.stack(turns.ours), np.stack(turns.plain)
    ratios = ours / plain
    return {
        "ours_seconds_per_step": float(np.median(ours[:, 0])),
        "bare_seconds_per_step": float(np.median(plain[:, 0])),
        "ratio_ours_to_bare": float(np.median(ratios[:, 0])),
        "ratio_quartiles": np.percentile(ratios[:, 0], [25, 75]).tolist(),
        "ratio_ours_to_bare_cpu_time": float(np.median(ratios[:, 1])),
        "ratio_quartiles_cpu_time": np.percentile(ratios[:, 1], [25, 75]).tolist(),
        "data_wait_share": float(np.median(turns.wait_shares)),
        "batch_size": config.batch_size,
        "parameters": sum(p.numel() for p in build_model(config)[0].parameters()),
        "turns": len(ratios),
        "steps_per_turn": steps,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="training steps per turn")
    parser.add_argument("--repeats", type=int, default=12, help="turns of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as each of the demo's two trainings
    record("training", measure(arguments.steps, arguments.repeats))
