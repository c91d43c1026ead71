"""Guidance rules: how the predictions with and without the prompt become one."""

from __future__ import annotations

import torch


def classifier_free_guidance(
    noise_pred_uncond: torch.Tensor, noise_pred_text: torch.Tensor, guidance_scale: float
) -> torch.Tensor:
    """ε = ε_uncond + s · (ε_text − ε_uncond)   (Ho & Salimans 2022, eq. 6 with s = 1 + w).

    Holds for v-prediction too, since v is affine in ε at fixed x_t. s = 1 is the plain conditional prediction.
    """
    return noise_pred_uncond + guidance_scale * (noise_pred_text - noise_pred_uncond)
