"""The diffusion recipe: fusion and dropout where they belong, exact resume, identity by content, start_from."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from raysys.errors import InputError
from raysys.fusion import FusionSet
from raysys.latents.assemble import assemble
from raysys.latents.parts import PartLoader, read_tables
from raysys.models.families import family
from raysys.models.family import Conditioning, EncodedCaptions, Pipeline
from raysys.rows import TRAINING_SET
from raysys.training.batches import BatchMaker
from raysys.training.checkpoint import load_weights
from raysys.training.diffusion import (
    DENOISER,
    DiffusionRecipe,
    build_denoiser,
    check_encoders,
    identity,
)
from raysys.training.diffusion_config import DiffusionConfig
from raysys.training.draws import draw_batch
from raysys.training.local_worker import LocalWorker
from raysys.training.loop import fit
from raysys.training.run_config import RunConfig
from tests.support.sets import set_row

T, D = 3, 8


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in another order are other floats: exactness is promised for a fixed number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Text:
    """A stand-in for the text encoder: fixed random states per caption."""

    tokenizer = None
    max_length = T

    def encode(self, captions) -> EncodedCaptions:
        seeds = [int.from_bytes(hashlib.sha256(c.encode()).digest()[:4], "little") for c in captions]
        states = [np.random.default_rng(s).standard_normal((T, D)) for s in seeds]
        found = torch.from_numpy(np.stack(states).astype(np.float16)).float()
        return EncodedCaptions(Conditioning(found), [T] * len(captions))


def states(caption: str) -> torch.Tensor:
    return Text().encode([caption]).conditioning.states[0]


def make_set(folder: Path, n: int, prefix: str, n_captions: int | None = None, seed: int = 0) -> Path:
    """n rows of 4×4×3 latents; row i has the caption '<prefix> <i mod n_captions>'."""
    rng = np.random.default_rng([seed, *prefix.encode()])
    rows = []
    for i in range(n):
        caption = f"{prefix} {i % (n_captions or n)}"
        rows.append(set_row(f"{prefix}-{i:03d}", caption, rng.standard_normal((3, 4, 4)), states(caption).numpy()))
    assemble([TRAINING_SET.table(rows)], folder, seed=0, part_rows=5)
    return folder


@pytest.fixture
def sets(tmp_path):
    return make_set(tmp_path / "train", 12, "image"), make_set(tmp_path / "fusion", 6, "class", n_captions=3)


def diffusion(**changes) -> DiffusionConfig:
    """A U-Net of 0.1M parameters, so that a step takes milliseconds."""
    denoiser = {
        "sample_size": 4,
        "in_channels": 3,
        "block_out_channels": (16, 16),
        "cross_attention_dim": D,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    return DiffusionConfig.model_validate({"denoiser": denoiser, "caption_dropout": 0.3} | changes)


def training(**changes) -> RunConfig:
    values = {
        "max_steps": 6,
        "batch_size": 4,
        "ema_decay": 0.9,
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 2},
        "log_every_steps": 1,
        "checkpoint_every_steps": 3,
    }
    return RunConfig.model_validate(values | changes)


def run(config: DiffusionConfig, training_set: Path, root: Path, load_from=None, validation_set=None, **changes):
    """(what fit returns, the metrics, the checkpoints)"""
    metrics: list[dict] = []
    worker = LocalWorker(root, load_from=load_from, on_report=metrics.append)
    recipe = DiffusionRecipe(config, 0, training_set, validation_set, Text())
    return fit(recipe, training(**changes), worker), metrics, worker.checkpoints


def losses(metrics: list[dict]) -> list[float]:
    return [m["loss"] for m in metrics]


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "changes",
    [
        {"min_snr_gamma": 5.0},
        {"noise_schedule": {"prediction_type": "v_prediction"}},
        {"fusion": "embedding"},
        {"fusion": "token"},
    ],
    ids=["min_snr", "v_prediction", "embedding", "token"],
)
def test_resume_is_exact(tmp_path, sets, changes):
    if "fusion" in changes:
        changes = {"fusion": {"level": changes["fusion"], "set": str(sets[1])}}
    straight, whole, checkpoints = run(diffusion(**changes), sets[0], tmp_path / "a")
    resumed, after, _ = run(diffusion(**changes), sets[0], tmp_path / "b", load_from=checkpoints[0])
    assert losses(after) == losses(whole)[3:]
    assert same(straight.modules[DENOISER].state_dict(), resumed.modules[DENOISER].state_dict())
    assert same(straight.ema.shadow, resumed.ema.shadow)


def test_it_learns(tmp_path, sets):
    changes = {"max_steps": 75, "log_every_steps": 25, "optimizer": {"learning_rate": 3e-3}}
    _, metrics, _ = run(diffusion(), sets[0], tmp_path, **changes)
    assert losses(metrics)[0] > 0.8
    assert losses(metrics)[-1] < 0.8 * losses(metrics)[0]


def test_micro_steps_give_the_same_curve(tmp_path, sets):
    config = diffusion(fusion={"level": "embedding", "set": str(sets[1])})
    one, two = (run(config, sets[0], tmp_path / str(n), gradient_accumulation_steps=n)[1] for n in (1, 2))
    np.testing.assert_allclose(losses(one), losses(two), rtol=1e-5)


def test_validation_loss_is_plain(tmp_path, sets):
    """Failed before: it had the Min-SNR weights of the training."""
    held = make_set(tmp_path / "held", 5, "held")
    found = []
    for gamma in (None, 0.01):  # below every SNR, so that each sample has another weight
        options = {"validation_set": held, "validation_every_steps": 2, "validation_samples": 10, "max_steps": 2}
        optimizer = {"learning_rate": 1e-30}  # the weights stay: only the loss can differ
        _, metrics, _ = run(
            diffusion(min_snr_gamma=gamma), sets[0], tmp_path / f"{gamma}", optimizer=optimizer, **options
        )
        found.append((metrics[1]["loss"], metrics[1]["validation_loss"]))
    assert found[0][0] != found[1][0]
    assert found[0][1] == found[1][1]


def maker(config: DiffusionConfig, sets) -> BatchMaker:
    fusion_set = FusionSet.from_tables(read_tables(sets[1]))
    return BatchMaker(config, 0, build_denoiser(config, 0), Text(), fusion_set)


def first_batch(folder: Path, n: int):
    return next(PartLoader(folder, n))


def clean_latents(inputs, config: DiffusionConfig) -> torch.Tensor:
    """x_0 from x_t and ε: (x_t − √(1−ᾱ)·ε)/√ᾱ."""
    alphas = build_denoiser(config, 0).noise_scheduler.alphas_cumprod[inputs.timesteps].view(-1, 1, 1, 1)
    return (inputs.noisy_latents - (1 - alphas).sqrt() * inputs.target) / alphas.sqrt()


def test_fusion_happens_before_noising_and_dropout_after_fusion(sets):
    n = 64
    batch = first_batch(sets[0], n)
    plain_config = diffusion()
    fused_config = diffusion(fusion={"level": "embedding", "set": str(sets[1]), "w_lat": 0.25, "w_emb": 0.5})
    plain, fused = (maker(c, sets).make(batch, range(n)) for c in (plain_config, fused_config))
    # The plain and the fused run of a seed see the same timesteps and noise.
    assert torch.equal(plain.timesteps, fused.timesteps)
    assert torch.equal(plain.target, fused.target)
    early = plain.timesteps < 900  # at the last timesteps x_0 cannot be recovered from float32 with much precision
    clean = clean_latents(plain, plain_config)
    torch.testing.assert_close(clean[early], batch.latents[early], rtol=1e-3, atol=1e-3)
    bucket = FusionSet.from_tables(read_tables(sets[1])).bucket("4x4")
    mixed = clean_latents(fused, fused_config)
    dropped = draw_batch(0, range(n), (3, 4, 4), 1000, 0.3).caption_dropped
    assert 5 < dropped.sum() < 35
    for k in range(n):
        other = ((mixed[k] - 0.75 * batch.latents[k]) / 0.25)[None]
        distance = (other - bucket.latents).flatten(1).abs().mean(1)
        image = int(distance.argmin())
        if early[k]:
            assert distance[image] < 0.05, "a latent of the fusion set was mixed in"
        if dropped[k]:
            assert torch.equal(fused.conditioning.states[k], states(""))
        elif early[k]:
            own, mixed_in = batch.conditioning.states[k], states(bucket.captions[bucket.class_of[image]])
            torch.testing.assert_close(fused.conditioning.states[k], 0.5 * own + 0.5 * mixed_in)


def test_token_level_encodes_the_joined_caption(sets):
    config = diffusion(caption_dropout=0.0, fusion={"level": "token", "set": str(sets[1])})
    batch = first_batch(sets[0], 4)
    found = maker(config, sets).make(batch, range(4)).conditioning.states
    for k, caption in enumerate(batch.captions):
        assert any(torch.equal(found[k], states(f"{caption} class {c}")) for c in range(3))


def test_caption_mitigations_change_the_text_states_only(sets):
    batch = first_batch(sets[0], 4)
    plain = maker(diffusion(caption_dropout=0.0), sets).make(batch, range(4))
    noisy_config = diffusion(caption_dropout=0.0, caption_mitigation={"kind": "gaussian_noise", "scale": 0.1})
    noisy = maker(noisy_config, sets).make(batch, range(4))
    assert torch.equal(plain.noisy_latents, noisy.noisy_latents)
    assert 0.05 < (noisy.conditioning.states - plain.conditioning.states).std() < 0.15
    repeat_config = diffusion(caption_dropout=0.0, caption_mitigation={"kind": "word_repetition", "probability": 1.0})
    repeated = maker(repeat_config, sets).make(batch, range(4)).conditioning.states
    assert not any(torch.equal(a, b) for a, b in zip(repeated, plain.conditioning.states, strict=True))


def test_another_set_of_the_same_size_cannot_resume(tmp_path, sets):
    """Failed before: only the number of rows and parts was compared."""
    checkpoint = run(diffusion(), sets[0], tmp_path / "a", max_steps=3)[2][-1]
    with pytest.raises(InputError, match=r"recipe\.training_set"):
        run(diffusion(), make_set(tmp_path / "other", 12, "image", seed=1), tmp_path / "b", load_from=checkpoint)
    with pytest.raises(InputError, match=r"recipe\.caption_dropout: 0.3 → 0.0"):
        run(diffusion(caption_dropout=0.0), sets[0], tmp_path / "b", load_from=checkpoint)
    moved = sets[0].rename(tmp_path / "moved")
    assert run(diffusion(), moved, tmp_path / "b", load_from=checkpoint, max_steps=4)[0].step == 4


def test_sets_of_other_encoders_are_refused(tmp_path, sets):
    """Failed before: a set encoded with another VAE was trained on, and that VAE's place taken in the pipeline."""
    models = {"vae_hash": "v", "text_encoder_hash": "t", "tokenizer_hash": "k"}
    check_encoders(sets[0], models)  # it recorded none
    path = sets[0] / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"encoders": models}))
    check_encoders(sets[0], models)
    for name in models:
        with pytest.raises(InputError, match=f"{name}: the set has {models[name]}, this training has other"):
            check_encoders(sets[0], models | {name: "other"})


