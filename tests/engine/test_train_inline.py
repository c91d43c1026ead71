"""Trainings without Ray: damaged state, full disks and requests to stop. With Ray, the same code reads and writes."""

from __future__ import annotations

import json
import re
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raysys.engine.config import TrainClusterConfig
from raysys.engine.train_job import TrainJob, read_metrics, run_training, runs_inline
from raysys.errors import InputError
from raysys.tables import Store
from raysys.training.checkpoint_folder import local_copy, name_of
from raysys.training.loop import fit
from raysys.training.run_config import RunConfig
from tests.support.toy_recipe import ToyRecipe

SHARD = "shard-00001-model-00001-of-00001.safetensors"


def train(folder: Path | str, steps: int = 10, on_loss: Callable[[int], None] | None = None, **cluster) -> str:
    """Train the toy to `steps` steps, with a checkpoint every 4; the name of the newest checkpoint."""
    recipe = ToyRecipe(dropout=0.2) if on_loss is None else ToyRecipe(dropout=0.2, on_loss=on_loss)
    config = RunConfig(max_steps=steps, batch_size=4, log_every_steps=1, checkpoint_every_steps=4)

    def loop(worker: Any, run: RunConfig) -> None:
        fit(recipe, run, worker)

    settings = TrainClusterConfig(**{"checkpoints_to_keep": 3, "stop_grace_s": 60.0} | cluster)
    return run_training(TrainJob("toy", str(folder), loop, config, steps, settings), "inline")


def tensors(folder: Path | str, name: str) -> dict[str, torch.Tensor]:
    with local_copy(Store(folder).sub("checkpoints"), name) as checkpoint:
        return load_file(checkpoint / SHARD)


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def steps_of(folder: Path | str) -> list[int]:
    return [record["step"] for record in read_metrics(Store(folder))]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> dict[str, torch.Tensor]:
    """The last checkpoint's tensors after 14 steps in one go."""
    folder = tmp_path_factory.mktemp("undisturbed")
    return tensors(folder, train(folder, 14))


def truncate(name: str) -> Callable[[Path], None]:
    def act(checkpoint: Path) -> None:
        file = checkpoint / name
        file.write_bytes(file.read_bytes()[:-7])

    return act


def flip(name: str, where: float) -> Callable[[Path], None]:
    """Change one bit at a fraction of the file's length."""

    def act(checkpoint: Path) -> None:
        data = bytearray((checkpoint / name).read_bytes())
        data[int(where * (len(data) - 1))] ^= 4
        (checkpoint / name).write_bytes(data)

    return act


def later(checkpoint: Path) -> None:
    """state.json is valid JSON of another step."""
    state = json.loads((checkpoint / "state.json").read_text())
    (checkpoint / "state.json").write_text(json.dumps(state | {"step": 12}))


