"""Prompts → images, seeded per prompt: the same (model, seed, prompt id, index) gives the same PNG bytes.

The noise belongs to (seed, prompt id, index). Numbers can still differ in the last bit between batch *shapes*, so
every batch is filled up to `batch_size`: an image does not depend on which rows stand beside it, nor on how many.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pydantic import Field

from raysys import outcomes
from raysys.config import Config
from raysys.errors import InputError
from raysys.models.loading import DTYPES, model_hash
from raysys.models.pipeline import load_pipeline
from raysys.models.text import encode_captions
from raysys.models.vae import decode_latents, downscale
from raysys.sampling.noise import initial_noise
from raysys.sampling.sample import sample


class SamplingConfig(Config):
    """How images are sampled, whatever the model and the seed."""

    num_images_per_prompt: int = Field(1, ge=1, description="images per prompt; each has its own noise")
    guidance_scale: float = Field(7.5, ge=0, description="classifier-free guidance; values ≤ 1 switch it off")
    num_inference_steps: int = Field(20, ge=1, description="DPM-Solver++ steps, one U-Net evaluation each")
    negative_prompt: str = Field("", description="what guidance leads away from; empty = the unconditional states")
    height: int | None = Field(None, ge=8, description="pixels; null = the size the model was trained at")
    width: int | None = Field(None, ge=8, description="pixels; null = the size the model was trained at")
    batch_size: int = Field(16, ge=1, description="images per U-Net call; part of what fixes the bytes")
    device: str = Field("cpu", description="torch device: cpu, cuda, cuda:0 …")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="precision of all models")


class GenerateConfig(SamplingConfig):
    """What is generated for each prompt, and by which model."""

    model: str = Field(description="folder of a saved pipeline (diffusers layout)")
    seed: int = Field(0, ge=0, description="the run's seed; an image's noise comes from (seed, prompt_id, index)")


@dataclass(frozen=True)
class _Item:
    """One image to make."""

    prompt_id: str
    index: int
    prompt: str

    @property
    def gen_id(self) -> str:
        return f"{self.prompt_id}-{self.index}"


class Generate:
    """A stage: a table with `prompt_id` and `prompt` → num_images_per_prompt GENERATIONS rows per prompt, in order."""

    def __init__(self, config: GenerateConfig) -> None:
        """Load the model. InputError on a missing or damaged model and on a size the model cannot make."""
        self.config = config
        self.pipeline = load_pipeline(config.model, DTYPES[config.dtype], config.device)
        self.model_hash = model_hash(config.model)
        factor, sample_size = downscale(self.pipeline.vae), self.pipeline.unet.config.sample_size
        native_height, native_width = (sample_size, sample_size) if isinstance(sample_size, int) else sample_size
        self.height = config.height or native_height * factor
        self.width = config.width or native_width * factor
        unit = factor * 2 ** (len(self.pipeline.unet.config.block_out_channels) - 1)
        for name, value in (("height", self.height), ("width", self.width)):
            if value % unit:
                raise InputError(f"{name} = {value} is not a multiple of {unit}", f"round it to {unit} px")
        self.latents_shape = (self.pipeline.unet.config.in_channels, self.height // factor, self.width // factor)
        self.negative_prompt_embeds = self._encode([config.negative_prompt])

    def __call__(self, prompts: pa.Table) -> list[dict[str, Any]]:
        """One row per (prompt, index). A null prompt is rejected; an image that is not finite is an error row."""
        rows: dict[tuple[int, int], dict[str, Any]] = {}
        items: list[tuple[tuple[int, int], _Item]] = []
        ids, texts = prompts["prompt_id"].to_pylist(), prompts["prompt"].to_pylist()
        for place, (prompt_id, prompt) in enumerate(zip(ids, texts, strict=True)):
            for index in range(self.config.num_images_per_prompt):
                item = _Item(prompt_id, index, prompt)
                if prompt is None:
                    rows[place, index] = self._row(item) | outcomes.rejected("no_prompt")
                else:
                    items.append(((place, index), item))
        for batch in _batches(items, self.config.batch_size):
            images, finite = self._images([item for _, item in batch])
            for (key, item), image, good in zip(batch, images, finite, strict=True):
                fate = outcomes.kept() if good else outcomes.error("generate", "not_finite", "latents hold NaN or inf")
                rows[key] = self._row(item) | {"image": png_bytes(image) if good else None} | fate
        return [rows[key] for key in sorted(rows)]

    def _images(self, items: list[_Item]) -> tuple[np.ndarray, list[bool]]:
        """uint8 images [n, H, W, 3] of a batch, and whether their latents were finite."""
        filled = items + [items[-1]] * (self.config.batch_size - len(items))
        noise = torch.stack([initial_noise(self.config.seed, i.prompt_id, i.index, self.latents_shape) for i in filled])
        latents = sample(
            self.pipeline.unet,
            self.pipeline.noise_scheduler,
            self._encode([item.prompt for item in filled]),
            self.negative_prompt_embeds,
            noise,
            self.config.num_inference_steps,
            self.config.guidance_scale,
        )
        finite = latents.isfinite().flatten(1).all(dim=1).tolist()
        images = decode_latents(self.pipeline.vae, latents.nan_to_num(0.0, 0.0, 0.0))
        return images[: len(items)], finite[: len(items)]

    def _encode(self, prompts: list[str]) -> torch.Tensor:
        return encode_captions(self.pipeline.tokenizer, self.pipeline.text_encoder, prompts).prompt_embeds

    def _row(self, item: _Item) -> dict[str, Any]:
        return {
            "gen_id": item.gen_id,
            "prompt_id": item.prompt_id,
            "index": item.index,
            "prompt": item.prompt,
            "seed": self.config.seed,
            "guidance_scale": self.config.guidance_scale,
            "num_inference_steps": self.config.num_inference_steps,
            "model_hash": self.model_hash,
            "width": self.width,
            "height": self.height,
            "image": None,
        }


def png_bytes(image: np.ndarray) -> bytes:
    """uint8 [H, W, 3] as PNG without metadata or time, so that equal pixels are equal bytes."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG", compress_level=6)
    return buffer.getvalue()


def _batches(items: list, size: int) -> Iterator[list]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
