"""The training loop on a toy recipe: it assumes nothing about what is learned. Resume, requests, validation, shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raysys.errors import InputError
from raysys.training.checkpoint import TrainState, load_weights, read_state
from raysys.training.local_worker import LocalWorker
from raysys.training.loop import Finished, fit
from raysys.training.recipe import Share
from raysys.training.run_config import RunConfig
from raysys.training.worker import Request
from tests.support.toy_recipe import ToyRecipe


@pytest.fixture(autouse=True)
def _one_thread():
    """Sums in another order are other floats: exactness is promised for a fixed number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def config(**changes) -> RunConfig:
    values = {
        "max_steps": 10,
        "batch_size": 4,
        "ema_decay": 0.9,
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 2},
        "log_every_steps": 1,
        "checkpoint_every_steps": 5,
    }
    return RunConfig.model_validate(values | changes)


def run(root: Path, run_config: RunConfig | None = None, recipe: ToyRecipe | None = None, **options):
    """(what fit returns, the metrics, the worker)"""
    metrics: list[dict] = []
    worker = LocalWorker(root, on_report=metrics.append, **options)
    return fit(recipe or ToyRecipe(dropout=0.2), run_config or config(), worker), metrics, worker


def losses(metrics: list[dict]) -> list[float]:
    return [m["loss"] for m in metrics]


def weights(finished: Finished) -> dict[str, torch.Tensor]:
    return finished.modules["net"].state_dict()


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def files(folder: Path) -> dict[str, torch.Tensor]:
    """Everything a checkpoint of one worker holds, the optimizer's state too."""
    [file] = folder.glob("*.safetensors")
    return load_file(file)


def without_files(checkpoint: Path) -> TrainState:
    """The saved state without the files' hashes: tensors may stand in another order."""
    return replace(read_state(checkpoint), files={})


@pytest.mark.parametrize(
    "changes",
    [{}, {"gradient_accumulation_steps": 3}, {"mixed_precision": "bf16"}, {"optimizer": {"schedule": "cosine"}}],
    ids=["plain", "accumulation", "bf16", "cosine"],
)
def test_resume_is_exact(tmp_path, changes):
    straight, whole, one = run(tmp_path / "a", config(**changes))
    torch.manual_seed(999)  # whatever the new process's generator holds must not matter
    resumed, after, two = run(tmp_path / "b", config(**changes), load_from=one.checkpoints[0])
    assert losses(after) == losses(whole)[5:]
    assert same(weights(straight), weights(resumed))
    assert same(straight.ema.shadow, resumed.ema.shadow)
    assert same(files(one.checkpoints[-1]), files(two.checkpoints[-1]))
    assert without_files(one.checkpoints[-1]) == without_files(two.checkpoints[-1])


def test_the_callers_generator_is_left_alone(tmp_path):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    run(tmp_path, config(max_steps=1))
    assert torch.equal(torch.rand(1), expected)


def test_it_learns_and_reports(tmp_path):
    changes = {"max_steps": 150, "log_every_steps": 25, "checkpoint_every_steps": 100}
    finished, metrics, worker = run(tmp_path, config(**changes), ToyRecipe())
    assert losses(metrics)[-1] < 0.5 * losses(metrics)[0]
    assert [m["step"] for m in metrics] == [25, 50, 75, 100, 125, 150]
    assert [c.name for c in worker.checkpoints] == ["step-00000100", "step-00000150"]
    assert metrics[-1] == finished.metrics
    assert set(metrics[-1]) == {
        "step", "loss", "largest", "learning_rate", "grad_norm", "samples_per_second", "seconds_per_step",
        "data_wait_share", "eta_seconds",
    }  # fmt: skip
    assert metrics[-1]["samples_per_second"] * metrics[-1]["seconds_per_step"] == pytest.approx(4)
    assert metrics[-1]["eta_seconds"] == 0


def test_a_checkpoint_holds_the_state_of_its_step_though_the_training_goes_on(tmp_path):
    """Written in the background: what is saved must be a copy."""
    _, _, one = run(tmp_path / "a", config(max_steps=5))
    _, _, two = run(tmp_path / "b", config(max_steps=10))
    assert same(files(one.checkpoints[0]), files(two.checkpoints[0]))


def test_micro_steps_give_the_same_curve(tmp_path):
    one, two = (run(tmp_path / str(n), config(gradient_accumulation_steps=n), ToyRecipe())[1] for n in (1, 3))
    torch.testing.assert_close(losses(one), losses(two), rtol=1e-5, atol=0)


