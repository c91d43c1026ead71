"""The device of a model: every job has the same rule and the same default."""

from __future__ import annotations

import pytest
import torch

from raysys.cli.config_help import fields_of
from raysys.errors import InputError
from raysys.jobs import JOBS
from raysys.models.device import DEVICE_HELP, torch_device


def test_every_device_of_every_job_is_auto_by_default() -> None:
    found = {
        f"{job.name} {field.key}": (field.default, field.description)
        for job in JOBS.values()
        for field in fields_of(job.load().JobConfig)
        if field.key.split(".")[-1] == "device"
    }
    assert {"encode images.device", "encode text.device", "generate generate.device"} <= set(found)
    assert {default for default, _ in found.values()} == {"auto"}
    assert [key for key, (_, text) in found.items() if not text.endswith(DEVICE_HELP)] == []


@pytest.mark.parametrize("has_gpu", [True, False])
def test_auto_is_the_gpu_that_torch_finds(has_gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert torch_device("auto").type == ("cuda" if has_gpu else "cpu")
    assert torch_device("cpu").type == "cpu"
    if not has_gpu:
        with pytest.raises(InputError, match="device cuda was requested, but torch finds no CUDA device"):
            torch_device("cuda:1")


def test_an_unknown_device_is_named() -> None:
    with pytest.raises(InputError, match="device 'gpu' is unknown"):
        torch_device("gpu")
