"""Kept samples → latents, and captions → text states, each encoded once and stored.

Both encoders are deterministic: the same image bytes give the same latents, independent of the other images in the
batch. Batches are padded to `batch_size`, because kernels may round differently for other shapes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field

from raysys import outcomes
from raysys.config import Config, Place
from raysys.errors import InputError
from raysys.latents.crop import Size, nearest_size, resize_cover
from raysys.models.device import AUTO, DEVICE_HELP, Device
from raysys.models.families import FamilyName, family
from raysys.models.family import DTYPES
from raysys.models.pixels import images_to_pixel_values
from raysys.rows import StatesDtype, array_to_bytes, fits
from raysys.sampling.noise import initial_noise
from raysys.shards.decode import DecodeConfig, Rejection
from raysys.shards.images import read_images
from raysys.tables.stage import Stage

T = TypeVar("T")


class LatentsConfig(Config):
    """Configuration of the encoding of images."""

    family: FamilyName = Field("sd", description="model family of the VAE")
    vae: Place = Field("zoo:vae", description="zoo:<member>, a pipeline folder or a VAE folder")
    resolution: int = Field(
        64, ge=8, description="side of the square crop in pixels; a multiple of the VAE's downscale"
    )
    buckets: tuple[Size, ...] | None = Field(
        None,
        min_length=1,
        description="sizes [height, width] in pixels; each image is cropped to the one with the nearest aspect ratio; "
        "null = the square of `resolution`",
    )
    posterior: Literal["mode", "sample"] = Field(
        "mode", description="mode = the posterior's mean; sample = one draw, with noise from (seed, sample_id)"
    )
    seed: int = Field(0, ge=0, description="seed of the posterior's noise; not used with mode")
    batch_size: int = Field(32, ge=1, description="images per VAE call")
    device: Device = Field(AUTO, description=DEVICE_HELP)
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="precision of the VAE")
    limits: DecodeConfig = Field(default_factory=DecodeConfig, description="limits for decoding every image")

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes to which images are cropped."""
        return self.buckets or ((self.resolution, self.resolution),)


class TextConfig(Config):
    """Configuration of the encoding of captions."""

    family: FamilyName = Field("sd", description="model family of the text encoder")
    text_encoder: Place = Field("zoo:text_encoder", description="zoo:<member>, a pipeline folder or an encoder folder")
    tokenizer: Place | None = Field(None, description="a tokenizer folder; null = the one saved with the text encoder")
    batch_size: int = Field(64, ge=1, description="captions per encoder call")
    device: Device = Field(AUTO, description=DEVICE_HELP)
    dtype: Literal["float32", "float16", "bfloat16"] = Field("float32", description="precision of the text encoder")


class LatentEncoder:
    """Images → scaled latents. Holds the autoencoder; calls have no side effects."""

    def __init__(self, config: LatentsConfig) -> None:
        """Load the autoencoder. Raises InputError if it is missing or a size is not a multiple of its downscale."""
        self.config = config
        self.autoencoder = family(config.family).load_autoencoder(config.vae, DTYPES[config.dtype], config.device)
        factor = self.autoencoder.downscale
        for side in sorted({side for size in config.sizes for side in size if side % factor}):
            name = "resolution" if config.buckets is None else "a side of buckets"
            raise InputError(
                f"{name} = {side} is not a multiple of the VAE's downscale {factor}",
                f"use {max(1, round(side / factor)) * factor}",
            )

    def latents_shape(self, size: Size) -> tuple[int, int, int]:
        """The shape [C, h, w] of the latents of an image of `size` (height, width)."""
        factor = self.autoencoder.downscale
        return self.autoencoder.latent_channels, size[0] // factor, size[1] // factor

    def __call__(self, images: Sequence[np.ndarray], sample_ids: Sequence[str] | None = None) -> list[np.ndarray]:
        """uint8 RGB images [H, W, 3] of any size → latents, float32 [C, h, w], multiplied by the scaling_factor.

        sample_ids: ids of the images, required for posterior "sample", whose noise is derived from them.
        """
        if self.config.posterior == "sample" and sample_ids is None:
            raise ValueError('posterior = "sample" needs sample_ids: the noise is derived from them')
        ids = sample_ids if sample_ids is not None else [""] * len(images)
        places_of: dict[Size, list[int]] = {}
        for place, image in enumerate(images):
            places_of.setdefault(nearest_size(image.shape[1], image.shape[0], self.config.sizes), []).append(place)
        found: dict[int, np.ndarray] = {}
        for size, places in places_of.items():
            for batch in _batches(places, self.config.batch_size):
                latents = self._encode([images[k] for k in batch], [ids[k] for k in batch], size)
                found |= dict(zip(batch, latents, strict=True))
        return [found[place] for place in range(len(images))]

    def _encode(self, images: list[np.ndarray], names: list[str], size: Size) -> np.ndarray:
        """Encode one batch at one size."""
        cropped = _filled([resize_cover(image, size) for image in images], self.config.batch_size)
        noise = None
        if self.config.posterior == "sample":
            shape = self.latents_shape(size)
            draws = [initial_noise(self.config.seed, name, 0, shape) for name in names]
            noise = torch.stack(_filled(draws, self.config.batch_size))
        latents = self.autoencoder.encode(images_to_pixel_values(cropped), noise)
        return latents[: len(images)].cpu().numpy()


