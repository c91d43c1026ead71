"""The random numbers of a training step, drawn per sample from (seed, position in the sample sequence).

They depend on the sample, not on the worker, micro batch or device: 1 worker with batch 16 and 2 workers with batch 8
see the same noise, and a resumed run needs no generator state. A plain and a mitigated run with the same seed also
share them: each sample draws the same numbers in the same order, whether they are used or not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch


def sample_rng(seed: int, stream: str, position: int) -> np.random.Generator:
    """A counter-based generator (Philox) keyed by seed and stream, starting at `position`.

    It is cheap to create, and the numbers of two positions never overlap. Draws for different purposes use different
    streams ("diffusion", "fusion"), which are independent.
    """
    key = hashlib.blake2b(f"{seed}\x00{stream}".encode(), digest_size=16).digest()
    # The position is the counter's highest word: each position has its own 2^192 numbers.
    return np.random.Generator(
        np.random.Philox(key=np.frombuffer(key, dtype="<u8"), counter=np.array([0, 0, 0, position], dtype=np.uint64))
    )


@dataclass(frozen=True)
class Draws:
    """The random draws of a batch of b samples."""

    noise: torch.Tensor  # [b, C, h, w] standard normal, float32
    timesteps: torch.Tensor  # int64 [b], uniform in 0 … T − 1
    caption_dropped: torch.Tensor  # bool [b]


def draw_batch(
    seed: int, positions: Sequence[int], shape: Sequence[int], num_train_timesteps: int, caption_dropout: float
) -> Draws:
    """Noise of `shape` [C, h, w], a timestep and the dropout decision for each position."""
    noise = np.empty((len(positions), *shape), dtype=np.float32)
    timesteps, dropped = [], []
    for k, position in enumerate(positions):
        rng = sample_rng(seed, "diffusion", position)
        timesteps.append(int(rng.integers(num_train_timesteps)))
        dropped.append(bool(rng.random() < caption_dropout))
        rng.standard_normal(out=noise[k], dtype=np.float32)
    return Draws(torch.from_numpy(noise), torch.tensor(timesteps), torch.tensor(dropped))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of torch's global generator for one step on one worker; only dropout inside modules uses it."""
    digest = hashlib.blake2b(f"{seed}\x00step\x00{step}\x00{rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
