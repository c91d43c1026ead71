"""Exponential moving average (EMA) of the weights: used for validation and for the exported model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch

from raysys.training.parallel import local_part


def ema_decay_at(updates: int, decay: float) -> float:
    """min(decay, (1 + n)/(10 + n)) after n updates, so that initial weights do not dominate the EMA of short runs."""
    return min(decay, (1 + updates) / (10 + updates))


class Ema:
    """shadow ← d·shadow + (1 − d)·weights, in float32, for parameters only (not for buffers).

    Under FSDP2 the average is sharded like the parameters, and each worker updates its own shard.
    """

    def __init__(self, parameters: Iterable[tuple[str, torch.nn.Parameter]], decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay = {decay} is outside [0, 1)")
        self.decay = decay
        self.updates = 0
        named = list(parameters)
        self._parameters = [p for _, p in named]
        self.shadow = {name: p.detach().float().clone() for name, p in named}

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights."""
        weight = 1.0 - ema_decay_at(self.updates, self.decay)
        parameters = [local_part(p.detach()).float() for p in self._parameters]
        torch._foreach_lerp_([local_part(x) for x in self.shadow.values()], parameters, weight)
        self.updates += 1

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Replace the model's weights by the average inside the block and restore them afterwards."""
        own = [local_part(p.detach()).clone() for p in self._parameters]
        self._set([local_part(x) for x in self.shadow.values()])
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: list[torch.Tensor]) -> None:
        for p, value in zip(self._parameters, values, strict=True):
            local_part(p.detach()).copy_(value)
