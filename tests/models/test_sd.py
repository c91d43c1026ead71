"""The Stable Diffusion family: shapes and seeds, latents and text states, saved pipelines, schedules, hashes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raysys.errors import InputError
from raysys.models.families import family, family_of, load_pipeline
from raysys.models.family import Conditioning
from raysys.models.loading import model_hash
from raysys.models.pixels import images_to_pixel_values, pixel_values_to_images
from raysys.models.schedule import NoiseScheduleConfig, build_noise_scheduler, build_sampler, load_noise_scheduler
from raysys.models.sd.config import SdDenoiserConfig
from raysys.sampling.guidance import ClassifierFreeGuidance
from raysys.sampling.noise import initial_noise
from raysys.sampling.sample import sample
from tests.support.tiny_models import SMALL, save_tiny_pipeline

SD = family("sd")
V_PREDICTION = NoiseScheduleConfig(prediction_type="v_prediction")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with a small random U-Net that predicts v."""
    folder = tmp_path_factory.mktemp("models") / "pipeline"
    return save_tiny_pipeline(folder, schedule=V_PREDICTION)


def test_demo_denoiser_has_2_2_million_parameters_and_fits_the_zoo() -> None:
    denoiser = SD.build_denoiser(SdDenoiserConfig(), NoiseScheduleConfig(), seed=0)
    assert sum(p.numel() for p in denoiser.parameters()) == pytest.approx(2.2e6, rel=0.02)
    autoencoder, text_encoder = SD.load_autoencoder("zoo:vae"), SD.load_text_encoder("zoo:text_encoder")
    assert denoiser.latents_shape == (autoencoder.latent_channels, 8, 8)
    assert denoiser.latents_multiple == 2
    unet = denoiser.unet
    assert unet.config.out_channels == autoencoder.latent_channels
    assert unet.config.cross_attention_dim == text_encoder.encode([""]).conditioning.states.shape[-1]
    # Heads of 32 channels on every level: the first level has 64 channels, the second 96.
    assert [b.attentions[0].transformer_blocks[0].attn2.heads for b in unet.down_blocks[:1]] == [2]
    assert unet.mid_block.attentions[0].transformer_blocks[0].attn2.heads == 3


def test_blocks_hold_almost_all_weights_each_once() -> None:
    denoiser = SD.build_denoiser(SdDenoiserConfig(), NoiseScheduleConfig(), seed=0)
    inside = [id(p) for block in denoiser.blocks() for p in block.parameters()]
    assert len(inside) == len(set(inside))
    n = sum(p.numel() for block in denoiser.blocks() for p in block.parameters())
    assert n > 0.9 * sum(p.numel() for p in denoiser.parameters())


def test_a_masked_state_does_not_reach_the_prediction() -> None:
    denoiser = SD.build_denoiser(SMALL, NoiseScheduleConfig(), seed=0).eval()
    latents, timesteps = torch.randn(1, 12, 8, 8), torch.tensor([500])
    short = Conditioning(torch.randn(1, 3, 128))
    longer = Conditioning(torch.cat([short.states, torch.full((1, 2, 128), 9.0)], dim=1))
    masked = Conditioning(longer.states, torch.tensor([[True, True, True, False, False]]))
    with torch.no_grad():
        expected = denoiser(latents, timesteps, short)
        torch.testing.assert_close(denoiser(latents, timesteps, masked), expected)
        assert not torch.allclose(denoiser(latents, timesteps, longer), expected)


def test_weights_belong_to_the_seed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    weights = [SD.build_denoiser(SMALL, NoiseScheduleConfig(), seed).unet.conv_in.weight for seed in (3, 3, 4)]
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_threads_may_load_and_build_models_at_the_same_time() -> None:
    """Failed before: half of the models, and every module built later in this process, had no data (meta device)."""

    def make(i: int) -> torch.nn.Module:
        if i % 2:
            return SD.load_autoencoder("zoo:vae").model
        return SD.build_denoiser(SMALL, NoiseScheduleConfig(), seed=0)

    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(make, range(16)))
    assert not any(p.is_meta for model in (*made, torch.nn.Linear(1, 1)) for p in model.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"block_out_channels": (64,)}, "levels"),
        ({"norm_num_groups": 7}, "must divide"),
        ({"sample_size": 7}, "halved"),
        ({"channels": 4}, "Extra inputs"),
    ],
)
def test_denoiser_config_mistakes_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SdDenoiserConfig(**wrong)


