"""Descriptors: images → unit vectors whose inner product is their similarity. The config, and which class it makes.

Whatever compares images states four things beside its numbers: name, preset (preprocessing), weights hash, dimension.
Numbers from two presets are not comparable.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from raysys.config import OPERATIONAL, Config
from raysys.errors import InputError
from raysys.similarity.embedded import PRESET, EmbeddedDescriptor
from raysys.similarity.images import ImageLike
from raysys.similarity.thresholds import NO_CLAIM, SSCD, Thresholds
from raysys.similarity.weights import hash_of_folder, read_pinned

PRESETS: dict[str, tuple[str, ...]] = {
    "embedded": (PRESET,),
    "sscd": ("dcr224", "sscd288", "sscd320"),
    "clip": ("clip",),
    "dinov2": ("dinov2",),
}
"""Presets of each descriptor; the first is the default."""


class DescriptorFacts(Protocol):
    """What is stated beside features, and all that is needed to compare them: no network is loaded."""

    name: str
    preset: str
    weights_sha256: str  # of the weights file, or of the recipe's constants where there are no weights
    thresholds: Thresholds

    def mirrored(self, features: np.ndarray) -> np.ndarray | None:
        """Features of the left-right mirrored images, when the preset compares those too; else None."""
        ...


class Descriptor(DescriptorFacts, Protocol):
    """What makes features."""

    dim: int

    def __call__(self, images: Sequence[ImageLike]) -> np.ndarray:
        """Images of any sizes → float32 [N, dim], each row of length 1."""
        ...


@dataclass(frozen=True)
class StatedFacts:
    """The facts of a descriptor whose weights were hashed but not loaded."""

    name: str
    preset: str
    weights_sha256: str
    thresholds: Thresholds

    def mirrored(self, features: np.ndarray) -> None:
        """The trained descriptors do not compare mirror images."""
        return


class DescriptorConfig(Config):
    """Which descriptor compares images. Weights count by their hash (`DescriptorFacts`), not by where they lie."""

    name: Literal["embedded", "sscd", "clip", "dinov2"] = Field(
        "embedded", description="embedded needs no weights; the others read local files"
    )
    preset: str | None = Field(
        None,
        description="preprocessing; null = the first of the descriptor's own: embedded-v1 | dcr224, sscd288, sscd320 | "
        "clip | dinov2",
    )
    weights: Annotated[str | None, OPERATIONAL] = Field(
        None, description="sscd: TorchScript file; clip and dinov2: folder as transformers' save_pretrained writes it"
    )
    sha256: Annotated[str | None, OPERATIONAL] = Field(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        description="hex sha256 of the weights file (clip, dinov2: of model.safetensors); required for TorchScript, "
        "which can run code",
    )
    device: Annotated[str, OPERATIONAL] = Field(
        "auto", description="torch device; auto = cuda where there is one, else cpu"
    )
    batch_size: Annotated[int, OPERATIONAL] = Field(32, ge=1, description="images per forward pass")


def make_descriptor(config: DescriptorConfig | None = None) -> Descriptor:
    """The descriptor that `config` names (default: embedded), loaded and ready.

    Raises InputError for an unknown preset, missing or superfluous weights, or a hash that does not match.
    """
    config = config or DescriptorConfig()
    preset, weights = _chosen(config)
    if weights is None:
        return EmbeddedDescriptor()
    from raysys.similarity import pretrained  # torch is heavy: the embedded descriptor starts without it

    if config.name == "sscd":
        return pretrained.SscdDescriptor(weights, config.sha256, preset, config.device, config.batch_size)
    return pretrained.TransformersDescriptor(config.name, weights, config.sha256, config.device, config.batch_size)


def descriptor_facts(config: DescriptorConfig | None = None) -> DescriptorFacts:
    """The facts of the descriptor that `config` names: the weights are read and hashed, no network is loaded.

    Raises InputError as `make_descriptor` does.
    """
    config = config or DescriptorConfig()
    preset, weights = _chosen(config)
    if weights is None:
        return EmbeddedDescriptor()
    if config.name == "sscd":
        return StatedFacts("sscd", preset, read_pinned(Path(weights), config.sha256)[1], SSCD)
    return StatedFacts(config.name, preset, hash_of_folder(Path(weights), config.sha256), NO_CLAIM)


def _chosen(config: DescriptorConfig) -> tuple[str, str | None]:
    """(preset, path of the weights; None for the embedded descriptor)."""
    presets = PRESETS[config.name]
    preset = config.preset or presets[0]
    if preset not in presets:
        raise InputError(
            f"descriptor preset {preset!r} is not one of {config.name}'s", f"use one of: {', '.join(presets)}"
        )
    if config.name == "embedded" and config.weights is not None:
        raise InputError(
            f"weights {config.weights} were given, but the embedded descriptor has none",
            "name the descriptor that they belong to: sscd, clip or dinov2",
        )
    if config.name != "embedded" and config.weights is None:
        raise InputError(f"descriptor {config.name} needs weights", "give the path of the local file or folder")
    return preset, config.weights


def query_views(descriptor: DescriptorFacts, features: np.ndarray) -> np.ndarray:
    """Features [N, D] → [N, V, D]: the views a query is asked with (V = 2 where mirror images count, else 1)."""
    mirrored = descriptor.mirrored(features)
    return features[:, None] if mirrored is None else np.stack([features, mirrored], axis=1)
