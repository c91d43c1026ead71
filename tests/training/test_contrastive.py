"""The training loop on a loss that couples the samples of a batch: it assumes nothing about diffusion.

Every pair is a negative of every other in the global batch, so one worker's loss and gradients need the others'
embeddings. Tolerances: workers sum in another order than one process. Over 8 steps the losses differed by 3e-7 of their
value and the gradient norms by 8e-7; ten times that is allowed. With the negatives of the own share only the losses
differed by 20 % and more, without gradients through the others' embeddings the norms by 8 % and more.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPModel

from raysys.errors import InputError
from raysys.training.checkpoint import load_weights
from raysys.training.local_worker import LocalWorker
from raysys.training.loop import fit
from raysys.training.parallel import unwrapped, whole
from raysys.training.recipe import Share
from raysys.training.run_config import RunConfig
from raysys.zoo import clip as zoo_clip
from tests.support.contrastive_recipe import TOWERS, ContrastiveRecipe
from tests.support.workers import run_workers

STEPS, SAVED = 48, 32
SHORT, HALF = 6, 3
BATCH_SIZE, N_HELD_OUT = 15, 60
"""8 + 7 pairs on two workers."""
KINDS = ("ddp", "fsdp2")


def config(**changes) -> RunConfig:
    values = {
        "max_steps": STEPS,
        "batch_size": BATCH_SIZE,
        "ema_decay": 0.9,
        "optimizer": {"learning_rate": 1e-3, "warmup_steps": 10},
        "log_every_steps": 1,
        "checkpoint_every_steps": SAVED,
        "validation_every_steps": SHORT,
        "validation_samples": N_HELD_OUT,
    }
    return RunConfig.model_validate(values | changes)


SHORTER = {"max_steps": SHORT, "checkpoint_every_steps": HALF}


def run(
    root: Path, run_config: RunConfig, rank: int = 0, world_size: int = 1, captions: str = "own", **options
) -> dict:
    """What is compared between runs."""
    metrics: list[dict] = []
    worker = LocalWorker(root, rank, world_size, on_report=metrics.append, **options)
    finished = fit(ContrastiveRecipe(captions=captions), run_config, worker)
    return {
        "losses": torch.tensor([m["loss"] for m in metrics]),
        "norms": torch.tensor([m["grad_norm"] for m in metrics]),
        "retrieval": [m["validation_retrieval_at_1"] for m in metrics if "validation_retrieval_at_1" in m],
        "weights": {name: whole(x.detach()) for name, x in unwrapped(finished.modules)[TOWERS].state_dict().items()},
        "average": {name: whole(x) for name, x in finished.ema.shadow.items()},
        "checkpoints": worker.checkpoints,
    }


def _two_workers(rank: int, root: Path) -> None:
    for kind in KINDS:
        shorter = config(parallel=kind, **SHORTER)
        found = run(root / kind, shorter, rank, 2)
        found["resumed"] = run(root / f"{kind}-b", shorter, rank, 2, load_from=found["checkpoints"][0])
        torch.save(found, root / f"{kind}-{rank}.pt")


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> dict:
    """One process, all steps."""
    return run(tmp_path_factory.mktemp("contrastive"), config())


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory) -> dict[str, list[dict]]:
    """{"ddp", "fsdp2"}: what each of two ranks found."""
    root = tmp_path_factory.mktemp("workers")
    run_workers(_two_workers, 2, root)
    return {kind: [torch.load(root / f"{kind}-{rank}.pt", weights_only=False) for rank in (0, 1)] for kind in KINDS}


def assert_close(a: dict, b: dict) -> None:
    steps = len(a["losses"])
    torch.testing.assert_close(a["losses"], b["losses"][:steps], rtol=3e-6, atol=0)
    torch.testing.assert_close(a["norms"], b["norms"][:steps], rtol=8e-6, atol=0)


def assert_equal(a: dict, b: dict, start: int = 0) -> None:
    """The curve of `a` is that of `b` from step `start` on, and all weights are equal, bit for bit."""
    assert torch.equal(a["losses"], b["losses"][start:])
    assert all(torch.equal(a[name][k], b[name][k]) for name in ("weights", "average") for k in b[name])


def test_it_learns_to_retrieve_and_learns_nothing_from_captions_of_other_images(trained, tmp_path):
    recipe = ContrastiveRecipe()
    towers = recipe.build().trainable[TOWERS].eval()
    with torch.no_grad():
        start = recipe.validate({TOWERS: towers}, Share(0, 1, BATCH_SIZE), N_HELD_OUT)["retrieval_at_1"]
    assert start <= 0.1
    assert trained["losses"][-10:].mean() < 0.5 * trained["losses"][:10].mean()
    assert trained["retrieval"][-1] >= 0.25
    shuffled = run(tmp_path, config(), captions="other")
    assert max(shuffled["retrieval"]) <= 0.1
    assert shuffled["losses"][-10:].mean() > 0.95 * torch.tensor(float(BATCH_SIZE)).log(), "that of a guess"


def test_resume_is_exact(trained, tmp_path):
    resumed = run(tmp_path, config(), load_from=trained["checkpoints"][0])
    assert len(resumed["losses"]) == STEPS - SAVED
    assert_equal(resumed, trained, start=SAVED)
    assert resumed["retrieval"] == trained["retrieval"][SAVED // SHORT :]


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_follow_one_process(two_workers, trained, kind):
    ranks = two_workers[kind]
    assert len(ranks[0]["losses"]) == SHORT
    assert_equal(ranks[0], ranks[1])
    assert_close(ranks[0], trained)
    assert ranks[0]["retrieval"] == pytest.approx(trained["retrieval"][:1])


@pytest.mark.parametrize("kind", KINDS)
def test_resume_is_exact_with_two_workers(two_workers, kind):
    assert_equal(two_workers[kind][0]["resumed"], two_workers[kind][0], start=HALF)


def test_the_export_is_a_clip_that_retrieves_as_validated(trained, tmp_path, monkeypatch):
    recipe = ContrastiveRecipe()
    folder = recipe.export(lambda modules: load_weights(trained["checkpoints"][-1], modules), tmp_path / "clip")
    monkeypatch.setattr(zoo_clip, "N_MEASURED", N_HELD_OUT)
    measured = zoo_clip.measure(CLIPModel.from_pretrained(folder).eval(), recipe.tokenizer)
    assert measured["retrieval_at_1_image_to_text"] == round(trained["retrieval"][-1], 3)


def test_parts_of_a_batch_are_refused(tmp_path):
    with pytest.raises(InputError, match="whole batches"):
        run(tmp_path, config(gradient_accumulation_steps=2))
