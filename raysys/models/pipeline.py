"""Saved models: a folder that plain `diffusers.DiffusionPipeline.from_pretrained` loads without raysys."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NamedTuple

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from transformers import CLIPTextModel, CLIPTokenizer

from raysys.models.loading import load_noise_scheduler, load_text_encoder, load_unet, load_vae
from raysys.models.schedule import build_sampler


class Pipeline(NamedTuple):
    """The parts of a text-to-image model, in the order in which a prompt meets them."""

    tokenizer: CLIPTokenizer
    text_encoder: CLIPTextModel
    unet: UNet2DConditionModel
    noise_scheduler: SchedulerMixin
    vae: AutoencoderKL


def save_pipeline(
    folder: str | Path,
    unet: UNet2DConditionModel,
    vae: AutoencoderKL,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
    noise_scheduler: SchedulerMixin,
) -> Path:
    """Write a `StableDiffusionPipeline` folder whose scheduler is DPM-Solver++ on `noise_scheduler`'s schedule.

    The folder appears complete: it is written beside its place under a name that starts with `_` and renamed. An
    older model there is moved aside first and removed last; a process killed between the two renames leaves it
    under `_old-<name>`. There is no safety checker: raysys filters outputs by its own, measured filter.
    """
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = folder.parent / f"_new-{folder.name}-{os.getpid()}"
    old = folder.parent / f"_old-{folder.name}"
    pipeline = StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_sampler(noise_scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    try:
        pipeline.save_pretrained(new, safe_serialization=True)
        if folder.exists():
            shutil.rmtree(old, ignore_errors=True)
            folder.rename(old)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)
    return folder


def load_pipeline(folder: str | Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Pipeline:
    """The parts of a saved pipeline, frozen, on `device`. InputError names the part that is missing or damaged."""
    tokenizer, text_encoder = load_text_encoder(folder, dtype=dtype, device=device)
    return Pipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=load_unet(folder, dtype=dtype, device=device),
        noise_scheduler=load_noise_scheduler(folder),
        vae=load_vae(folder, dtype=dtype, device=device),
    )
