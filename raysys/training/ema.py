"""Exponential moving average of the weights: what is sampled from and saved."""

from __future__ import annotations

import torch


def ema_decay_at(updates: int, decay: float) -> float:
    """min(decay, (1 + n)/(10 + n)) after n updates: short runs are not dominated by the random start weights."""
    return min(decay, (1 + updates) / (10 + updates))


class Ema:
    """shadow ← d·shadow + (1 − d)·weights, in float32. Covers parameters; buffers stay the model's."""

    def __init__(self, model: torch.nn.Module, decay: float) -> None:
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"decay = {decay} is outside [0, 1)")
        self.decay = decay
        self.updates = 0
        self.shadow = {name: p.detach().float().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self, model: torch.nn.Module) -> None:
        """Move the average towards the model's weights."""
        weight = 1.0 - ema_decay_at(self.updates, self.decay)
        parameters = [p.detach().float() for p in self._parameters(model)]
        torch._foreach_lerp_(list(self.shadow.values()), parameters, weight)
        self.updates += 1

    @torch.no_grad()
    def copy_to(self, model: torch.nn.Module) -> None:
        """Overwrite the model's weights by the average."""
        for own, p in zip(self.shadow.values(), self._parameters(model), strict=True):
            p.copy_(own)

    def load(self, shadow: dict[str, torch.Tensor], updates: int) -> None:
        """Take over a saved average; the names must be the same."""
        if shadow.keys() != self.shadow.keys():
            raise ValueError(f"saved average has other weights: {sorted(shadow.keys() ^ self.shadow.keys())[:5]}")
        for name, value in shadow.items():
            self.shadow[name].copy_(value)
        self.updates = updates

    def _parameters(self, model: torch.nn.Module) -> list[torch.nn.Parameter]:
        named = dict(model.named_parameters())
        return [named[name] for name in self.shadow]
