"""Kept samples → VAE latents and text states, each encoded once and stored.

Both encoders are deterministic: the same image bytes give the same latents, whatever stands beside them in a batch
of the same size (batches are filled up to `batch_size`, because kernels may round differently for other shapes).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from pydantic import Field

from raysys import outcomes
from raysys.config import Config
from raysys.errors import InputError
from raysys.models.loading import DTYPES, load_text_encoder, load_vae
from raysys.models.text import TextStates, encode_captions
from raysys.models.vae import downscale, encode_pixel_values, images_to_pixel_values
from raysys.rows import array_to_bytes
from raysys.sampling.noise import initial_noise
from raysys.shards.decode import DecodeConfig, Rejection
from raysys.shards.images import read_images

T = TypeVar("T")


class LatentsConfig(Config):
    """How images become latents."""

    vae: str = Field("zoo:vae", description="zoo:<member>, a pipeline folder or a VAE folder")
    resolution: int = Field(
        64, ge=8, description="side of the square crop in pixels; a multiple of the VAE's downscale"
    )
    posterior: Literal["mode", "sample"] = Field(
        "mode", description="mode: the posterior's mean; sample: one draw, its noise from (seed, sample_id)"
    )
    seed: int = Field(0, ge=0, description="of the posterior's noise; unused with mode")
    batch_size: int = Field(32, ge=1, description="images per VAE call")
    device: str = Field("cpu", description="torch device: cpu, cuda, cuda:0 …")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="precision of the VAE")
    limits: DecodeConfig = Field(default_factory=DecodeConfig, description="limits that every image must keep")


class TextConfig(Config):
    """How captions become text states."""

    text_encoder: str = Field("zoo:text_encoder", description="zoo:<member>, a pipeline folder or an encoder folder")
    tokenizer: str | None = Field(None, description="a tokenizer folder; null = the one beside the text encoder")
    batch_size: int = Field(64, ge=1, description="captions per encoder call")
    device: str = Field("cpu", description="torch device: cpu, cuda, cuda:0 …")
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="precision of the text encoder")


def cover_box(width: int, height: int, resolution: int) -> tuple[float, float, float, float]:
    """(left, top, right, bottom) of the largest centred square of a width×height image, in source pixels.

    Resizing this box to resolution² is "resize so that the shorter side fits, then crop the centre", in one
    interpolation and without rounding the box to whole pixels. No flip: a training-time choice, not a stored one.
    """
    if min(width, height, resolution) < 1:
        raise ValueError(f"no crop of {width}x{height} px to {resolution} px")
    side = float(min(width, height))
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


def resize_cover(image: np.ndarray, resolution: int) -> np.ndarray:
    """uint8 [H, W, 3] → uint8 [resolution, resolution, 3]: centre square, bicubic and antialiased."""
    height, width = image.shape[:2]
    if (height, width) == (resolution, resolution):
        return image
    box = cover_box(width, height, resolution)
    picture = Image.fromarray(image).resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)
    return np.asarray(picture)


class LatentEncoder:
    """Images → scaled latents. Holds the VAE; calls are pure."""

    def __init__(self, config: LatentsConfig) -> None:
        """Load the VAE. InputError when it is missing or the resolution does not divide."""
        self.config = config
        self.vae = load_vae(config.vae, DTYPES[config.dtype], config.device)
        self.factor = downscale(self.vae)
        if config.resolution % self.factor:
            raise InputError(
                f"resolution = {config.resolution} is not a multiple of the VAE's downscale {self.factor}",
                f"use {max(1, round(config.resolution / self.factor)) * self.factor}",
            )

    @property
    def latents_shape(self) -> tuple[int, int, int]:
        """[C, h, w] of one image's latents."""
        side = self.config.resolution // self.factor
        return self.vae.config.latent_channels, side, side

    def __call__(self, images: Sequence[np.ndarray], sample_ids: Sequence[str] | None = None) -> np.ndarray:
        """uint8 RGB images [H, W, 3] of any sizes → float32 latents [N, C, h, w], times the scaling_factor.

        `sample_ids` name the images and are needed with posterior "sample", where the noise comes from them.
        """
        if self.config.posterior == "sample" and sample_ids is None:
            raise ValueError('posterior = "sample" needs sample_ids: the noise belongs to the image')
        ids = sample_ids if sample_ids is not None else [""] * len(images)
        out = [np.empty((0, *self.latents_shape), np.float32)]
        for batch in _batches(list(zip(images, ids, strict=True)), self.config.batch_size):
            squares = [resize_cover(image, self.config.resolution) for image, _ in batch]
            filled = squares + squares[-1:] * (self.config.batch_size - len(batch))
            noise = self._noise([name for _, name in batch], len(filled))
            latents = encode_pixel_values(self.vae, images_to_pixel_values(filled), noise)
            out.append(latents[: len(batch)].cpu().numpy())
        return np.concatenate(out)

    def _noise(self, names: list[str], n: int) -> torch.Tensor | None:
        if self.config.posterior == "mode":
            return None
        names = names + names[-1:] * (n - len(names))
        return torch.stack([initial_noise(self.config.seed, name, 0, self.latents_shape) for name in names])


