"""Build the zoo's `AutoencoderKL`: 64×64 scenes ↔ 8×8 latents with 12 channels, a million parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch.nn import functional

from raysys.models.family import Autoencoder
from raysys.models.pixels import images_to_pixel_values
from raysys.models.sd.autoencoder import SdAutoencoder
from raysys.zoo.data import IMAGE_SIZE, held_out, training_batches
from raysys.zoo.optimizer import warm_up_cosine

LATENT_CHANNELS = 12
BLOCK_OUT_CHANNELS = (16, 32, 64, 64)
NORM_NUM_GROUPS = 8
CROP_SIZE, CROPS_PER_PICTURE, CROP_BATCH_SIZE, CROP_SHARE = 32, 2, 16, 0.65
"""The first steps use crops: each 8×8 patch is encoded locally as 12 numbers, and crops show four times as many scenes
for the same work. The last steps use whole images, whose borders and normalization statistics differ."""
BATCH_SIZE = 4
LEARNING_RATE = 1.2e-3
WARM_UP_STEPS = 100
KL_WEIGHT = 1e-6
"""Weight of the KL loss per latent value; the reconstruction loss is per pixel channel. The KL loss only keeps the
variance of the posterior finite."""
START_LOG_VARIANCE = -6.0
EMA_DECAY = 0.995
N_MEASURED = 128
"""Number of images for standardizing the latents and for measuring the quality."""

MAX_STEPS = 4000


def build_vae(folder: Path, seed: int, max_steps: int, progress: Callable[[int, float], None]) -> dict[str, Any]:
    """Train, standardize the latents, save in half precision. Returns metrics of the saved model.

    Calls `progress(step, loss)` after every step. Deterministic for (seed, max_steps) on one thread.
    """
    torch.manual_seed(seed)
    vae = new_vae()
    train(vae, seed, max_steps, progress)
    vae.eval().requires_grad_(False)
    standardize_latents(vae, images_to_pixel_values(next(training_batches(seed + 1, N_MEASURED))[0]))
    vae.half().save_pretrained(folder)
    return measure(AutoencoderKL.from_pretrained(folder, torch_dtype=torch.float32, use_safetensors=True).eval())


def new_vae() -> AutoencoderKL:
    """The model, initialized so that it passes an image through from the first step.

    torch's default initialization reduces the signal by 1/√3 per convolution but not the random biases. After the ten
    plain convolutions of the trunk, the normalizations get only biases, and training stalls at 12 dB. Therefore weights
    keep the variance, biases are zero, residual branches start at zero, and the posterior starts narrow.
    """
    levels = len(BLOCK_OUT_CHANNELS)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=BLOCK_OUT_CHANNELS,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=NORM_NUM_GROUPS,
        mid_block_add_attention=False,
        sample_size=IMAGE_SIZE,
        scaling_factor=1.0,
        force_upcast=False,
    )
    for name, module in vae.named_modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
            torch.nn.init.zeros_(module.bias)
            if name.endswith("conv2"):
                torch.nn.init.zeros_(module.weight)
    with torch.no_grad():
        vae.quant_conv.weight[LATENT_CHANNELS:] = 0.0
        vae.quant_conv.bias[LATENT_CHANNELS:] = START_LOG_VARIANCE
    return vae


def train(vae: AutoencoderKL, seed: int, max_steps: int, progress: Callable[[int, float], None]) -> None:
    """Minimize |x − x̂| + (x − x̂)² + w·KL(q(z|x) ‖ N(0, I)) in place; the final weights are the EMA.

    The absolute error keeps edges sharp; the squared error speeds up the first steps, where errors are large.
    Convolutions run in bfloat16 if the CPU supports it natively (1.5 times faster), else in float32.
    """
    vae.train()
    fast_bfloat16 = bool(torch.cpu.get_capabilities().get("avx512_bf16", False))
    optimizer = torch.optim.AdamW(vae.parameters(), lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=1e-4)
    averaged = torch.optim.swa_utils.AveragedModel(
        vae, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(EMA_DECAY), use_buffers=False
    )
    for step, images in enumerate(_pictures(seed, max_steps)):
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * warm_up_cosine(step, max_steps, WARM_UP_STEPS)
        pixel_values = images_to_pixel_values(images)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16):
            posterior = vae.encode(pixel_values).latent_dist
            reconstruction = vae.decode(posterior.sample()).sample
        difference = reconstruction.float() - pixel_values
        loss = difference.abs().mean() + difference.square().mean()
        (loss + KL_WEIGHT * posterior.kl().float().mean()).backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        averaged.update_parameters(vae)
        progress(step, loss.item())
    vae.load_state_dict(averaged.module.state_dict())


def _pictures(seed: int, max_steps: int) -> Iterator[list[np.ndarray]]:
    """One batch per step: random crops up to the fraction CROP_SHARE of the steps, then whole images."""
    crop_steps = int(CROP_SHARE * max_steps)
    rng = np.random.default_rng(seed)
    for images, _ in islice(training_batches(seed, CROP_BATCH_SIZE // CROPS_PER_PICTURE), crop_steps):
        yield [_random_crop(image, rng) for image in images for _ in range(CROPS_PER_PICTURE)]
    # Another seed, because crops of the first stream's scenes were already used.
    for images, _ in islice(training_batches(seed + 2, BATCH_SIZE), max_steps - crop_steps):
        yield list(images)


def _random_crop(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    y, x = rng.integers(0, IMAGE_SIZE - CROP_SIZE + 1, size=2)
    return image[y : y + CROP_SIZE, x : x + CROP_SIZE]


@torch.no_grad()
def standardize_latents(vae: AutoencoderKL, pixel_values: torch.Tensor) -> None:
    """Give every latent channel mean 0 and the same variance, by folding an affine map into the two 1×1 convolutions.

    z' = (z − μ_c)/σ_c goes into `quant_conv` (and log σ_c out of the log-variances), its inverse into
    `post_quant_conv`, so reconstructions do not change. Diffusion adds the same noise to all channels, in which the
    signal of a channel with a small variance would vanish first. `scaling_factor` = 1/std over all channels, as in SD.
    """
    means = vae.encode(pixel_values).latent_dist.mean
    mean, std = means.mean(dim=(0, 2, 3)), means.std(dim=(0, 2, 3))
    channels = vae.config.latent_channels
    weight, bias = vae.quant_conv.weight, vae.quant_conv.bias
    weight[:channels] /= std[:, None, None, None]
    bias[:channels] = (bias[:channels] - mean) / std
    bias[channels:] -= 2.0 * std.log()
    vae.post_quant_conv.bias += functional.conv2d(mean[None, :, None, None], vae.post_quant_conv.weight).flatten()
    vae.post_quant_conv.weight *= std[None, :, None, None]
    scale = 1.0 / vae.encode(pixel_values).latent_dist.mean.std().item()
    vae.register_to_config(scaling_factor=round(scale, 5))


def measure(vae: AutoencoderKL) -> dict[str, Any]:
    """PSNR of reconstructed held-out images (uint8 pixels, in dB) for all kinds and for scenes only; latent moments."""
    images, _ = held_out(N_MEASURED)
    scenes, _ = held_out(N_MEASURED, scenes_only=True)
    autoencoder = SdAutoencoder(vae)
    latents = autoencoder.encode(images_to_pixel_values(images))
    return {
        "psnr_db": round(psnr(images, reconstruct(autoencoder, images)), 2),
        "psnr_scenes_db": round(psnr(scenes, reconstruct(autoencoder, scenes)), 2),
        "latents_mean": round(latents.mean().item(), 4),
        "latents_std": round(latents.std().item(), 4),
        "latents_abs_max": round(latents.abs().max().item(), 2),
    }


def reconstruct(autoencoder: Autoencoder, images: np.ndarray) -> np.ndarray:
    """decode(encode(images)) with the mode of the posterior, for uint8 [N, H, W, 3], in batches of 32."""
    parts = (images_to_pixel_values(images[start : start + 32]) for start in range(0, len(images), 32))
    return np.concatenate([autoencoder.decode(autoencoder.encode(part)) for part in parts])


def psnr(images: np.ndarray, others: np.ndarray) -> float:
    """Mean over the images of 10·log10(255² / MSE), in dB; uint8 [N, H, W, 3]."""
    squares = (images.astype(np.float64) - others.astype(np.float64)) ** 2
    mse = np.maximum(squares.mean(axis=(1, 2, 3)), 1e-6)
    return float(np.mean(10.0 * np.log10(255.0**2 / mse)))
