"""Initial noise that depends on an image's identity, not on the worker, the batch or the device."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch


def noise_seed(seed: int, *identity: object) -> int:
    """A 63-bit generator seed from the run's seed and an identity such as (prompt_id, index).

    BLAKE2b over length-prefixed parts: unlike `hash()`, the same in every process; ("a", "bc") and ("ab", "c") differ.
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *identity):
        data = str(part).encode()
        digest.update(len(data).to_bytes(8, "little") + data)
    return int.from_bytes(digest.digest(), "little") >> 1


def initial_noise(seed: int, prompt_id: str, index: int, shape: Sequence[int]) -> torch.Tensor:
    """Standard normal float32 noise [C, h, w] for image `index` of a prompt, always drawn on the CPU."""
    generator = torch.Generator("cpu").manual_seed(noise_seed(seed, prompt_id, index))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