class TextEncoder:
    """Captions → the hidden states a U-Net is conditioned on. Holds tokenizer and encoder; calls are pure."""

    def __init__(self, config: TextConfig) -> None:
        """Load tokenizer and encoder; InputError when one is missing or damaged."""
        self.config = config
        self.tokenizer, self.text_encoder = load_text_encoder(
            config.text_encoder, config.tokenizer, DTYPES[config.dtype], config.device
        )

    def __call__(self, captions: Sequence[str]) -> TextStates:
        """N captions → prompt_embeds [N, T, D], token counts, truncated flags; the empty caption is a caption."""
        parts: list[TextStates] = []
        for batch in _batches(list(captions), self.config.batch_size):
            filled = batch + batch[-1:] * (self.config.batch_size - len(batch))
            states = encode_captions(self.tokenizer, self.text_encoder, filled)
            n = len(batch)
            parts.append(TextStates(states.prompt_embeds[:n], states.n_tokens[:n], states.truncated[:n]))
        if not parts:
            empty = encode_captions(self.tokenizer, self.text_encoder, [""])
            return TextStates(empty.prompt_embeds[:0], [], [])
        return TextStates(
            prompt_embeds=torch.cat([p.prompt_embeds for p in parts]),
            n_tokens=[n for p in parts for n in p.n_tokens],
            truncated=[t for p in parts for t in p.truncated],
        )


class EncodeLatents:
    """A stage: kept SAMPLES rows → LATENTS rows, one per row and in order."""

    def __init__(self, config: LatentsConfig) -> None:
        self.encoder = LatentEncoder(config)

    def __call__(self, rows: pa.Table) -> list[dict[str, Any]]:
        """An image that is bad is a rejected row, one that cannot be read again an error row; the others go on."""
        records = rows.to_pylist()
        pictures = read_images(records, self.encoder.config.limits)
        good = [place for place, picture in enumerate(pictures) if not isinstance(picture, Rejection)]
        latents = self.encoder([pictures[place] for place in good], [records[place]["sample_id"] for place in good])
        encoded = dict(zip(good, latents, strict=True))
        out = []
        for place, (record, picture) in enumerate(zip(records, pictures, strict=True)):
            row: dict[str, Any] = {"row_id": record["row_id"], "sample_id": record["sample_id"]}
            if isinstance(picture, Rejection):
                out.append(row | picture.fate())
                continue
            data, shape = array_to_bytes(encoded[place])
            row |= {"latents": data, "latents_shape": shape}
            out.append(row | _fate(encoded[place], "encode_latents"))
        return out


class EncodeText:
    """A stage: kept SAMPLES rows → TEXT_STATES rows, one per row and in order."""

    def __init__(self, config: TextConfig) -> None:
        self.encoder = TextEncoder(config)

    def __call__(self, rows: pa.Table) -> list[dict[str, Any]]:
        """A null caption is rejected; a caption beyond the encoder's length loses its end, `n_tokens` shows it."""
        row_ids, captions = rows["row_id"].to_pylist(), rows["caption"].to_pylist()
        present = [caption for caption in captions if caption is not None]
        states = self.encoder(present)
        encoded = iter(zip(states.prompt_embeds.numpy(), states.n_tokens, strict=True))
        out = []
        for row_id, caption in zip(row_ids, captions, strict=True):
            row: dict[str, Any] = {"row_id": row_id, "caption": caption}
            if caption is None:
                out.append(row | outcomes.rejected("no_caption"))
                continue
            embeds, n_tokens = next(encoded)
            data, shape = array_to_bytes(embeds)
            columns = {"n_tokens": n_tokens, "prompt_embeds": data, "prompt_embeds_shape": shape}
            out.append(row | columns | _fate(embeds, "encode_text"))
        return out


def _fate(array: np.ndarray, stage: str) -> dict[str, Any]:
    """Kept when every number survives half precision: a NaN in the training set would poison every batch it meets."""
    if np.isfinite(array).all() and np.abs(array).max(initial=0.0) <= np.finfo(np.float16).max:
        return outcomes.kept()
    return outcomes.error(stage, "not_finite", "values are NaN, infinite or beyond float16")


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
