"""Latents from noise and text states: DPM-Solver++ with classifier-free guidance, without hidden state."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel
from diffusers.schedulers.scheduling_utils import SchedulerMixin

from raysys.models.schedule import build_sampler
from raysys.sampling.guidance import classifier_free_guidance


@torch.inference_mode()
def sample(
    unet: UNet2DConditionModel,
    noise_scheduler: SchedulerMixin,
    prompt_embeds: torch.Tensor,
    negative_prompt_embeds: torch.Tensor,
    latents: torch.Tensor,
    num_inference_steps: int = 20,
    guidance_scale: float = 7.5,
) -> torch.Tensor:
    """Denoise `latents` [B, C, h, w] (standard normal) into clean scaled latents, float32, on the U-Net's device.

    prompt_embeds [B, T, D]; negative_prompt_embeds [B, T, D] or [1, T, D], the states of "" or of what to avoid.
    The U-Net runs once per step on 2B rows (the two predictions stacked), on B rows where guidance_scale ≤ 1, the
    value that switches guidance off, as in diffusers. The same inputs give the same output: the solver is an ODE
    solver and draws nothing.
    """
    batch = latents.shape[0]
    if prompt_embeds.shape[0] != batch or negative_prompt_embeds.shape[0] not in (1, batch):
        raise ValueError(
            f"{batch} latents, {prompt_embeds.shape[0]} prompt and {negative_prompt_embeds.shape[0]} negative states"
        )
    device, dtype = unet.device, unet.dtype
    guided = guidance_scale > 1.0
    states = prompt_embeds.to(device, dtype)
    if guided:
        negative = negative_prompt_embeds.to(device, dtype).expand(batch, -1, -1)
        states = torch.cat([negative, states])
    sampler = build_sampler(noise_scheduler)
    sampler.set_timesteps(num_inference_steps, device=device)
    latents = latents.to(device, dtype) * sampler.init_noise_sigma
    for timestep in sampler.timesteps:
        model_input = torch.cat([latents, latents]) if guided else latents
        model_input = sampler.scale_model_input(model_input, timestep)
        noise_pred = unet(model_input, timestep, encoder_hidden_states=states).sample
        if guided:
            noise_pred = classifier_free_guidance(*noise_pred.chunk(2), guidance_scale)
        latents = sampler.step(noise_pred, timestep, latents).prev_sample
    return latents.to(torch.float32)
