"""Prompts → images with a loaded model, in batches of one size, for the job `generate` and for `raysys.generate`.

The noise depends on (seed, prompt id, index). Results can still differ in the last bit between batch *shapes*, so
every batch is padded to `batch_size`: an image depends neither on the other prompts in its batch nor on their number.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from pydantic import Field

from raysys.config import Config
from raysys.errors import InputError
from raysys.models.device import AUTO, DEVICE_HELP, Device
from raysys.models.families import load_pipeline
from raysys.models.family import Pipeline
from raysys.sampling.guidance import ClassifierFreeGuidance, Guidance
from raysys.sampling.noise import initial_noise
from raysys.sampling.sample import sample


class SamplingConfig(Config):
    """Settings of sampling, independent of model and seed."""

    num_images_per_prompt: int = Field(1, ge=1, description="images per prompt; each has its own noise")
    guidance_scale: float = Field(7.5, ge=0, description="classifier-free guidance; values ≤ 1 switch it off")
    num_inference_steps: int = Field(20, ge=1, description="DPM-Solver++ steps; each evaluates the denoiser once")
    negative_prompt: str = Field("", description="text that guidance moves away from; empty = the unconditional states")
    height: int | None = Field(None, ge=8, description="pixels; null = the size at which the model was trained")
    width: int | None = Field(None, ge=8, description="pixels; null = the size at which the model was trained")
    batch_size: int = Field(16, ge=1, description="images per denoiser call; affects the image bytes")
    device: Device = Field(AUTO, description=DEVICE_HELP)
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="precision of all models")


@dataclass(frozen=True)
class Request:
    """One image to generate."""

    prompt_id: str
    index: int
    prompt: str


class ImageGenerator:
    """A pipeline with its sampling settings. Calls have no side effects."""

    def __init__(self, pipeline: Pipeline, config: SamplingConfig, seed: int, guidance: Guidance | None = None) -> None:
        """`guidance`: None = classifier-free guidance by `config`. Raises InputError for an unsupported image size."""
        self.pipeline, self.config, self.seed = pipeline, config, seed
        factor = pipeline.autoencoder.downscale
        channels, native_height, native_width = pipeline.denoiser.latents_shape
        self.height = config.height or native_height * factor
        self.width = config.width or native_width * factor
        unit = factor * pipeline.denoiser.latents_multiple
        for name, value in (("height", self.height), ("width", self.width)):
            if value % unit:
                raise InputError(f"{name} = {value} is not a multiple of {unit}", f"use a multiple of {unit} px")
        self.latents_shape = (channels, self.height // factor, self.width // factor)
        if guidance is None:
            negative = pipeline.text_encoder.encode([config.negative_prompt]).conditioning
            guidance = ClassifierFreeGuidance(config.guidance_scale, negative)
        self.guidance = guidance

    def __call__(self, requests: Sequence[Request]) -> Iterator[np.ndarray | None]:
        """One image uint8 [H, W, 3] per request, in order; None if its latents contain NaN or infinity."""
        for start in range(0, len(requests), self.config.batch_size):
            yield from self._batch(list(requests[start : start + self.config.batch_size]))

    def _batch(self, requests: list[Request]) -> Iterator[np.ndarray | None]:
        filled = requests + requests[-1:] * (self.config.batch_size - len(requests))
        noise = torch.stack([initial_noise(self.seed, r.prompt_id, r.index, self.latents_shape) for r in filled])
        latents = sample(
            self.pipeline.denoiser,
            self.pipeline.text_encoder.encode([r.prompt for r in filled]).conditioning,
            noise,
            self.guidance,
            self.config.num_inference_steps,
        )
        finite = latents.isfinite().flatten(1).all(dim=1).tolist()
        images = self.pipeline.autoencoder.decode(latents.nan_to_num(0.0, 0.0, 0.0))
        for _, image, good in zip(requests, images, finite, strict=False):
            yield image if good else None


def generate(
    model: Pipeline | str | Path,
    prompts: str | Sequence[str],
    seed: int = 0,
    config: SamplingConfig | None = None,
) -> list[Image.Image]:
    """Generate images in this process: num_images_per_prompt for each prompt, in order.

    `model`: the folder of a saved pipeline, or a pipeline returned by `load_pipeline`, which avoids loading it in each
    call. The noise of prompt k depends only on (seed, k). Raises ArithmeticError if latents contain NaN or infinity.

        raysys.generate("runs/demo/models/baseline/pipeline", ["a red circle", "a star"], seed=1)[0].show()
    """
    config = config or SamplingConfig()
    pipeline = model if isinstance(model, Pipeline) else load_pipeline(model, config.dtype, config.device)
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    requests = [Request(str(k), i, p) for k, p in enumerate(prompts) for i in range(config.num_images_per_prompt)]
    images = []
    for request, image in zip(requests, ImageGenerator(pipeline, config, seed)(requests), strict=True):
        if image is None:
            raise ArithmeticError(f"image {request.index} of prompt {request.prompt!r}: latents hold NaN or infinity")
        images.append(Image.fromarray(image))
    return images


def png_bytes(image: np.ndarray) -> bytes:
    """Encode uint8 [H, W, 3] as PNG without metadata or time, so that equal pixels give equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()