@pytest.fixture
def saved(tmp_path) -> Path:
    """A pipeline folder of a tiny U-Net, with a schedule of its own."""
    sd = family("sd")
    config = diffusion(noise_schedule={"prediction_type": "v_prediction", "beta_end": 0.02})
    pipeline = Pipeline(
        sd.load_text_encoder("zoo:text_encoder"), build_denoiser(config, 3), sd.load_autoencoder("zoo:vae")
    )
    return sd.save_pipeline(tmp_path / "pipeline", pipeline)


def test_start_from(tmp_path, sets, saved):
    """Failed before: a U-Net folder could not be loaded, noise_schedule was ignored, the saved one did not count."""
    expected = build_denoiser(diffusion(), 3).state_dict()
    bare = tmp_path / "unet"
    (saved / "unet").rename(bare)
    bare_config = diffusion(start_from=str(bare))
    found = build_denoiser(bare_config, 0)
    assert same(found.state_dict(), expected)
    assert all(p.requires_grad for p in found.parameters())
    assert found.noise_scheduler.config.prediction_type == "epsilon", "no schedule lies beside it: Stable Diffusion's"
    bare.rename(saved / "unet")
    whole = diffusion(start_from=str(saved))
    schedule = build_denoiser(whole, 0).noise_scheduler.config
    assert (schedule.prediction_type, schedule.beta_end) == ("v_prediction", 0.02)
    replaced = diffusion(start_from=str(saved), noise_schedule={"beta_end": 0.03})
    schedule = build_denoiser(replaced, 0).noise_scheduler.config
    assert (schedule.prediction_type, schedule.beta_end) == ("epsilon", 0.03), "a schedule that is set replaces it"

    first = identity(whole, sets[0], {})
    assert first["noise_schedule"]["beta_end"] == 0.02
    assert identity(replaced, sets[0], {}) != first
    path = saved / "scheduler/scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"beta_start": 0.001}))
    assert identity(whole, sets[0], {}) != first
    finished, _, _ = run(whole, sets[0], tmp_path / "a", max_steps=1)
    assert finished.completed


def test_the_average_is_what_is_exported(tmp_path, sets):
    finished, _, checkpoints = run(diffusion(), sets[0], tmp_path / "a")
    sd = family("sd")
    text_encoder, autoencoder = sd.load_text_encoder("zoo:text_encoder"), sd.load_autoencoder("zoo:vae")
    recipe = DiffusionRecipe(diffusion(), 0, sets[0], None, text_encoder, autoencoder)
    folder = recipe.export(lambda modules: load_weights(checkpoints[-1], modules), tmp_path / "pipeline")
    loaded = sd.load_pipeline(folder).denoiser
    assert loaded.noise_scheduler.config.prediction_type == "epsilon"
    assert same(finished.ema.shadow, {f"{DENOISER}.{n}": p.detach() for n, p in loaded.named_parameters()})
    assert not same(dict(finished.modules[DENOISER].state_dict()), loaded.state_dict())
