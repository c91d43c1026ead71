"""Guidance: which conditionings the denoiser is evaluated with at each step, and how its predictions are combined.

A guidance object is immutable. A state (such as a momentum) is passed by the sampling loop from one `combine` to the
next, so that the same object can be used for several batches at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from raysys.models.family import Conditioning


@dataclass(frozen=True)
class Step:
    """The current sampling step."""

    index: int
    """0 for the first step."""
    count: int
    timestep: int
    """Timestep of the training schedule: near T − 1 at the first step, near 0 at the last."""


class Guidance(Protocol):
    """Classifier-free guidance, or a rule with more branches (negative, prompt, a concept to avoid)."""

    def conditionings(self, prompts: Conditioning) -> list[Conditioning]:
        """The conditionings of all branches, each for B samples; evaluated together. Called once per batch."""

    def combine(self, predictions: Sequence[torch.Tensor], step: Step, state: Any) -> tuple[torch.Tensor, Any]:
        """The branches' predictions [B, C, h, w], in the order of `conditionings` → (combined prediction, state for the
        next step). `state` is None at the first step."""


@dataclass(frozen=True)
class ClassifierFreeGuidance:
    """ε = ε_negative + s · (ε_prompt − ε_negative)   (Ho & Salimans 2022, arXiv 2207.12598, Eq. 6 with s = 1 + w).

    Also valid for v-prediction, because v is affine in ε at fixed x_t. As in diffusers, s ≤ 1 disables guidance: the
    denoiser is then evaluated for the prompts only.

    scale: s. negative: the conditioning of "" or of a negative prompt, for one sample or for B.
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