def test_shares_hold_every_sample_once():
    for batch_size, world_size in ((16, 3), (5, 5), (7, 2), (8, 1)):
        shares = [Share(rank, world_size, batch_size) for rank in range(world_size)]
        assert [p for share in shares for p in share.positions(3)] == list(range(3 * batch_size, 4 * batch_size))
        assert {len(share) for share in shares} <= {batch_size // world_size, -(-batch_size // world_size)}


def test_a_request_to_stop_ends_with_a_checkpoint(tmp_path):
    whole = run(tmp_path / "a")[1]
    requests = iter([Request.NOTHING] * 2 + [Request.STOP])
    finished, before, worker = run(tmp_path / "b", request=lambda: next(requests))
    assert (finished.step, finished.completed) == (3, False)
    assert [c.name for c in worker.checkpoints] == ["step-00000003"]
    assert losses(before) == losses(whole)[:3]
    assert losses(run(tmp_path / "c", load_from=worker.checkpoints[0])[1]) == losses(whole)[3:]


def test_a_request_to_save_goes_on(tmp_path):
    requests = iter([Request.NOTHING, Request.CHECKPOINT] + [Request.NOTHING] * 8)
    finished, _, worker = run(tmp_path, request=lambda: next(requests))
    assert finished.completed
    assert [c.name for c in worker.checkpoints] == ["step-00000002", "step-00000005", "step-00000010"]


def test_validation_keeps_its_interval_and_takes_the_average(tmp_path):
    """Failed before: it ran only where its interval met the log interval, with the raw weights."""
    recipe = ToyRecipe(dropout=0.2)
    changes = {"validation_every_steps": 3, "log_every_steps": 4}
    finished, metrics, _ = run(tmp_path / "a", config(**changes), recipe)
    assert [m["step"] for m in metrics if "validation_loss" in m] == [3, 6, 9]
    assert [m["step"] for m in metrics] == [3, 4, 5, 6, 8, 9, 10]
    without = run(tmp_path / "b", config())[0]
    assert same(weights(finished), weights(without)), "it does not touch the training"
    at_9, _, worker = run(tmp_path / "c", config(max_steps=9))
    built = recipe.build()
    load_weights(worker.checkpoints[-1], built.trainable)
    assert same(at_9.ema.shadow, {f"net.{k}": x for k, x in built.trainable["net"].state_dict().items()})
    built.trainable["net"].eval()
    expected = recipe.validate(built.trainable, Share(0, 1, 4), 4)["loss"]
    assert metrics[5]["validation_loss"] == expected
    load_weights(worker.checkpoints[-1], built.trainable, use_ema=False)
    assert same(weights(at_9), built.trainable["net"].state_dict())


def test_what_may_resume(tmp_path):
    _, _, worker = run(tmp_path / "a", config(max_steps=5))
    checkpoint = worker.checkpoints[-1]
    with pytest.raises(InputError, match=r"recipe.data: 'a' → 'b'"):
        run(tmp_path / "b", recipe=ToyRecipe(dropout=0.2, data="b"), load_from=checkpoint)
    with pytest.raises(InputError, match=r"run.optimizer.beta1: 0.9 → 0.5"):
        run(tmp_path / "b", config(optimizer={"beta1": 0.5}), load_from=checkpoint)
    with pytest.raises(InputError, match="step 5, beyond max_steps = 4"):
        run(tmp_path / "b", config(max_steps=4), load_from=checkpoint)
    longer = config(max_steps=6, log_every_steps=2, gradient_accumulation_steps=2, parallel="fsdp2")
    assert run(tmp_path / "b", longer, load_from=checkpoint)[0].step == 6, "training longer is the same run"
    cosine = {"learning_rate": 1e-2, "schedule": "cosine"}
    _, _, worker = run(tmp_path / "c", config(max_steps=5, optimizer=cosine))
    with pytest.raises(InputError, match=r"run.max_steps: 5 → 6"):
        run(tmp_path / "d", config(max_steps=6, optimizer=cosine), load_from=worker.checkpoints[-1])


def test_a_damaged_checkpoint_is_named(tmp_path):
    [checkpoint] = run(tmp_path / "a", config(max_steps=1))[2].checkpoints
    next(checkpoint.glob("*.safetensors")).unlink()
    with pytest.raises(InputError, match=r"shard-00001-model-00001-of-00001\.safetensors is missing"):
        run(tmp_path / "b", load_from=checkpoint)
    (checkpoint / "state.json").unlink()
    with pytest.raises(InputError, match=r"no state\.json"):
        run(tmp_path / "b", load_from=checkpoint)


def test_a_checkpoint_that_cannot_be_written_names_the_disk(tmp_path):
    def full_disk(position: int) -> None:
        if position == 16:  # the first sample of step 5, after which a checkpoint is due
            monkeypatch.setattr(LocalWorker, "checkpoint_folder", lambda self, step: Path("/proc/nothing"))

    with pytest.MonkeyPatch.context() as monkeypatch, pytest.raises(InputError, match="cannot write a checkpoint"):
        run(tmp_path, recipe=ToyRecipe(on_loss=full_disk))


def test_bad_values_stop_early(tmp_path):
    with pytest.raises(ValueError, match="above batch_size"):
        config(gradient_accumulation_steps=5)
    with pytest.raises(InputError, match="fewer than gradient_accumulation_steps = 2"):
        run(tmp_path, config(gradient_accumulation_steps=2), world_size=3)
    with pytest.raises(InputError, match=r"training\.parallel = none, but there are 3 workers"):
        run(tmp_path, config(parallel="none"), world_size=3)
    with pytest.raises(FloatingPointError, match="lower the learning rate"):
        run(tmp_path, config(max_steps=30, optimizer={"learning_rate": 1e30}))


def test_a_gradient_that_is_not_finite_is_not_saved(tmp_path):
    """Failed before: only the loss was checked, so the broken weights became the newest checkpoint, or the result."""

    class Broken(ToyRecipe):
        def loss(self, modules, batch, positions):
            loss, named = super().loss(modules, batch, positions)
            if positions[0] == 16:  # step 5: adds 0 to the loss, and NaN to every gradient
                loss = loss + sum((p * 0).abs().sum().sqrt() for p in modules["net"].parameters())
            return loss, named

    with pytest.raises(FloatingPointError, match="grad_norm is nan after step 5"):
        run(tmp_path, config(max_steps=5), recipe=Broken())
    assert not list(tmp_path.rglob("step-00000005"))


def test_export_gets_the_average(tmp_path):
    finished, _, worker = run(tmp_path / "a", config(max_steps=5))
    folder = ToyRecipe().export(lambda modules: load_weights(worker.checkpoints[-1], modules), tmp_path / "out")
    exported = torch.load(folder / "net.pt", weights_only=True)
    assert same(finished.ema.shadow, {f"net.{k}": x for k, x in exported.items()})
