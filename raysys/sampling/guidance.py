"""Guidance: which conditionings a denoiser is asked with at each step, and how its predictions become one.

A guidance object is immutable. What it carries from step to step (a momentum) is a state that the sampling loop hands
from one `combine` to the next, so that the same object serves any number of batches at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from raysys.models.family import Conditioning


@dataclass(frozen=True)
class Step:
    """Where the sampling stands."""

    index: int
    """0 for the first step."""
    count: int
    timestep: int
    """Of the training schedule: near T − 1 at the first step, near 0 at the last."""


class Guidance(Protocol):
    """Classifier-free guidance, or a rule with more branches (negative, prompt, a concept to avoid)."""

    def conditionings(self, prompts: Conditioning) -> list[Conditioning]:
        """The branches that the denoiser evaluates together, each for B samples; called once per batch."""

    def combine(self, predictions: Sequence[torch.Tensor], step: Step, state: Any) -> tuple[torch.Tensor, Any]:
        """The branches' predictions [B, C, h, w], in the order of `conditionings` → (the prediction to follow, the
        state for the next step). `state` is None at the first step."""


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """ε = ε_negative + s · (ε_prompt − ε_negative)   (Ho & Salimans 2022, arXiv 2207.12598, Eq. 6 with s = 1 + w).

    Holds for v-prediction too, since v is affine in ε at fixed x_t. s ≤ 1 switches guidance off, as in diffusers: the
    denoiser then runs on the prompts only.

    scale: s. negative: the states of "" or of what to avoid, of one sample or of B.
    """

    scale: float
    negative: Conditioning

    def conditionings(self, prompts: Conditioning) -> list[Conditioning]:
        if self.scale <= 1.0:
            return [prompts]
        return [self.negative.expand(len(prompts)), prompts]

    def combine(self, predictions: Sequence[torch.Tensor], step: Step, state: None) -> tuple[torch.Tensor, None]:
        if len(predictions) == 1:
            return predictions[0], None
        negative, prompt = predictions
        return negative + self.scale * (prompt - negative), None
