"""The Stable Diffusion denoiser: a diffusers `UNet2DConditionModel` with its noise schedule."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from raysys.models.family import Conditioning, Denoiser
from raysys.models.loading import BUILDING
from raysys.models.sd.config import SdDenoiserConfig


class SdDenoiser(Denoiser):
    """A U-Net. The keys of `state_dict` are those of the U-Net with the prefix `unet.`."""

    def __init__(self, unet: UNet2DConditionModel, noise_scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.unet = unet
        self.noise_scheduler = noise_scheduler

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        return self.unet(
            latents,
            timesteps,
            encoder_hidden_states=conditioning.states,
            encoder_attention_mask=conditioning.mask,
            return_dict=False,
        )[0]

    @property
    def latents_shape(self) -> tuple[int, int, int]:
        size = self.unet.config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return self.unet.config.in_channels, height, width

    @property
    def latents_multiple(self) -> int:
        """2^(levels − 1): each level except the coarsest halves height and width."""
        return 2 ** (len(self.unet.config.block_out_channels) - 1)

    def blocks(self) -> list[torch.nn.Module]:
        return [*self.unet.down_blocks, self.unet.mid_block, *self.unet.up_blocks]

    def enable_gradient_checkpointing(self) -> None:
        self.unet.enable_gradient_checkpointing()


def build_unet(config: SdDenoiserConfig, seed: int) -> UNet2DConditionModel:
    """Build a new U-Net. The same seed gives the same weights; torch's global generator is not changed.

    For historical reasons, the argument `attention_head_dim` of diffusers is the number of heads. It is computed here
    per level from the config's `attention_head_dim`, which is the number of channels of a head.
    """
    heads = tuple(max(1, channels // config.attention_head_dim) for channels in config.block_out_channels)
    with BUILDING, torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet2DConditionModel(
            sample_size=config.sample_size,
            in_channels=config.in_channels,
            out_channels=config.in_channels,
            block_out_channels=config.block_out_channels,
            down_block_types=config.down_block_types,
            up_block_types=config.up_block_types,
            layers_per_block=config.layers_per_block,
            cross_attention_dim=config.cross_attention_dim,
            attention_head_dim=heads,
            norm_num_groups=config.norm_num_groups,
            use_linear_projection=config.use_linear_projection,
        )