def test_pixels_survive_the_round_trip_through_pixel_values() -> None:
    images = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    values = images_to_pixel_values(list(images))
    assert values.min() == -1.0
    assert values.max() == 1.0
    np.testing.assert_array_equal(pixel_values_to_images(values), images)
    np.testing.assert_array_equal(pixel_values_to_images(values * 1.5 + 0.0)[0, -1, -1], [255] * 3)
    with pytest.raises(ValueError, match="uint8"):
        images_to_pixel_values([np.zeros((4, 4, 3), np.float32)])


def test_latents_are_mode_times_scale_or_mean_plus_std_times_noise() -> None:
    autoencoder = SD.load_autoencoder("zoo:vae")
    values = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
    posterior = autoencoder.model.encode(values).latent_dist
    scale = autoencoder.model.config.scaling_factor
    torch.testing.assert_close(autoencoder.encode(values), posterior.mode() * scale)
    noise = torch.ones(2, 12, 8, 8)
    torch.testing.assert_close(autoencoder.encode(values, noise), (posterior.mean + posterior.std) * scale)
    assert autoencoder.decode(posterior.mode() * scale).shape == (2, 64, 64, 3)


def test_text_states_equal_diffusers_and_any_unicode_survives() -> None:
    encoder = SD.load_text_encoder("zoo:text_encoder")
    captions = ["a red circle", "", "赤い円 🦊 \x00 ñandú <|endoftext|>", "very " * 200]
    encoded = encoder.encode(captions)
    states, length = encoded.conditioning.states, encoder.max_length
    assert states.shape == (4, length, encoder.model.config.hidden_size)
    assert states.isfinite().all()
    assert encoded.conditioning.mask is None, "Stable Diffusion attends to the padding"
    assert encoded.n_tokens[1] == 2
    assert encoded.n_tokens[3] > length
    tokenizer = encoder.tokenizer
    ids = tokenizer("a red circle", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    torch.testing.assert_close(states[:1], encoder.model(ids.input_ids).last_hidden_state)
    assert tokenizer.decode(tokenizer("a red circle").input_ids, skip_special_tokens=True) == "a red circle"


def test_saved_pipeline_loads_back_with_the_same_weights(saved: Path) -> None:
    denoiser = load_pipeline(saved).denoiser
    assert denoiser.noise_scheduler.config.prediction_type == "v_prediction"
    expected = build_noise_scheduler(V_PREDICTION)
    torch.testing.assert_close(denoiser.noise_scheduler.alphas_cumprod, expected.alphas_cumprod)
    built = SD.build_denoiser(SMALL, V_PREDICTION, seed=0)
    assert torch.equal(denoiser.unet.conv_in.weight, built.unet.conv_in.weight)
    assert not denoiser.training
    assert not any(p.requires_grad for p in denoiser.parameters())


def test_a_denoiser_folder_needs_a_schedule_beside_it_or_given(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved / "unet", tmp_path / "unet")
    with pytest.raises(InputError, match=r"no noise schedule .*\n.*noise_schedule"):
        SD.load_denoiser(tmp_path / "unet")
    given = SD.load_denoiser(tmp_path / "unet", NoiseScheduleConfig(beta_end=0.02))
    assert given.noise_scheduler.config.beta_end == 0.02
    shutil.copytree(saved / "scheduler", tmp_path / "scheduler")
    assert SD.load_denoiser(tmp_path / "unet").noise_scheduler.config.prediction_type == "v_prediction"
    assert SD.denoiser_hash(tmp_path / "unet") == SD.denoiser_hash(saved)


STABLE_DIFFUSION_2_1 = {
    "_class_name": "DDIMScheduler",
    "_diffusers_version": "0.8.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
}
"""Its scheduler/scheduler_config.json, as published: it states no timestep_spacing."""


@pytest.mark.parametrize(
    ("stated", "first"), [({}, 999), ({"timestep_spacing": "leading"}, 941), ({"timestep_spacing": "trailing"}, 999)]
)
def test_sampling_starts_at_the_last_timestep_unless_the_file_says_otherwise(
    tmp_path: Path, stated: dict, first: int
) -> None:
    (tmp_path / "scheduler_config.json").write_text(json.dumps(STABLE_DIFFUSION_2_1 | stated))
    scheduler = load_noise_scheduler(tmp_path)
    assert scheduler.config.prediction_type == "v_prediction"
    assert scheduler.alphas_cumprod[-1].item() == pytest.approx(0.00466, abs=1e-5)
    sampler = build_sampler(scheduler)
    sampler.set_timesteps(20)
    assert sampler.timesteps[0] == first


def test_unknown_families_and_pipelines_are_named(saved: Path, tmp_path: Path) -> None:
    assert family_of(saved).name == "sd"
    with pytest.raises(InputError, match=r"'sdxl' is not known\n.*use one of sd"):
        family("sdxl")
    with pytest.raises(InputError, match=r"model_index.json is missing"):
        load_pipeline(tmp_path)
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(InputError, match="FluxPipeline, which no model family supports"):
        load_pipeline(tmp_path)


PLAIN_DIFFUSERS = """
import sys, torch
from diffusers import DiffusionPipeline
pipeline = DiffusionPipeline.from_pretrained(sys.argv[1])
pipeline.set_progress_bar_config(disable=True)
latents = torch.load(sys.argv[2], weights_only=True)
out = pipeline("a red circle", latents=latents, num_inference_steps=4, guidance_scale=3.0, output_type="latent").images
image = pipeline("a red circle", num_inference_steps=2).images[0]
assert image.size == (64, 64), image.size
assert not any(name.split(".")[0] == "raysys" for name in sys.modules), "raysys was imported"
torch.save(out, sys.argv[2])
"""


def test_plain_diffusers_runs_the_saved_pipeline_in_a_fresh_process(saved: Path, tmp_path: Path) -> None:
    noise = initial_noise(0, "p", 0, (12, 8, 8))[None]
    torch.save(noise, tmp_path / "latents.pt")
    command = [sys.executable, "-I", "-c", PLAIN_DIFFUSERS, str(saved), str(tmp_path / "latents.pt")]
    # One thread: on a busy machine torch's second one mostly spins (20 times the CPU time was seen).
    subprocess.run(command, check=True, timeout=200, cwd=tmp_path, env={**os.environ, "OMP_NUM_THREADS": "1"})
    theirs = torch.load(tmp_path / "latents.pt", weights_only=True)
    parts = load_pipeline(saved)
    states = parts.text_encoder.encode(["a red circle", ""]).conditioning
    ours = sample(parts.denoiser, states[:1], noise, ClassifierFreeGuidance(3.0, states[1:]), 4)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_save_replaces_an_older_model_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_tiny_pipeline(folder, seed=0)
    first = model_hash(folder)
    (folder / "stale.safetensors").write_bytes(b"")
    save_tiny_pipeline(folder, seed=1)
    assert model_hash(folder) != first
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert not (folder / "stale.safetensors").exists()


def test_a_failed_save_keeps_the_older_model(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    before = model_hash(folder)
    monkeypatch.setattr("diffusers.UNet2DConditionModel.save_pretrained", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_tiny_pipeline(folder, seed=1)
    assert model_hash(folder) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_model_hash_sees_weights_and_configs_but_not_versions(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    assert model_hash(folder) == model_hash(saved)
    config = folder / "unet" / "config.json"
    data = json.loads(config.read_text())
    config.write_text(json.dumps({**data, "_diffusers_version": "9.9"}))
    (folder / "README.md").write_text("hello")
    assert model_hash(folder) == model_hash(saved)
    config.write_text(json.dumps({**data, "sample_size": 16}))
    assert model_hash(folder) != model_hash(saved)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    config.write_text(json.dumps(data))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    assert model_hash(folder) != model_hash(saved)
    with pytest.raises(InputError, match="safetensors"):
        model_hash(tmp_path / "nothing")


def test_missing_and_damaged_models_are_named(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        SD.load_autoencoder(tmp_path / "nowhere")
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"unet.* is damaged or incomplete"):
        SD.load_denoiser(folder)
    weights.unlink()
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        SD.load_denoiser(folder)
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(InputError, match="no text_encoder folder"):
        SD.load_text_encoder(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(InputError, match="scheduler"):
        load_noise_scheduler(folder)
