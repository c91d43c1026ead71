"""Diffusion training objectives as pure functions. B: batch size; x: latents [B, C, h, w]; ᾱ_t = Π_{s≤t}(1 − β_s).

`alphas_cumprod` [T] comes from the noise scheduler, so training and sampling agree by construction.
"""

from __future__ import annotations

from typing import Literal

import torch

PredictionType = Literal["epsilon", "v_prediction"]


def add_noise(
    latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor, alphas_cumprod: torch.Tensor
) -> torch.Tensor:
    """x_t = √ᾱ_t·x_0 + √(1 − ᾱ_t)·ε (Ho et al. 2020, arXiv 2006.11239, Eq. 4); timesteps int64 [B]."""
    signal, sigma = _signal_and_noise(timesteps, alphas_cumprod, latents)
    return signal * latents + sigma * noise


def prediction_target(
    latents: torch.Tensor,
    noise: torch.Tensor,
    timesteps: torch.Tensor,
    alphas_cumprod: torch.Tensor,
    prediction_type: PredictionType,
) -> torch.Tensor:
    """What the model must predict: ε, or v = √ᾱ_t·ε − √(1 − ᾱ_t)·x_0 (Salimans & Ho 2022, arXiv 2202.00512)."""
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "v_prediction":
        signal, sigma = _signal_and_noise(timesteps, alphas_cumprod, latents)
        return signal * noise - sigma * latents
    raise ValueError(f"prediction_type = {prediction_type!r}; allowed: epsilon, v_prediction")


def diffusion_loss(
    model_output: torch.Tensor, target: torch.Tensor, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean squared error as a float32 scalar; `weights` [B] multiply each sample's mean."""
    error = (model_output.float() - target.float()).square().flatten(1).mean(1)
    return error.mean() if weights is None else (weights * error).mean()


def snr(timesteps: torch.Tensor, alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """Signal-to-noise ratio ᾱ_t/(1 − ᾱ_t), [B]."""
    alphas = alphas_cumprod.to(timesteps.device)[timesteps].double()
    return (alphas / (1 - alphas)).float()


def min_snr_weights(
    timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, gamma: float, prediction_type: PredictionType
) -> torch.Tensor:
    """Min-SNR-γ loss weights [B] (Hang et al. 2023, arXiv 2303.09556): min(SNR, γ)/SNR for ε, …/(SNR + 1) for v.

    The paper uses γ = 5. At SNR = 0 (zero-terminal-SNR schedules) the weights are their limits: 1 for ε, 0 for v.
    """
    ratio = snr(timesteps, alphas_cumprod)
    clipped = ratio.clamp(max=gamma)
    if prediction_type == "epsilon":
        return torch.where(ratio > 0, clipped / ratio.clamp(min=1e-30), torch.ones_like(ratio))
    return clipped / (ratio + 1)


def _signal_and_noise(
    timesteps: torch.Tensor, alphas_cumprod: torch.Tensor, like: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(√ᾱ_t, √(1 − ᾱ_t)) as [B, 1, 1, 1], with the dtype and device of `like`."""
    alphas = alphas_cumprod.to(like.device, like.dtype)[timesteps].view(-1, *[1] * (like.dim() - 1))
    return alphas.sqrt(), (1 - alphas).sqrt()