@dataclass(frozen=True)
class CaptionStates:
    """The text states of one caption."""

    states: np.ndarray
    """float32 [T, D]: of the caption's tokens, or of all max_length tokens if the encoder returns no mask."""
    n_tokens: int
    """Number of tokens before padding and truncation, including special tokens."""


class CaptionEncoder:
    """Captions → text states. Holds the text encoder; calls have no side effects."""

    def __init__(self, config: TextConfig) -> None:
        """Load tokenizer and encoder. Raises InputError if one is missing or damaged."""
        self.config = config
        self.text_encoder = family(config.family).load_text_encoder(
            config.text_encoder, config.tokenizer, DTYPES[config.dtype], config.device
        )

    @property
    def states_dtype(self) -> StatesDtype:
        """The dtype in which the states are stored."""
        return self.text_encoder.states_dtype

    def __call__(self, captions: Sequence[str]) -> list[CaptionStates]:
        """The states of each caption, including empty ones. Padding is removed if the encoder returns a mask."""
        found: list[CaptionStates] = []
        for batch in _batches(list(captions), self.config.batch_size):
            encoded = self.text_encoder.encode(_filled(batch, self.config.batch_size))
            conditioning = encoded.conditioning
            if conditioning.extra:
                raise ValueError(f"TEXT_STATES has no columns for {sorted(conditioning.extra)}")
            for k in range(len(batch)):
                states = conditioning.states[k]
                if conditioning.mask is not None:
                    states = states[conditioning.mask[k]]
                found.append(CaptionStates(states.numpy(), encoded.n_tokens[k]))
        return found


class EncodeLatents(Stage):
    """Kept SAMPLES rows → LATENTS rows, one per row, in order."""

    name, heavy = "vae", True

    def __init__(self, config: LatentsConfig) -> None:
        self.encoder = LatentEncoder(config)

    def __call__(self, rows: pa.Table) -> list[dict[str, Any]]:
        """Bad images become rejected rows; images that cannot be read again become error rows."""
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
            out.append(row | _fate(encoded[place], "encode_latents", "float16"))
        return out


class EncodeText(Stage):
    """Captions [caption_id, row_id, caption] → TEXT_STATES rows, one per caption, in order."""

    name, heavy, carried = "text", True, ("caption_id", "row_id")

    def __init__(self, config: TextConfig) -> None:
        self.encoder = CaptionEncoder(config)

    def __call__(self, rows: pa.Table) -> list[dict[str, Any]]:
        """Null captions are rejected. Captions longer than the encoder's context are truncated; `n_tokens` shows it."""
        records = rows.select(["caption_id", "row_id", "caption"]).to_pylist()
        dtype = self.encoder.states_dtype
        encoded = iter(self.encoder([row["caption"] for row in records if row["caption"] is not None]))
        out = []
        for row in records:
            if row["caption"] is None:
                out.append(row | outcomes.rejected("no_caption"))
                continue
            caption = next(encoded)
            data, shape = array_to_bytes(caption.states, dtype)
            columns = {"n_tokens": caption.n_tokens, "text_states": data, "text_states_shape": shape}
            out.append(row | columns | {"text_states_dtype": dtype} | _fate(caption.states, "encode_text", dtype))
        return out


def _fate(array: np.ndarray, stage: str, dtype: StatesDtype) -> dict[str, Any]:
    """Kept if all values are finite in the stored dtype; a single NaN in the training set would break the training."""
    if fits(array, dtype):
        return outcomes.kept()
    return outcomes.error(stage, "not_finite", f"values are NaN, infinite or beyond {dtype}")


def _filled(items: list[T], size: int) -> list[T]:
    """`items`, padded to `size` by repeating the last one."""
    return items + items[-1:] * (size - len(items))


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
