"""Sampling against diffusers' own pipeline and against the formulas."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from pydantic import ValidationError

from raysys.models.loading import load_text_encoder, load_vae
from raysys.models.schedule import NoiseScheduleConfig, build_noise_scheduler, build_sampler
from raysys.models.text import encode_captions
from raysys.models.unet import UNetConfig, build_unet
from raysys.sampling.guidance import classifier_free_guidance
from raysys.sampling.noise import initial_noise, noise_seed
from raysys.sampling.sample import sample

SMALL = UNetConfig(block_out_channels=(32, 32), attention_head_dim=16)


def test_guidance_formula() -> None:
    uncond, text = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
    assert classifier_free_guidance(uncond, text, 3.0).tolist() == [4.0, -4.0]
    assert torch.equal(classifier_free_guidance(uncond, text, 1.0), text)
    assert torch.equal(classifier_free_guidance(uncond, text, 0.0), uncond)


def test_noise_belongs_to_seed_prompt_and_index() -> None:
    shape = (12, 8, 8)
    noise = initial_noise(0, "p1", 0, shape)
    assert noise.shape == shape
    assert noise.dtype == torch.float32
    assert torch.equal(noise, initial_noise(0, "p1", 0, shape))
    others = [initial_noise(1, "p1", 0, shape), initial_noise(0, "p2", 0, shape), initial_noise(0, "p1", 1, shape)]
    assert all(not torch.equal(noise, other) for other in others)
    assert noise_seed(0, "a", "bc") != noise_seed(0, "ab", "c")


def test_noise_is_the_same_in_another_process_and_leaves_the_global_generator_alone() -> None:
    code = "from raysys.sampling.noise import initial_noise; print(initial_noise(7, 'ü', 3, (2,)).tolist())"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    assert printed.strip() == str(initial_noise(7, "ü", 3, (2,)).tolist())
    assert torch.equal(torch.rand(1), expected)


def test_noise_is_standard_normal() -> None:
    pooled = torch.stack([initial_noise(0, str(i), 0, (4, 8, 8)) for i in range(200)])
    assert abs(pooled.mean().item()) < 0.02
    assert abs(pooled.std().item() - 1.0) < 0.02


def test_scaled_linear_schedule_is_stable_diffusions() -> None:
    scheduler = build_noise_scheduler(NoiseScheduleConfig())
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    np.testing.assert_allclose(scheduler.betas.numpy(), betas, rtol=1e-5)
    # ᾱ_T of Stable Diffusion: 0.0047, the signal that is left at the last step.
    assert scheduler.alphas_cumprod[-1].item() == pytest.approx(0.00466, abs=1e-5)


def test_zero_snr_leaves_no_signal_and_refuses_epsilon() -> None:
    config = NoiseScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert build_noise_scheduler(config).alphas_cumprod[-1].item() < 1e-7
    with pytest.raises(ValidationError, match="v_prediction"):
        NoiseScheduleConfig(rescale_betas_zero_snr=True)


def test_sampler_starts_where_training_ends_and_keeps_the_schedule() -> None:
    config = NoiseScheduleConfig(prediction_type="v_prediction", beta_schedule="linear", beta_start=1e-4, beta_end=0.02)
    sampler = build_sampler(build_noise_scheduler(config))
    sampler.set_timesteps(20)
    assert sampler.timesteps[0] == 999
    assert len(sampler.timesteps) == 20
    assert sampler.config.prediction_type == "v_prediction"
    assert torch.equal(sampler.betas, DDPMScheduler(beta_start=1e-4, beta_end=0.02).betas)


class Oracle(torch.nn.Module):
    """A denoiser that knows the answer: ε = (x_t − √ᾱ_t x_0)/√(1 − ᾱ_t), or v = √ᾱ_t ε − √(1 − ᾱ_t) x_0."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, clean: torch.Tensor, alphas_cumprod: torch.Tensor, prediction_type: str) -> None:
        super().__init__()
        self.clean, self.alphas_cumprod, self.prediction_type = clean, alphas_cumprod, prediction_type
        self.calls = 0

    def forward(self, x: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor):
        self.calls += 1
        signal, noise = self.alphas_cumprod[timestep].sqrt(), (1 - self.alphas_cumprod[timestep]).sqrt()
        clean = self.clean.repeat(len(x) // len(self.clean), 1, 1, 1)
        epsilon = (x - signal * clean) / noise
        value = epsilon if self.prediction_type == "epsilon" else signal * epsilon - noise * clean
        return type("Output", (), {"sample": value})


@pytest.mark.parametrize(
    "config",
    [
        NoiseScheduleConfig(),
        NoiseScheduleConfig(prediction_type="v_prediction"),
        NoiseScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    ],
)
@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_a_perfect_denoiser_gives_back_the_clean_latents(config: NoiseScheduleConfig, guidance_scale: float) -> None:
    clean = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    scheduler = build_noise_scheduler(config)
    oracle = Oracle(clean, scheduler.alphas_cumprod, config.prediction_type)
    noise = torch.stack([initial_noise(0, str(i), 0, (3, 4, 4)) for i in range(2)])
    states = torch.zeros(2, 5, 8)
    out = sample(oracle, scheduler, states, states[:1], noise, 10, guidance_scale)
    assert oracle.calls == 10
    torch.testing.assert_close(out, clean, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_sample_equals_diffusers_pipeline(prediction_type: str) -> None:
    unet = build_unet(SMALL, seed=0).eval()
    scheduler = build_noise_scheduler(NoiseScheduleConfig(prediction_type=prediction_type))
    tokenizer, text_encoder = load_text_encoder("zoo:text_encoder")
    prompts = ["a red circle on a blue background", "a star"]
    noise = torch.stack([initial_noise(3, p, 0, (12, 8, 8)) for p in prompts])
    pipeline = StableDiffusionPipeline(
        vae=load_vae("zoo:vae"),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_sampler(scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompts, num_inference_steps=8, guidance_scale=4.0, latents=noise.clone(), output_type="latent"
    ).images
    states = encode_captions(tokenizer, text_encoder, prompts).prompt_embeds
    negative = encode_captions(tokenizer, text_encoder, [""]).prompt_embeds
    ours = sample(unet, scheduler, states, negative, noise, 8, 4.0)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, sample(unet, scheduler, states, negative, noise, 8, 4.0), atol=0, rtol=0)


def test_sample_refuses_wrong_batch() -> None:
    states = torch.zeros(3, 5, 8)
    with pytest.raises(ValueError, match="2 latents, 3 prompt"):
        sample(
            Oracle(states, states, "epsilon"), build_noise_scheduler(NoiseScheduleConfig()), states, states, states[:2]
        )