DAMAGE = {
    "weights truncated": (truncate(SHARD), rf"{SHARD} has [\d,]+ of its [\d,]+ bytes"),
    "weights: one bit": (flip(SHARD, 1.0), f"{SHARD} is damaged: its contents do not match"),
    "weights' header: one bit": (flip(SHARD, 0.1), f"{SHARD} is damaged: its contents do not match"),
    "weights missing": (lambda folder: (folder / SHARD).unlink(), f"{SHARD} is missing"),
    "a file of another checkpoint": (lambda folder: (folder / "shard-2.safetensors").touch(), "does not belong"),
    "state empty": (lambda folder: (folder / "state.json").write_text(""), r"state\.json is damaged: JSON"),
    "state torn": (truncate("state.json"), r"state\.json is damaged: JSON"),
    "state of another step": (later, r"state\.json is damaged: its contents do not match"),
    "state not an object": (lambda folder: (folder / "state.json").write_text("[1]"), r"state\.json is damaged"),
    "state missing": (lambda folder: (folder / "state.json").unlink(), r"has no state\.json"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_the_newest_usable_checkpoint_is_resumed(tmp_path, undisturbed, capsys, kind):
    """Failed before: a traceback each time, and a changed bit was loaded silently."""
    damage, why = DAMAGE[kind]
    newest = train(tmp_path)
    assert newest == name_of(10)
    damage(tmp_path / "checkpoints" / newest)
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 11, "lo')
    capsys.readouterr()
    last = train(tmp_path, 14)
    shown = capsys.readouterr().err
    [skipped] = [line for line in shown.splitlines() if line.startswith("checkpoint skipped: ")]
    assert newest in skipped
    assert re.search(why, skipped)
    assert f"resuming from {tmp_path}/checkpoints/{name_of(8)}, after step 8" in shown
    assert steps_of(tmp_path) == list(range(1, 15)), "every step once"
    assert same(tensors(tmp_path, last), undisturbed)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [name_of(step) for step in (8, 12, 14)], "the damaged one is gone"


def test_without_a_usable_checkpoint_each_is_named_and_the_state_can_be_left(tmp_path, undisturbed):
    train(tmp_path)
    for step, damage in ((4, flip(SHARD, 1.0)), (8, truncate("state.json")), (10, truncate(SHARD))):
        damage(tmp_path / "checkpoints" / name_of(step))
    with pytest.raises(InputError, match=r"no checkpoint in .* is usable") as refused:
        train(tmp_path, 14)
    assert refused.value.what.count("\n  - ") == 3
    assert f"delete {tmp_path}/checkpoints to start again from step 0" in refused.value.fix
    (tmp_path / "checkpoints").rename(tmp_path / "aside")
    assert same(tensors(tmp_path, train(tmp_path, 14)), undisturbed)
    assert steps_of(tmp_path) == list(range(1, 15))


@pytest.mark.parametrize("unpublished", [f"{{}}/_{name_of(4)}", f"memory://{{}}/{name_of(4)}"], ids=["disk", "memory"])
def test_what_a_killed_run_was_writing_is_no_checkpoint(tmp_path, undisturbed, capsys, unpublished):
    folder, _, name = unpublished.format(f"{tmp_path}/model/checkpoints").rpartition("/")
    checkpoints = Store(folder)
    checkpoints.write(f"{name}/{SHARD}", b"half of it")
    place = folder.removesuffix("/checkpoints")
    last = train(place, 14)
    assert same(tensors(place, last), undisturbed)
    assert "skipped" not in capsys.readouterr().err
    assert checkpoints.folders() == [name_of(step) for step in (8, 12, 14)]


def test_an_object_store(tmp_path, undisturbed, capsys):
    """The same there: files first, state.json last, the newest three are kept, a damaged one is skipped."""
    place = f"memory://{tmp_path}/model"
    newest = train(place)
    checkpoints = Store(place).sub("checkpoints")
    assert checkpoints.folders() == [name_of(step) for step in (4, 8, 10)]
    checkpoints.write(f"{newest}/{SHARD}", checkpoints.read(f"{newest}/{SHARD}")[:-7])
    last = train(place, 14)
    assert f"{newest}/{SHARD} has " in capsys.readouterr().err
    assert checkpoints.folders() == [name_of(step) for step in (8, 12, 14)]
    assert same(tensors(place, last), undisturbed)
    assert steps_of(place) == list(range(1, 15))


@pytest.fixture
def small_files() -> Iterator[Callable[[int], None]]:
    """A function that makes writes beyond a size fail, as a full disk does, until the end of the test."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda n_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, ignored)


@pytest.mark.parametrize(
    ("n_bytes", "message"),
    [
        (5000, r"cannot write a checkpoint into .*/_step-000000(08|12)"),
        (1000, r"cannot (append to .*metrics\.jsonl|write a checkpoint)"),
    ],
    ids=["checkpoint", "metrics"],
)
def test_a_disk_that_fills_up_is_one_message_and_the_run_resumes(tmp_path, undisturbed, small_files, n_bytes, message):
    """With 1000 bytes, the first file that is too large is metrics.jsonl, or a checkpoint that is still written."""

    def fills_up(position: int) -> None:
        if position == 32:  # the first sample of step 9: the checkpoint of step 4 is published
            small_files(n_bytes)

    with pytest.raises(InputError, match=message) as failed:
        train(tmp_path, 14, fills_up)
    assert "free disk space, then run the same command again" in failed.value.fix
    assert (tmp_path / "checkpoints" / name_of(4)).exists()
    small_files(resource.RLIM_INFINITY)
    assert same(tensors(tmp_path, train(tmp_path, 14)), undisturbed)
    assert steps_of(tmp_path) == list(range(1, 15))


def test_ctrl_c_leaves_a_checkpoint_of_the_last_step(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()

    def interrupt(position: int) -> None:
        if position == 20:
            signal.raise_signal(signal.SIGINT)  # the main thread waits for this one

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", 10**6, interrupt)
    stopped = steps_of(tmp_path / "a")[-1]
    newest = max(path.name for path in (tmp_path / "a/checkpoints").iterdir())
    assert 6 <= stopped < 10**6
    assert newest == name_of(stopped)
    assert same(tensors(tmp_path / "a", newest), tensors(tmp_path / "b", train(tmp_path / "b", stopped)))
    resumed = tensors(tmp_path / "a", train(tmp_path / "a", stopped + 3))
    assert same(resumed, tensors(tmp_path / "b", train(tmp_path / "b", stopped + 3)))


def test_when_a_training_runs_in_this_process(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    one, two = TrainClusterConfig(), TrainClusterConfig(num_workers=2)
    assert runs_inline(one, "inline")
    assert runs_inline(one, None)
    assert not runs_inline(two, None)
    assert not runs_inline(one, "local")
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert not runs_inline(one, None)
    with pytest.raises(InputError, match="num_workers = 2: --address inline runs one worker"):
        train(Path("nowhere"), num_workers=2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="use_gpu = true, but torch sees no GPU"):
        train(Path("nowhere"), use_gpu=True)
