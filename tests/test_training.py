"""The training loop: exact resume, the same curve for 1 and 2 workers, fusion and dropout where they belong."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from raysys.errors import InputError
from raysys.fusion import FusionSet
from raysys.latents.assemble import assemble
from raysys.latents.parts import PartLoader, read_tables
from raysys.outcomes import kept
from raysys.rows import TRAINING_SET, array_to_bytes
from raysys.training.batches import BatchMaker, TextConditioning
from raysys.training.config import DiffusionTrainingConfig
from raysys.training.diffusion import build_model, train
from raysys.training.draws import draw_batch
from raysys.training.export import load_trained
from raysys.training.state import read_state

T, D = 3, 8


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in another order are other floats: exactness is promised for a fixed number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def encode(captions) -> torch.Tensor:
    """A stand-in for the text encoder: fixed random states per caption."""
    seeds = [int.from_bytes(hashlib.sha256(c.encode()).digest()[:4], "little") for c in captions]
    states = [np.random.default_rng(s).standard_normal((T, D)) for s in seeds]
    return torch.from_numpy(np.stack(states).astype(np.float16)).float()


TEXT = TextConditioning(encode, tokenizer=None)


def make_set(folder, n: int, prefix: str, n_captions: int | None = None):
    """n rows of 4×4×3 latents; row i has the caption '<prefix> <i mod n_captions>'."""
    rng = np.random.default_rng(sum(prefix.encode()))
    rows = []
    for i in range(n):
        caption = f"{prefix} {i % (n_captions or n)}"
        latents, shape = array_to_bytes(rng.standard_normal((3, 4, 4)))
        embeds, embeds_shape = array_to_bytes(encode([caption])[0].numpy())
        arrays = {
            "latents": latents,
            "latents_shape": shape,
            "prompt_embeds": embeds,
            "prompt_embeds_shape": embeds_shape,
        }
        rows.append({"row_id": f"{prefix}-{i:03d}", "copy": 0, "caption": caption, "bucket": "4x4", **arrays, **kept()})
    assemble([TRAINING_SET.table(rows)], folder, seed=0, part_rows=5)
    return folder


@pytest.fixture
def sets(tmp_path):
    return make_set(tmp_path / "train", 12, "image"), make_set(tmp_path / "fusion", 6, "class", n_captions=3)


def config(**changes) -> DiffusionTrainingConfig:
    """A U-Net of 0.1M parameters, so that a step takes milliseconds."""
    unet = {
        "sample_size": 4,
        "in_channels": 3,
        "block_out_channels": (16, 16),
        "cross_attention_dim": D,
        "attention_head_dim": 8,
        "norm_num_groups": 8,
    }
    values = {
        "unet": unet,
        "max_steps": 6,
        "batch_size": 4,
        "caption_dropout": 0.3,
        "ema_decay": 0.9,
        "optimiser": {"learning_rate": 1e-3, "warmup_steps": 2},
        "log_every_steps": 1,
        "checkpoint_every_steps": 3,
    }
    return DiffusionTrainingConfig.model_validate(values | changes)


class Recorder:
    """A report hook that remembers."""

    def __init__(self) -> None:
        self.metrics, self.checkpoints = [], []

    def __call__(self, metrics, checkpoint, due) -> None:
        self.metrics.append(metrics)
        if checkpoint is not None:
            self.checkpoints.append(checkpoint)

    def losses(self) -> list[float]:
        return [m["loss"] for m in self.metrics]


def run(cfg, training_set, root, **options):
    recorder = Recorder()
    finished = train(cfg, training_set, text=TEXT, report=recorder, checkpoint_root=root, **options)
    return finished, recorder


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"gradient_accumulation_steps": 2, "min_snr_gamma": 5.0},
        {"noise_schedule": {"prediction_type": "v_prediction"}, "optimiser": {"schedule": "cosine"}},
        {"mixed_precision": "bf16"},
        {"fusion": "embedding"},
        {"fusion": "token"},
    ],
    ids=["plain", "accumulation", "v_cosine", "bf16", "embedding", "token"],
)
def test_resume_is_exact(tmp_path, sets, changes):
    if "fusion" in changes:
        changes = {"fusion": {"level": changes["fusion"], "set": str(sets[1])}}
    cfg = config(**changes)
    straight, whole = run(cfg, sets[0], tmp_path / "a")
    first, before = run(cfg, sets[0], tmp_path / "b", should_stop=iter([False, False, True]).__next__)
    assert (first.step, first.completed) == (3, False)
    torch.manual_seed(999)  # whatever the new process's generator holds must not matter
    second, after = run(cfg, sets[0], tmp_path / "c", load_from=before.checkpoints[-1])
    assert (second.step, second.completed) == (6, True)
    assert before.losses() + after.losses() == whole.losses()
    assert same(dict(straight.model.state_dict()), dict(second.model.state_dict()))
    assert same(straight.ema.shadow, second.ema.shadow)
    files = [c / "optimiser.pt" for c in (whole.checkpoints[-1], after.checkpoints[-1])]
    states = [torch.load(f, weights_only=True)["state"] for f in files]
    assert all(same(states[0][k], states[1][k]) for k in states[0])
    assert read_state(whole.checkpoints[-1]) == read_state(after.checkpoints[-1])


def test_dropout_inside_a_model_resumes_exactly_too(tmp_path, sets):
    def with_dropout(model):
        for name, module in model.named_modules():
            if name.endswith("dropout") or isinstance(module, torch.nn.Dropout):
                module.p = 0.5
        return model

    options = {"wrap_model": with_dropout}
    whole = run(config(), sets[0], tmp_path / "a", **options)[1]
    plain = run(config(), sets[0], tmp_path / "p")[1]
    assert whole.losses() != plain.losses(), "the dropout must do something"
    after = run(config(), sets[0], tmp_path / "b", load_from=whole.checkpoints[0], **options)[1]
    assert after.losses() == whole.losses()[3:]


def test_the_callers_generator_is_left_alone(tmp_path, sets):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(config(max_steps=1), sets[0], tmp_path / "a")
    assert torch.equal(torch.rand(1), expected)


def test_training_learns_and_reports(tmp_path, sets):
    cfg = config(max_steps=150, log_every_steps=25, optimiser={"learning_rate": 3e-3}, checkpoint_every_steps=100)
    finished, recorder = run(cfg, sets[0], tmp_path / "a")
    losses = recorder.losses()
    assert losses[0] > 0.8
    assert losses[-1] < 0.8 * losses[0]
    assert [m["step"] for m in recorder.metrics] == [25, 50, 75, 100, 125, 150]
    assert [c.name for c in recorder.checkpoints] == ["step-00000100", "step-00000150"]
    last = recorder.metrics[-1]
    assert last == finished.metrics
    assert set(last) == {
        "step", "loss", "learning_rate", "grad_norm", "images_per_second", "seconds_per_step", "data_wait_share",
        "eta_seconds",
    }  # fmt: skip
    assert last["images_per_second"] * last["seconds_per_step"] == pytest.approx(4)
    assert 0 <= last["data_wait_share"] < 1
    assert last["eta_seconds"] == 0


def test_accumulation_gives_the_same_curve(tmp_path, sets):
    one = run(config(), sets[0], tmp_path / "a")[1].losses()
    two = run(config(gradient_accumulation_steps=2), sets[0], tmp_path / "b")[1].losses()
    np.testing.assert_allclose(one, two, rtol=1e-5)


def _worker(rank: int, cfg_json: str, training_set: str, root: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{root}/rendezvous", rank=rank, world_size=2)
    cfg = DiffusionTrainingConfig.model_validate_json(cfg_json)
    finished, recorder = run(
        cfg,
        training_set,
        f"{root}/checkpoints",
        rank=rank,
        world_size=2,
        wrap_model=torch.nn.parallel.DistributedDataParallel,
    )
    result = {"losses": recorder.losses(), "checkpoints": [str(c) for c in recorder.checkpoints]}
    result["weights"] = float(sum(p.detach().double().abs().sum() for p in finished.model.parameters()))
    # Only rank 1 is told to stop: both must, at the same log step, or one would hang in the next reduction.
    options = {"rank": rank, "world_size": 2, "wrap_model": torch.nn.parallel.DistributedDataParallel}
    stopped, _ = run(
        cfg.model_copy(update={"log_every_steps": 2}),
        training_set,
        f"{root}/s",
        should_stop=lambda: rank == 1,
        **options,
    )
    result["stopped_at"] = stopped.step
    with open(f"{root}/rank{rank}.json", "w") as file:
        json.dump(result, file)
    dist.destroy_process_group()


@pytest.mark.timeout(900)  # two processes import torch and diffusers: 40 s alone, minutes on a busy machine
def test_two_workers_follow_the_curve_of_one(tmp_path, sets):
    cfg = config(gradient_accumulation_steps=2, batch_size=8, fusion={"level": "embedding", "set": str(sets[1])})
    one, recorder = run(cfg, sets[0], tmp_path / "one")
    spawn(_worker, (cfg.model_dump_json(), str(sets[0]), str(tmp_path)), nprocs=2)
    ranks = [json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1)]
    assert ranks[0]["losses"] == ranks[1]["losses"], "losses are means over the workers"
    np.testing.assert_allclose(ranks[0]["losses"], recorder.losses(), rtol=1e-4)
    assert ranks[0]["weights"] == ranks[1]["weights"]
    assert ranks[0]["stopped_at"] == ranks[1]["stopped_at"] == 2
    assert len(ranks[0]["checkpoints"]) == 2
    assert ranks[1]["checkpoints"] == [], "rank 0 writes them"
    weights = float(sum(p.detach().double().abs().sum() for p in one.model.parameters()))
    assert ranks[0]["weights"] == pytest.approx(weights, rel=1e-4)
    # A checkpoint of two workers resumes with one: the position does not depend on their number.
    after = run(cfg, sets[0], tmp_path / "more", load_from=ranks[0]["checkpoints"][0])[1]
    np.testing.assert_allclose(after.losses(), recorder.losses()[3:], rtol=1e-4)


def maker(cfg, sets) -> BatchMaker:
    scheduler = build_model(cfg)[1]
    fusion_set = FusionSet.from_tables(read_tables(sets[1]))
    return BatchMaker(cfg, scheduler.alphas_cumprod, scheduler.config.prediction_type, TEXT, fusion_set)


def clean_latents(inputs, cfg) -> torch.Tensor:
    """x_0 from x_t and ε: (x_t − √(1−ᾱ)·ε)/√ᾱ."""
    alphas = build_model(cfg)[1].alphas_cumprod[inputs.timesteps].view(-1, 1, 1, 1)
    return (inputs.noisy_latents - (1 - alphas).sqrt() * inputs.target) / alphas.sqrt()


def test_fusion_happens_before_noising_and_dropout_after_fusion(sets):
    n = 64
    batch = next(PartLoader(sets[0], n))
    plain_cfg = config(batch_size=n)
    fused_cfg = config(batch_size=n, fusion={"level": "embedding", "set": str(sets[1]), "w_lat": 0.25, "w_emb": 0.5})
    plain, fused = (maker(c, sets).make(batch, range(n)) for c in (plain_cfg, fused_cfg))
    # The plain and the fused run of a seed see the same timesteps and noise.
    assert torch.equal(plain.timesteps, fused.timesteps)
    assert torch.equal(plain.target, fused.target)
    early = plain.timesteps < 900  # at the last timesteps x_0 cannot be recovered from float32 with much precision
    torch.testing.assert_close(clean_latents(plain, plain_cfg)[early], batch["latents"][early], rtol=1e-3, atol=1e-3)
    bucket = FusionSet.from_tables(read_tables(sets[1])).bucket("4x4")
    mixed = clean_latents(fused, fused_cfg)
    dropped = draw_batch(0, range(n), (3, 4, 4), 1000, 0.3).caption_dropped
    assert 5 < dropped.sum() < 35
    for k in range(n):
        other = ((mixed[k] - 0.75 * batch["latents"][k]) / 0.25)[None]
        distance = (other - bucket.latents).flatten(1).abs().mean(1)
        image = int(distance.argmin())
        if early[k]:
            assert distance[image] < 0.05, "a latent of the fusion set was mixed in"
        if dropped[k]:
            assert torch.equal(fused.prompt_embeds[k], encode([""])[0])
        elif early[k]:
            expected = 0.5 * batch["prompt_embeds"][k] + 0.5 * bucket.caption_embeds[bucket.class_of[image]]
            torch.testing.assert_close(fused.prompt_embeds[k], expected)


def test_token_level_encodes_the_joined_caption(sets):
    cfg = config(caption_dropout=0.0, fusion={"level": "token", "set": str(sets[1])})
    batch = next(PartLoader(sets[0], 4))
    embeds = maker(cfg, sets).make(batch, range(4)).prompt_embeds
    for k, caption in enumerate(batch["captions"]):
        joined = [encode([f"{caption} class {c}"])[0] for c in range(3)]
        assert any(torch.equal(embeds[k], states) for states in joined)


def test_caption_mitigations_change_the_text_states_only(sets):
    batch = next(PartLoader(sets[0], 4))
    plain = maker(config(caption_dropout=0.0), sets).make(batch, range(4))
    noisy_cfg = config(caption_dropout=0.0, caption_mitigation={"kind": "gaussian_noise", "scale": 0.1})
    noisy = maker(noisy_cfg, sets).make(batch, range(4))
    assert torch.equal(plain.noisy_latents, noisy.noisy_latents)
    assert 0.05 < (noisy.prompt_embeds - plain.prompt_embeds).std() < 0.15
    repeat_cfg = config(caption_dropout=0.0, caption_mitigation={"kind": "word_repetition", "probability": 1.0})
    repeated = maker(repeat_cfg, sets).make(batch, range(4)).prompt_embeds
    assert not any(torch.equal(a, b) for a, b in zip(repeated, plain.prompt_embeds, strict=True))


def test_validation_loss_is_reported_and_does_not_touch_the_training(tmp_path, sets):
    without = run(config(), sets[0], tmp_path / "a")[1]
    cfg = config(validation_every_steps=3, validation_samples=10)
    with_ = run(cfg, sets[0], tmp_path / "b", validation_set=make_set(tmp_path / "held", 5, "held"))[1]
    assert without.losses() == with_.losses()
    assert ["validation_loss" in m for m in with_.metrics] == [False, False, True] * 2


def test_the_average_is_what_is_exported(tmp_path, sets):
    finished, recorder = run(config(), sets[0], tmp_path / "a")
    unet, scheduler = load_trained(recorder.checkpoints[-1])
    assert scheduler.config.prediction_type == "epsilon"
    assert same(finished.ema.shadow, dict(unet.named_parameters()))
    last, _ = load_trained(recorder.checkpoints[-1], use_ema=False)
    assert same(dict(finished.model.state_dict()), dict(last.state_dict()))
    assert not same(finished.ema.shadow, dict(last.named_parameters()))


def test_another_config_or_set_cannot_resume(tmp_path, sets):
    checkpoint = run(config(max_steps=3), sets[0], tmp_path / "a")[1].checkpoints[-1]
    with pytest.raises(InputError, match=r"caption_dropout: 0.3 → 0.0"):
        run(config(caption_dropout=0.0), sets[0], tmp_path / "b", load_from=checkpoint)
    with pytest.raises(InputError, match="training set"):
        run(config(), make_set(tmp_path / "other", 9, "other"), tmp_path / "b", load_from=checkpoint)
    longer, _ = run(config(max_steps=4, log_every_steps=2), sets[0], tmp_path / "b", load_from=checkpoint)
    assert longer.step == 4, "training longer is the same run"
    (checkpoint / "ema.safetensors").unlink()
    with pytest.raises(InputError, match="no complete checkpoint"):
        run(config(), sets[0], tmp_path / "b", load_from=checkpoint)


def test_bad_values_stop_early(tmp_path, sets):
    with pytest.raises(ValueError, match="does not divide"):
        config(batch_size=4, gradient_accumulation_steps=3)
    with pytest.raises(InputError, match="does not divide over 3 workers"):
        run(config(), sets[0], tmp_path / "a", world_size=3)
    with pytest.raises(InputError, match="no assembled training set"):
        run(config(), tmp_path / "nothing", tmp_path / "a")
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        run(config(max_steps=30, optimiser={"learning_rate": 1e30}), sets[0], tmp_path / "a")
