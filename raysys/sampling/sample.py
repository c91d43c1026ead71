"""Sample latents from noise and conditioning with DPM-Solver++, for any family's denoiser and any guidance."""

from __future__ import annotations

import torch

from raysys.models.family import Conditioning, Denoiser
from raysys.models.schedule import build_sampler
from raysys.sampling.guidance import Guidance, Step


@torch.inference_mode()
def sample(
    denoiser: Denoiser,
    prompts: Conditioning,
    latents: torch.Tensor,
    guidance: Guidance,
    num_inference_steps: int = 20,
) -> torch.Tensor:
    """Denoise `latents` [B, C, h, w] (standard normal) into clean scaled latents, float32, on the denoiser's device.

    The denoiser runs once per step, on the stacked samples of all branches of `guidance`. The result is deterministic,
    because DPM-Solver++ is an ODE solver. Raises ValueError for mismatched batch sizes.
    """
    batch = len(latents)
    if len(prompts) != batch:
        raise ValueError(f"{batch} latents, {len(prompts)} prompts")
    device, dtype = denoiser.device, denoiser.dtype
    branches = guidance.conditionings(prompts)
    conditioning = Conditioning.cat(branches).to(device, dtype)
    if len(conditioning) != batch * len(branches):
        raise ValueError(f"{len(branches)} branches of {batch} samples hold {len(conditioning)} conditionings")
    sampler = build_sampler(denoiser.noise_scheduler)
    sampler.set_timesteps(num_inference_steps, device=device)
    latents = latents.to(device, dtype) * sampler.init_noise_sigma
    state = None
    numbers = sampler.timesteps.tolist()  # read once, because reading a value from the GPU synchronizes
    for index, timestep in enumerate(sampler.timesteps):
        model_input = sampler.scale_model_input(latents.repeat(len(branches), 1, 1, 1), timestep)
        predictions = denoiser(model_input, timestep.expand(len(model_input)), conditioning).chunk(len(branches))
        step = Step(index, len(numbers), int(numbers[index]))
        prediction, state = guidance.combine(predictions, step, state)
        latents = sampler.step(prediction, timestep, latents).prev_sample
    return latents.to(torch.float32)
