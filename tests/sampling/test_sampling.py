"""Sampling against diffusers' own pipeline and against the formulas."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, StableDiffusionPipeline
from pydantic import ValidationError

from raysys.models.family import Conditioning, Denoiser
from raysys.models.schedule import NoiseScheduleConfig, build_noise_scheduler, build_sampler
from raysys.sampling.guidance import ClassifierFreeGuidance, Step
from raysys.sampling.noise import initial_noise, noise_seed
from raysys.sampling.sample import sample
from tests.support.tiny_models import tiny_pipeline


def states(batch: int, value: float = 0.0, length: int = 5) -> Conditioning:
    return Conditioning(torch.full((batch, length, 8), value))


def test_guidance_formula() -> None:
    negative, prompt = torch.tensor([1.0, 2.0]), torch.tensor([2.0, 0.0])
    step = Step(0, 1, 999)
    guided, state = ClassifierFreeGuidance(3.0, states(1)).combine([negative, prompt], step, None)
    assert guided.tolist() == [4.0, -4.0]
    assert state is None


def test_guidance_of_at_most_one_asks_with_the_prompts_only() -> None:
    prompts = states(2, 1.0)
    assert ClassifierFreeGuidance(1.0, states(1)).conditionings(prompts) == [prompts]
    negative, prompt = ClassifierFreeGuidance(1.5, states(1)).conditionings(prompts)
    assert negative.states.shape == prompt.states.shape


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


class Oracle(Denoiser):
    """A denoiser that knows the answer: ε = (x_t − √ᾱ_t x_0)/√(1 − ᾱ_t), or v = √ᾱ_t ε − √(1 − ᾱ_t) x_0."""

    dtype, device = torch.float32, torch.device("cpu")

    def __init__(self, clean: torch.Tensor, config: NoiseScheduleConfig) -> None:
        super().__init__()
        self.clean, self.noise_scheduler = clean, build_noise_scheduler(config)
        self.prediction_type = config.prediction_type
        self.batches: list[int] = []

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self.batches.append(len(latents))
        assert len(latents) == len(timesteps) == len(conditioning)
        alphas = self.noise_scheduler.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        signal, noise = alphas.sqrt(), (1 - alphas).sqrt()
        clean = self.clean.repeat(len(latents) // len(self.clean), 1, 1, 1)
        epsilon = (latents - signal * clean) / noise
        return epsilon if self.prediction_type == "epsilon" else signal * epsilon - noise * clean


CLEAN = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
NOISE = torch.stack([initial_noise(0, str(i), 0, (3, 4, 4)) for i in range(2)])


@pytest.mark.parametrize(
    "config",
    [
        NoiseScheduleConfig(),
        NoiseScheduleConfig(prediction_type="v_prediction"),
        NoiseScheduleConfig(prediction_type="v_prediction", rescale_betas_zero_snr=True),
    ],
)
@pytest.mark.parametrize(("guidance_scale", "rows"), [(1.0, 2), (5.0, 4)])
def test_a_perfect_denoiser_gives_back_the_clean_latents(
    config: NoiseScheduleConfig, guidance_scale: float, rows: int
) -> None:
    oracle = Oracle(CLEAN, config)
    out = sample(oracle, states(2), NOISE, ClassifierFreeGuidance(guidance_scale, states(1)), 10)
    assert oracle.batches == [rows] * 10, "one evaluation per step, on the rows of all branches"
    torch.testing.assert_close(out, CLEAN, atol=2e-4, rtol=1e-3)


@dataclass(frozen=True)
class AvoidConcept:
    """Three branches with a momentum, as safe latent diffusion has (Schramowski et al. 2023, arXiv 2211.05105)."""

    scale: float
    negative: Conditioning
    concept: Conditioning
    warm_up_steps: int
    momentum_scale: float = 0.5
    beta: float = 0.6

    def conditionings(self, prompts: Conditioning) -> list[Conditioning]:
        return [self.negative.expand(len(prompts)), prompts, self.concept.expand(len(prompts))]

    def combine(self, predictions, step: Step, state):
        negative, prompt, concept = predictions
        momentum = torch.zeros_like(prompt) if state is None else state
        away = (concept - negative) + self.momentum_scale * momentum
        momentum = self.beta * momentum + (1 - self.beta) * away
        guided = prompt - negative
        if step.index >= self.warm_up_steps:
            guided = guided - away
        return negative + self.scale * guided, momentum


class Recorder(Oracle):
    """The oracle, pushed by its conditioning; keeps the conditionings it was asked with."""

    def forward(self, latents: torch.Tensor, timesteps: torch.Tensor, conditioning: Conditioning) -> torch.Tensor:
        self.asked = conditioning
        return super().forward(latents, timesteps, conditioning) + 0.01 * conditioning.states[:, :1, :1, None]


def test_three_branches_with_momentum_and_warm_up_fit() -> None:
    """The state goes from step to step, also through steps that do not use it, and starts anew with each batch."""
    denoiser = Recorder(CLEAN, NoiseScheduleConfig())
    guidance = AvoidConcept(2.0, states(1), states(1, 3.0, length=4), warm_up_steps=2)
    out = sample(denoiser, states(2, 1.0), NOISE, guidance, 4)
    assert denoiser.batches == [6] * 4
    assert denoiser.asked.states[:, 0, 0].tolist() == [0, 0, 1, 1, 3, 3]
    assert denoiser.asked.mask.sum(dim=1).tolist() == [5, 5, 5, 5, 4, 4], "a shorter concept is padded and masked"
    assert torch.equal(sample(denoiser, states(2, 1.0), NOISE, guidance, 4), out)

    # The same by hand: predictions differ from the oracle's by 0.01 × (0, 1, 3), so every difference is a constant.
    sampler = build_sampler(denoiser.noise_scheduler)
    sampler.set_timesteps(4)
    oracle, latents, momentum = Oracle(CLEAN, NoiseScheduleConfig()), NOISE * sampler.init_noise_sigma, 0.0
    for index, timestep in enumerate(sampler.timesteps):
        away = 0.03 + 0.5 * momentum
        momentum = 0.6 * momentum + 0.4 * away
        push = 2.0 * (0.01 - (away if index >= 2 else 0.0))
        prediction = oracle(latents, timestep.expand(2), states(2)) + push
        latents = sampler.step(prediction, timestep, latents).prev_sample
    torch.testing.assert_close(out, latents, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_sample_equals_diffusers_pipeline(prediction_type: str) -> None:
    ours = tiny_pipeline(schedule=NoiseScheduleConfig(prediction_type=prediction_type))
    prompts = ["a red circle on a blue background", "a star"]
    noise = torch.stack([initial_noise(3, p, 0, (12, 8, 8)) for p in prompts])
    pipeline = StableDiffusionPipeline(
        vae=ours.autoencoder.model,
        text_encoder=ours.text_encoder.model,
        tokenizer=ours.text_encoder.tokenizer,
        unet=ours.denoiser.unet,
        scheduler=build_sampler(ours.denoiser.noise_scheduler),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        prompts, num_inference_steps=8, guidance_scale=4.0, latents=noise.clone(), output_type="latent"
    ).images
    conditioning = ours.text_encoder.encode(prompts).conditioning
    guidance = ClassifierFreeGuidance(4.0, ours.text_encoder.encode([""]).conditioning)
    found = sample(ours.denoiser, conditioning, noise, guidance, 8)
    assert found.std() > 0.1
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found, sample(ours.denoiser, conditioning, noise, guidance, 8), atol=0, rtol=0)


def test_sample_refuses_wrong_batch() -> None:
    oracle = Oracle(CLEAN, NoiseScheduleConfig())
    with pytest.raises(ValueError, match="2 latents, 3 prompts"):
        sample(oracle, states(3), NOISE, ClassifierFreeGuidance(1.0, states(1)))
