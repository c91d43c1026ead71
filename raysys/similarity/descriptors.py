"""Descriptors: images → unit vectors whose inner product is their similarity. Configuration and construction.

A descriptor is identified by its name, preset (preprocessing) and weights hash. Similarities of different presets are
not comparable.
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
from raysys.models.device import AUTO, DEVICE_HELP, Device
from raysys.models.places import naming_damaged_files
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
"""The presets of each descriptor; the first is the default."""


class DescriptorFacts(Protocol):
    """What is needed to compare features and to report the result, without loading a network."""

    name: str
    preset: str
    weights_sha256: str  # of the weights file; for the embedded descriptor, of its constants
    thresholds: Thresholds

    def views(self, features: np.ndarray) -> np.ndarray:
        """Features [N, D] of all orientations of the images that the preset compares → [N, V, D], the first unchanged.

        V = 1 if it compares none but the image itself.
        """
        ...


class Descriptor(DescriptorFacts, Protocol):
    """Computes features of images."""

    dim: int

    def __call__(self, images: Sequence[ImageLike]) -> np.ndarray:
        """Images of any size → float32 [N, dim], rows L2-normalized."""
        ...


@dataclass(frozen=True)
class StatedFacts:
    """The facts of a pretrained descriptor whose weights were hashed but not loaded."""

    name: str
    preset: str
    weights_sha256: str
    thresholds: Thresholds

    def views(self, features: np.ndarray) -> np.ndarray:
        """[N, 1, D]: pretrained descriptors compare only the image itself."""
        return features[:, None]


class DescriptorConfig(Config):
    """Which descriptor compares images. Weights are identified by their hash (`DescriptorFacts`), not by path."""

    name: Literal["embedded", "sscd", "clip", "dinov2"] = Field(
        "embedded", description="embedded needs no weights; the others read local files"
    )
    preset: str | None = Field(
        None,
        description="preprocessing; null = the descriptor's first: embedded: embedded-v2; sscd: dcr224, sscd288, "
        "sscd320; clip: clip; dinov2: dinov2",
    )
    weights: Annotated[str | None, OPERATIONAL] = Field(
        None, description="sscd: TorchScript file; clip, dinov2: folder written by transformers' save_pretrained"
    )
    sha256: Annotated[str | None, OPERATIONAL] = Field(
        None,
        pattern="^[0-9a-fA-F]{64}$",
        description="hex SHA-256 of the weights file (clip, dinov2: of model.safetensors); required for TorchScript, "
        "because loading it can run code",
    )
    device: Device = Field(AUTO, description=DEVICE_HELP)
    batch_size: Annotated[int, OPERATIONAL] = Field(32, ge=1, description="images per forward pass")


def make_descriptor(config: DescriptorConfig | None = None) -> Descriptor:
    """Load the descriptor that `config` names (default: embedded).

    Raises InputError for an unknown preset, missing or superfluous weights, or a hash that does not match.
    """
    config = config or DescriptorConfig()
    preset, weights = _chosen(config)
    if weights is None:
        return EmbeddedDescriptor()
    from raysys.similarity import pretrained  # imports torch, which the embedded descriptor does not need

    if config.name == "sscd":
        return pretrained.SscdDescriptor(weights, config.sha256, preset, config.device, config.batch_size)
    with naming_damaged_files(Path(weights)):
        return pretrained.TransformersDescriptor(config.name, weights, config.sha256, config.device, config.batch_size)


def descriptor_facts(config: DescriptorConfig | None = None) -> DescriptorFacts:
    """The facts of the descriptor that `config` names: hashes the weights without loading a network.

    Raises InputError like `make_descriptor`.
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
            "set the descriptor that they belong to: sscd, clip or dinov2",
        )
    if config.name != "embedded" and config.weights is None:
        raise InputError(f"descriptor {config.name} needs weights", "give the path of the local file or folder")
    return preset, config.weights
