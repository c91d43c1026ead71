"""Model families: shapes and seeds of the U-Net, schedules, latents and text states, saved pipelines, hashes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raysys.errors import InputError
from raysys.models.loading import load_noise_scheduler, load_text_encoder, load_unet, load_vae, model_hash
from raysys.models.pipeline import load_pipeline, save_pipeline
from raysys.models.schedule import NoiseScheduleConfig, build_noise_scheduler
from raysys.models.text import encode_captions, max_length
from raysys.models.unet import UNetConfig, build_unet
from raysys.models.vae import decode_latents, encode_pixel_values, images_to_pixel_values, pixel_values_to_images
from raysys.sampling.noise import initial_noise
from raysys.sampling.sample import sample

SMALL = UNetConfig(block_out_channels=(32, 32), attention_head_dim=16)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with a small random U-Net that predicts v."""
    folder = tmp_path_factory.mktemp("models") / "pipeline"
    save_small(folder, seed=0)
    return folder


def save_small(folder: Path, seed: int) -> None:
    tokenizer, text_encoder = load_text_encoder("zoo:text_encoder")
    scheduler = build_noise_scheduler(NoiseScheduleConfig(prediction_type="v_prediction"))
    save_pipeline(folder, build_unet(SMALL, seed), load_vae("zoo:vae"), text_encoder, tokenizer, scheduler)


def test_demo_unet_has_2_2_million_parameters_and_fits_the_zoo() -> None:
    unet = build_unet(UNetConfig(), seed=0)
    assert sum(p.numel() for p in unet.parameters()) == pytest.approx(2.2e6, rel=0.02)
    vae, (_, text_encoder) = load_vae("zoo:vae"), load_text_encoder("zoo:text_encoder")
    assert unet.config.in_channels == unet.config.out_channels == vae.config.latent_channels
    assert unet.config.cross_attention_dim == text_encoder.config.hidden_size
    # Heads of 32 channels on every level: the first level has 64 channels, the second 96.
    assert [b.attentions[0].transformer_blocks[0].attn2.heads for b in unet.down_blocks[:1]] == [2]
    assert unet.mid_block.attentions[0].transformer_blocks[0].attn2.heads == 3


def test_unet_weights_belong_to_the_seed() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first, again, other = (build_unet(SMALL, seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.conv_in.weight, again.conv_in.weight)
    assert not torch.equal(first.conv_in.weight, other.conv_in.weight)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"block_out_channels": (64,)}, "levels"),
        ({"norm_num_groups": 7}, "must divide"),
        ({"sample_size": 7}, "halved"),
        ({"channels": 4}, "Extra inputs"),
    ],
)
def test_unet_config_mistakes_are_named(wrong: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        UNetConfig(**wrong)


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
    vae = load_vae("zoo:vae")
    values = torch.linspace(-1, 1, 2 * 3 * 64 * 64).reshape(2, 3, 64, 64)
    posterior = vae.encode(values).latent_dist
    scale = vae.config.scaling_factor
    torch.testing.assert_close(encode_pixel_values(vae, values), posterior.mode() * scale)
    noise = torch.ones(2, 12, 8, 8)
    torch.testing.assert_close(encode_pixel_values(vae, values, noise), (posterior.mean + posterior.std) * scale)
    assert decode_latents(vae, posterior.mode() * scale).shape == (2, 64, 64, 3)


def test_text_states_equal_diffusers_and_any_unicode_survives() -> None:
    tokenizer, text_encoder = load_text_encoder("zoo:text_encoder")
    captions = ["a red circle", "", "赤い円 🦊 \x00 ñandú <|endoftext|>", "very " * 200]
    states = encode_captions(tokenizer, text_encoder, captions)
    length = max_length(tokenizer, text_encoder)
    assert states.prompt_embeds.shape == (4, length, text_encoder.config.hidden_size)
    assert states.prompt_embeds.isfinite().all()
    assert states.truncated == [False, False, states.n_tokens[2] > length, True]
    assert states.n_tokens[1] == 2
    ids = tokenizer("a red circle", padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    torch.testing.assert_close(states.prompt_embeds[:1], text_encoder(ids.input_ids).last_hidden_state)
    assert tokenizer.decode(tokenizer("a red circle").input_ids, skip_special_tokens=True) == "a red circle"


def test_saved_pipeline_loads_back_with_the_same_weights(saved: Path) -> None:
    parts = load_pipeline(saved)
    assert parts.noise_scheduler.config.prediction_type == "v_prediction"
    expected = build_noise_scheduler(NoiseScheduleConfig(prediction_type="v_prediction"))
    torch.testing.assert_close(parts.noise_scheduler.alphas_cumprod, expected.alphas_cumprod)
    assert torch.equal(parts.unet.conv_in.weight, build_unet(SMALL, 0).conv_in.weight)
    assert not parts.unet.training
    assert not any(p.requires_grad for p in parts.unet.parameters())


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
    states = encode_captions(parts.tokenizer, parts.text_encoder, ["a red circle", ""]).prompt_embeds
    ours = sample(parts.unet, parts.noise_scheduler, states[:1], states[1:], noise, 4, 3.0)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_save_replaces_an_older_model_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    save_small(folder, seed=0)
    first = model_hash(folder)
    (folder / "stale.safetensors").write_bytes(b"")
    save_small(folder, seed=1)
    assert model_hash(folder) != first
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert not (folder / "stale.safetensors").exists()


def test_a_failed_save_keeps_the_older_model(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    before = model_hash(folder)
    monkeypatch.setattr("diffusers.UNet2DConditionModel.save_pretrained", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save_small(folder, seed=1)
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
        load_vae(tmp_path / "nowhere")
    folder = tmp_path / "model"
    shutil.copytree(saved, folder)
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"unet.* cannot be loaded"):
        load_unet(folder)
    weights.unlink()
    torch.save({}, folder / "unet" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_unet(folder)
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(InputError, match="no text_encoder folder"):
        load_text_encoder(folder)
    (folder / "scheduler" / "scheduler_config.json").write_text("{")
    with pytest.raises(InputError, match="scheduler"):
        load_noise_scheduler(folder)
