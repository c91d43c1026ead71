"""Claim: a step of raysys' training takes ≤ 1.10 × a bare PyTorch loop's, and hardly waits for data.

    python benchmarks/bench_training.py [--steps 10] [--repeats 12]

Twice: in one process, and with FSDP2 on two processes (gloo) against a bare FSDP2 loop on the same two.
Bare loop: the same U-Net, batch size, AdamW and clipping, one batch kept in memory, noise by torch.randn, no average
of the weights, no dropout, no fusion. Ours: the part loader, per-sample noise, caption dropout, dual fusion, EMA.
Both run in turns in one process (ours for `steps` steps, bare for `steps` steps, …), so that other load on the machine
meets both; the claim is the median of the turns' ratios, by wall time and by CPU time (which counts the reader
thread too, and is the steadier one on a machine that also does other work).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from common import record
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn

from raysys.latents.assemble import assemble
from raysys.models.family import Conditioning, EncodedCaptions
from raysys.outcomes import kept
from raysys.rows import TRAINING_SET, array_to_bytes
from raysys.training.diffusion import DiffusionRecipe, build_denoiser
from raysys.training.diffusion_config import DiffusionConfig
from raysys.training.local_worker import LocalWorker
from raysys.training.loop import fit
from raysys.training.run_config import RunConfig

TOKENS, ROWS = 32, 256


class Text:
    """A text encoder that is asked for the empty caption only."""

    tokenizer = None
    max_length = TOKENS

    def encode(self, captions) -> EncodedCaptions:
        return EncodedCaptions(Conditioning(torch.zeros(len(captions), TOKENS, 128)), [2] * len(captions))


def write_set(folder: Path, n_rows: int) -> Path:
    """An assembled set of random latents and text states of the default denoiser's sizes."""
    rng = np.random.default_rng(0)
    shape = DiffusionConfig().denoiser
    rows = []
    for i in range(n_rows):
        size = (shape.in_channels, shape.sample_size, shape.sample_size)
        latents, latents_shape = array_to_bytes(rng.standard_normal(size))
        states, states_shape = array_to_bytes(rng.standard_normal((TOKENS, shape.cross_attention_dim)))
        row = {"row_id": f"{i}", "copy": 0, "captions": [f"caption {i % 8}"], "latents": latents}
        row |= {"latents_shape": latents_shape, "bucket": f"{shape.sample_size}x{shape.sample_size}"}
        row |= {"text_states": states, "text_states_shapes": [states_shape], "text_states_dtype": "float16"}
        rows.append({**row, **kept()})
    assemble([TRAINING_SET.table(rows)], folder, seed=0, part_rows=64)
    return folder


def bare_loop(run: RunConfig, world_size: int) -> Callable[[int], None]:
    """A function that runs n plain training steps on one batch in memory; sharded by FSDP2 when there are workers."""
    denoiser = build_denoiser(DiffusionConfig(), run.seed).train()
    if world_size > 1:
        for block in denoiser.blocks():
            fully_shard(block)
        fully_shard(denoiser)
    optimizer = torch.optim.AdamW(denoiser.parameters(), lr=run.optimizer.learning_rate, fused=True)
    scheduler, batch = denoiser.noise_scheduler, run.batch_size // world_size
    latents = torch.randn(batch, *denoiser.latents_shape)
    conditioning = Conditioning(torch.randn(batch, TOKENS, DiffusionConfig().denoiser.cross_attention_dim))

    def steps(n_steps: int) -> None:
        for _ in range(n_steps):
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, scheduler.config.num_train_timesteps, (batch,))
            output = denoiser(scheduler.add_noise(latents, noise, timesteps), timesteps, conditioning)
            loss = torch.nn.functional.mse_loss(output, noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(denoiser.parameters(), run.optimizer.max_grad_norm)
            optimizer.step()

    return steps


class Turns:
    """The report hook: each report ends a turn of ours, runs a turn of the bare loop, and starts the next of ours."""

    def __init__(self, bare: Callable[[int], None], steps: int) -> None:
        self.bare, self.steps = bare, steps
        self.ours: list[np.ndarray] = []  # per turn: seconds per step of [wall, CPU] time
        self.plain: list[np.ndarray] = []
        self.wait_shares: list[float] = []
        self.started: np.ndarray | None = None

    def __call__(self, metrics: dict[str, float]) -> None:
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


def measure(root: Path, steps: int, repeats: int, rank: int = 0, world_size: int = 1) -> dict[str, Any]:
    """Seconds per step of both, the median ratio over the turns, and the share of time ours waited for data."""
    cadence = {"max_steps": steps * (repeats + 1), "log_every_steps": steps, "checkpoint_every_steps": 10**9}
    run = RunConfig(**cadence, parallel="fsdp2" if world_size > 1 else "auto")
    config = DiffusionConfig.model_validate({"fusion": {"level": "embedding", "set": str(root / "fusion")}})
    turns = Turns(bare_loop(run, world_size), steps)
    worker = LocalWorker(root / f"checkpoints-{world_size}", rank, world_size, on_report=turns)
    fit(DiffusionRecipe(config, run.seed, root / "train", None, Text()), run, worker)
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
        "batch_size": run.batch_size,
        "workers": world_size,
        "parameters": sum(p.numel() for p in build_denoiser(config, 0).parameters()),
        "turns": len(ratios),
        "steps_per_turn": steps,
    }


def sharded(rank: int, root: Path, steps: int, repeats: int) -> None:
    """One of two FSDP2 workers; rank 0 leaves its measurement as a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2)
    found = measure(root, steps, repeats, rank, 2)
    if rank == 0:
        (root / "fsdp2.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=10, help="training steps per turn")
    parser.add_argument("--repeats", type=int, default=12, help="turns of each")
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # as each of the demo's two trainings
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        write_set(place / "train", ROWS)
        write_set(place / "fusion", 64)
        results = measure(place, arguments.steps, arguments.repeats)
        spawn(sharded, (place, arguments.steps, arguments.repeats), nprocs=2)
        results["fsdp2"] = json.loads((place / "fsdp2.json").read_text())
    record("training", results)
