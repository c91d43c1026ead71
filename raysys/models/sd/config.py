"""The shape of a Stable Diffusion denoiser."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raysys.config import Config

DownBlock = Literal["CrossAttnDownBlock2D", "DownBlock2D"]
UpBlock = Literal["CrossAttnUpBlock2D", "UpBlock2D"]


class SdDenoiserConfig(Config):
    """Shape of a U-Net. The defaults are the demo model: 2.2M parameters on 8×8×12 latents of the zoo's VAE."""

    family: Literal["sd"] = Field("sd", description="model family: sd = Stable Diffusion's U-Net")
    sample_size: int = Field(8, ge=1, description="height and width of the latents, in latent pixels")
    in_channels: int = Field(12, ge=1, description="channels of the latents; must equal the VAE's latent_channels")
    block_out_channels: tuple[int, ...] = Field((64, 96), min_length=1, description="channels of each resolution level")
    down_block_types: tuple[DownBlock, ...] = Field(
        ("CrossAttnDownBlock2D", "DownBlock2D"), description="one per level, from the finest to the coarsest"
    )
    up_block_types: tuple[UpBlock, ...] = Field(
        ("UpBlock2D", "CrossAttnUpBlock2D"), description="one per level, from the coarsest to the finest"
    )
    layers_per_block: int = Field(1, ge=1, description="residual blocks per level of the down path")
    cross_attention_dim: int = Field(128, ge=1, description="width of the text encoder's hidden states")
    attention_head_dim: int = Field(32, ge=1, description="channels of one attention head")
    norm_num_groups: int = Field(
        16, ge=1, description="groups of the group norms; must divide the channels of every level"
    )
    use_linear_projection: bool = Field(True, description="linear in/out projections of the transformers, as in SD 2.x")

    @model_validator(mode="after")
    def _levels_agree(self) -> SdDenoiserConfig:
        levels = len(self.block_out_channels)
        if len(self.down_block_types) != levels or len(self.up_block_types) != levels:
            raise ValueError(f"block_out_channels has {levels} levels; give as many down_ and up_block_types")
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            raise ValueError(f"norm_num_groups = {self.norm_num_groups} must divide each of {self.block_out_channels}")
        if self.sample_size % 2 ** (levels - 1):
            raise ValueError(f"sample_size = {self.sample_size} cannot be halved {levels - 1} times")
        return self
