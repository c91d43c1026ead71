"""Save a Stable Diffusion pipeline as a folder that `diffusers.DiffusionPipeline.from_pretrained` can load."""

from __future__ import annotations

from pathlib import Path

from diffusers import StableDiffusionPipeline

from raysys.models.family import Pipeline
from raysys.models.schedule import build_sampler
from raysys.tables.folder_output import staged


def save_pipeline(folder: str | Path, pipeline: Pipeline) -> Path:
    """Write a `StableDiffusionPipeline`. Its scheduler is DPM-Solver++ on the denoiser's noise schedule.

    The folder appears complete or not at all. It contains no safety checker.
    """
    folder = Path(folder)
    complete = StableDiffusionPipeline(
        vae=pipeline.autoencoder.model,
        text_encoder=pipeline.text_encoder.model,
        tokenizer=pipeline.text_encoder.tokenizer,
        unet=pipeline.denoiser.unet,
        scheduler=build_sampler(pipeline.denoiser.noise_scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    with staged(folder) as staging:
        complete.save_pretrained(staging, safe_serialization=True)
    return folder
