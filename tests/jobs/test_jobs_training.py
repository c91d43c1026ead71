"""`raysys train-diffusion` in this process, without Ray: its folder, other runs in it, and other configurations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raysys.tables.folder_output import FolderOutput
from tests.support import tiny

STEPS = ("training.max_steps=2", "training.checkpoint_every_steps=1", "--address", "inline")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with the configuration and the training set."""
    folder = tmp_path_factory.mktemp("training")
    tiny.write_configs(folder)
    tiny.write_training_set(folder)
    return folder


def train(folder: Path, output: Path, *more: str):
    threads = torch.get_num_threads()
    done = tiny.here(folder, "train-diffusion", "--config", "train-diffusion.yaml", f"output={output}", *STEPS, *more)
    assert torch.get_num_threads() == threads, "the process gets its settings back"
    return done


def test_another_configuration_again_and_again(prepared, tmp_path):
    """Failed before: the second recompute of a configuration met `<name>.old-<hash>` and ended in a traceback."""
    for seed in (0, 1, 0, 1):
        done = train(prepared, tmp_path / "model", f"training.seed={seed}", "--on-change", "recompute")
        assert done.returncode == 0, done.stderr
        assert json.loads((tmp_path / "model/_output.json").read_text())["summary"]["steps"] == 2
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 4
    assert [name.endswith("-2") for name in names] == [False, False, True, False]
    seeds = [json.loads((tmp_path / name / "_output.json").read_text())["config"]["training"]["seed"] for name in names]
    assert sorted(seeds) == [0, 0, 1, 1]


def test_a_second_run_into_the_folder_is_refused(prepared, tmp_path):
    """Failed before: both trained, and both ended with exit code 0."""
    with FolderOutput("train-diffusion", tmp_path / "model", {}).alone():
        tiny.refused(
            train(prepared, tmp_path / "model"), f"another run is writing {tmp_path}/model: train-diffusion on "
        )
        assert [path.name for path in tmp_path.iterdir()] == ["_model.lease-00000001.json"]
    assert train(prepared, tmp_path / "model").returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    again = train(prepared, tmp_path / "model")
    assert "nothing to do" in again.stdout + again.stderr
