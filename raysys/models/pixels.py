"""uint8 images ↔ the pixel values that autoencoders and image encoders use."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

PIXEL_SHIFT = 127.5
"""uint8 x ↔ x/127.5 − 1 in [−1, 1], the range that latent-diffusion autoencoders are trained on."""


def images_to_pixel_values(images: Sequence[np.ndarray]) -> torch.Tensor:
    """uint8 RGB images [H, W, 3] of one size → float32 [N, 3, H, W] in [−1, 1]."""
    array = np.stack(images)
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[-1] != 3:
        raise ValueError(f"expected uint8 images [H, W, 3], got {array.dtype} {array.shape[1:]}")
    return torch.from_numpy(array).permute(0, 3, 1, 2).to(torch.float32) / PIXEL_SHIFT - 1.0


def pixel_values_to_images(pixel_values: torch.Tensor) -> np.ndarray:
    """[N, 3, H, W] in [−1, 1] (values outside are clipped) → uint8 [N, H, W, 3].

    Rounds like the image processor of diffusers, so that the images equal those of a diffusers pipeline.
    """
    unit = (pixel_values.to(torch.float32) * 0.5 + 0.5).clamp(0.0, 1.0)
    return (unit.permute(0, 2, 3, 1).cpu().numpy() * 255.0).round().astype(np.uint8)
