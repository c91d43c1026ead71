"""Pixels ↔ scaled latents by a diffusers `AutoencoderKL`."""

from __future__ import annotations

import numpy as np
import torch
from diffusers import AutoencoderKL

from raysys.models.pixels import pixel_values_to_images


class SdAutoencoder:
    """A KL autoencoder. Latents are multiplied by its `scaling_factor`, which gives a variance of about 1."""

    def __init__(self, model: AutoencoderKL) -> None:
        self.model = model

    @property
    def latent_channels(self) -> int:
        return self.model.config.latent_channels

    @property
    def downscale(self) -> int:
        """2^(levels − 1), e.g. 8."""
        return 2 ** (len(self.model.config.block_out_channels) - 1)

    @torch.inference_mode()
    def encode(self, pixel_values: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """Without `noise`, the mean of the posterior; with standard normal noise, the sample mean + std·noise
        (Kingma & Welling 2014)."""
        posterior = self.model.encode(pixel_values.to(self.model.device, self.model.dtype)).latent_dist
        latents = posterior.mean if noise is None else posterior.mean + posterior.std * noise.to(posterior.mean)
        return latents.to(torch.float32) * self.model.config.scaling_factor

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> np.ndarray:
        unscaled = latents.to(device=self.model.device, dtype=self.model.dtype) / self.model.config.scaling_factor
        return pixel_values_to_images(self.model.decode(unscaled).sample)
