"""A checkpoint → a diffusers pipeline that plain `DiffusionPipeline.from_pretrained` loads."""

from __future__ import annotations

from pathlib import Path

from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from safetensors.torch import load_file
from transformers import CLIPTextModel, CLIPTokenizer

from raysys.models.pipeline import save_pipeline
from raysys.training.config import DiffusionTrainingConfig
from raysys.training.diffusion import build_model
from raysys.training.state import EMA, MODEL, read_state


def load_trained(checkpoint: str | Path, *, use_ema: bool = True) -> tuple[UNet2DConditionModel, DDPMScheduler]:
    """The U-Net of a checkpoint (by default its moving average), frozen, and its noise schedule."""
    checkpoint = Path(checkpoint)
    config = DiffusionTrainingConfig.model_validate(read_state(checkpoint).config)
    unet, noise_scheduler = build_model(config)
    weights = load_file(checkpoint / MODEL)
    if use_ema:
        weights |= load_file(checkpoint / EMA)  # parameters; buffers stay the model's
    unet.load_state_dict(weights)
    return unet.eval().requires_grad_(False), noise_scheduler


def export_pipeline(
    checkpoint: str | Path,
    folder: str | Path,
    *,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> Path:
    """Save the averaged U-Net of a checkpoint with its frozen companions as a pipeline folder."""
    unet, noise_scheduler = load_trained(checkpoint)
    return save_pipeline(folder, unet, vae, text_encoder, tokenizer, noise_scheduler)
