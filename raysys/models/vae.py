"""Pixels ↔ scaled latents: pure functions on an `AutoencoderKL`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from diffusers import AutoencoderKL

PIXEL_SHIFT = 127.5
"""uint8 x ↔ x/127.5 − 1 in [−1, 1], the range every Stable Diffusion VAE is trained on."""


def downscale(vae: AutoencoderKL) -> int:
    """Image pixels per latent pixel along one side: 2^(levels − 1), e.g. 8."""
    return 2 ** (len(vae.config.block_out_channels) - 1)


def images_to_pixel_values(images: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 RGB images [H, W, 3] of one size → float32 [N, 3, H, W] in [−1, 1]."""
    array = np.stack(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"expected uint8 images [H, W, 3], got {array.dtype} {array.shape[1:]}")
    return torch.from_numpy(array).permute(0, 3, 1, 2).to(torch.float32) / PIXEL_SHIFT - 1.0


def pixel_values_to_images(pixel_values: torch.Tensor) -> np.ndarray:
    """[N, 3, H, W] in [−1, 1] (values outside are clipped) → uint8 [N, H, W, 3].

    Rounds as diffusers' image processor does, so that our images equal a pipeline's.
    """
    unit = (pixel_values.to(torch.float32) * 0.5 + 0.5).clamp(0.0, 1.0)
    return (unit.permute(0, 2, 3, 1).cpu().numpy() * 255.0).round().astype(np.uint8)


@torch.inference_mode()
def encode_pixel_values(
    vae: AutoencoderKL, pixel_values: torch.Tensor, noise: torch.Tensor | None = None
) -> torch.Tensor:
    """[N, 3, H, W] in [−1, 1] → float32 latents [N, C, H/f, W/f], multiplied by the VAE's scaling_factor.

    Without `noise` the mode (mean) of the posterior is taken; with standard normal `noise` of the latents' shape a
    sample mean + std·noise (Kingma & Welling 2014), so that the caller owns the randomness.
    """
    posterior = vae.encode(pixel_values.to(device=vae.device, dtype=vae.dtype)).latent_dist
    latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)
    return latents.to(torch.float32) * vae.config.scaling_factor


@torch.inference_mode()
def decode_latents(vae: AutoencoderKL, latents: torch.Tensor) -> np.ndarray:
    """Scaled latents [N, C, h, w] → uint8 images [N, h·f, w·f, 3]. Not-a-number latents are the caller's to catch."""
    unscaled = latents.to(device=vae.device, dtype=vae.dtype) / vae.config.scaling_factor
    return pixel_values_to_images(vae.decode(unscaled).sample)
