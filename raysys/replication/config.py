"""Configuration of the comparison of two sets of images."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raysys.config import OPERATIONAL, Config, Place
from raysys.shards.decode import DecodeConfig
from raysys.similarity import DescriptorConfig
from raysys.similarity.describe import BATCH_IMAGES


class ReplicationConfig(Config):
    """How two sets of images are compared."""

    descriptor: DescriptorConfig = Field(default_factory=DescriptorConfig, description="image descriptor")
    top: int = Field(1, ge=1, le=1000, description="nearest training images kept for each generated image")
    held_out_threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="held-out images with at least this similarity to a training image are left out; null = the "
        "descriptor's threshold for near-duplicates; if it has none, only images with equal bytes are left out",
    )
    background_images: int = Field(
        10_000, ge=0, description="training images drawn for the train-against-train background; 0 = no background"
    )
    seed: int = Field(0, ge=0, description="seed of the background's random draw")
    decode: DecodeConfig = Field(default_factory=DecodeConfig, description="limits for decoding every image")
    batch_images: Annotated[int, OPERATIONAL] = Field(BATCH_IMAGES, ge=1, description="images described at a time")
    block_rows: Annotated[int, OPERATIONAL] = Field(
        16_384, ge=1, description="training features searched at a time; limits memory use"
    )
    workers: Annotated[int, OPERATIONAL] = Field(2, ge=1, description="threads that decode images")
    threads: Annotated[int | None, OPERATIONAL] = Field(None, ge=1, description="threads of the search; null = all")


class FeatureTables(Config):
    """FEATURES tables of the three sets, which measurements can share. null = <output>-features/<set>."""

    generated: Place | None = Field(None, description="FEATURES of the generated images")
    training: Place | None = Field(None, description="FEATURES of the training images")
    held_out: Place | None = Field(None, description="FEATURES of the held-out images")
