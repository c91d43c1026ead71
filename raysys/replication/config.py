"""How two sets of images are compared."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from raysys.config import OPERATIONAL, Config, Place
from raysys.shards.decode import DecodeConfig
from raysys.similarity import DescriptorConfig
from raysys.similarity.describe import BATCH_IMAGES


class ReplicationConfig(Config):
    """How two sets of images are compared."""

    descriptor: DescriptorConfig = Field(default_factory=DescriptorConfig, description="what makes images comparable")
    top: int = Field(1, ge=1, le=1000, description="nearest training images kept for each generated image")
    held_out_threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="similarity to a training image from which a held-out image is left out; null = the descriptor's "
        "own threshold for near-duplicates, and only equal bytes where it has none",
    )
    background_images: int = Field(
        10_000, ge=0, description="training images drawn for the train-against-train background; 0 = no background"
    )
    seed: int = Field(0, ge=0, description="of that draw")
    decode: DecodeConfig = Field(default_factory=DecodeConfig, description="limits that every image must keep")
    batch_images: Annotated[int, OPERATIONAL] = Field(BATCH_IMAGES, ge=1, description="most images described at a time")
    block_rows: Annotated[int, OPERATIONAL] = Field(
        16_384, ge=1, description="training features searched at a time: bounds the memory"
    )
    workers: Annotated[int, OPERATIONAL] = Field(2, ge=1, description="threads that decode images")
    threads: Annotated[int | None, OPERATIONAL] = Field(None, ge=1, description="threads of the search; null = all")


class FeatureTables(Config):
    """Where the features of the three sets lie. null = <output>-features/<set>; share them between measurements."""

    generated: Place | None = Field(None, description="FEATURES of the generated images")
    training: Place | None = Field(None, description="FEATURES of the training images")
    held_out: Place | None = Field(None, description="FEATURES of the held-out images")
