"""How the steps of a study are run: what a failing step stops and what not, what the record says. Without Ray."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raysys.cli.results import show
from raysys.config import validate
from raysys.errors import InputError, RunFailed
from raysys.jobs.options import RunOptions
from raysys.jobs.registry import JobInfo
from raysys.jobs.study import run_step
from raysys.report.folder import RunFolder
from raysys.study.config import StudyConfig
from raysys.study.plan import plan_steps, selected
from raysys.study.record import Record
from raysys.study.run import plan_of, run_steps, states
from raysys.study.step import Step
from raysys.tables.results import Summary, TableSummary


@pytest.fixture
def folder(tmp_path) -> str:
    return str(tmp_path / "run")


def study(folder: str, names: str = "abc", **more: Any) -> StudyConfig:
    """Models of these names, empty but for what `more` gives them; what else is in `more` is of the study."""
    models = {name: more.pop(name, {}) for name in names}
    return validate(StudyConfig, {"run": folder, "models": models, **more}, "study.yaml")


def run(
    config: StudyConfig, act: Callable[[Step], Any] = lambda step: None, only: tuple[str, ...] = (), at_once: int = 1
) -> tuple[list[str], Record]:
    """(names of the steps that were run, the record). Each makes its output folder, then does `act`."""
    steps, ran = plan_steps(config), []

    def run_step(step: Step) -> None:
        ran.append(step.name)
        Path(step.output).mkdir(parents=True, exist_ok=True)
        (Path(step.output) / "something").touch()
        act(step)

    record = Record(config, steps, "raysys study")
    record.start()
    run_steps(selected(steps, config, only), record, run_step, lambda step: at_once)
    return ran, record


def failing(*names: str) -> Callable[[Step], None]:
    def act(step: Step) -> None:
        if step.name in names:
            raise InputError(f"{step.name} is wrong", "correct it")

    return act


def test_a_failing_model_does_not_stop_the_others(folder):
    config = study(folder)
    ran, record = run(config, failing("train b", "generate c"))
    assert [n for n in ran if n.split()[0] in ("train", "generate", "replicate")] == [
        *("train a", "train b", "train c", "generate a", "generate c"),
        "replicate a",
    ]
    assert record.failed_models() == {"b": "train b: train b is wrong", "c": "generate c: generate c is wrong"}
    written = RunFolder.open(folder)
    assert written.why_missing("a") is None
    assert written.why_missing("b") == "failed at “train b”: train b is wrong"
    # The same command again: everything is run, as each job finds out for itself that it is finished.
    ran, record = run(config)
    assert ran == [step.name for step in plan_steps(config)]
    assert record.failed_models() == {}
    assert RunFolder.open(folder).why_missing("b") is None


def test_a_failing_shared_step_ends_the_study(folder):
    with pytest.raises(InputError, match="dedup is wrong"):
        run(study(folder), failing("dedup"))
    steps = RunFolder.open(folder).record["steps"]
    assert steps["ingest train"]["state"] == "done"
    assert [name for name, step in steps.items() if step["model"] and "state" in step] == []


def test_steps_of_one_job_run_at_the_same_time(folder):
    barrier = threading.Barrier(3, timeout=20)
    ran, _ = run(study(folder), lambda step: barrier.wait() if step.job == "train-diffusion" else None, at_once=3)
    assert sorted(n for n in ran if n.startswith("train")) == ["train a", "train b", "train c"]


def test_only_some_models(folder):
    config = study(folder)
    ran, record = run(config, only=("b",))
    assert {n for n in ran if n.split()[0] in ("train", "generate", "replicate")} == {
        *("train b", "generate b", "replicate b"),
    }
    assert record.failed_models() == {}
    assert RunFolder.open(folder).why_missing("b") is None
    assert RunFolder.open(folder).why_missing("a").startswith("not done yet: train a")


def test_states_of_a_plan(folder, capsys):
    config = study(folder, "ab")
    steps = plan_steps(config)
    fresh = states(steps, Record(config, steps, "x"))
    assert fresh["scenes"] == "pending"
    assert {state for name, state in fresh.items() if name != "scenes"} == {"waits"}
    assert not Path(folder).exists(), "asking writes nothing"
    run(config, failing("train b"))
    after = states(steps, Record(config, steps, "x"))
    assert (after["train a"], after["train b"], after["generate b"]) == ("done", "failed", "waits")
    plan = plan_of(steps, Record(config, steps, "x"))
    show(plan)
    table = capsys.readouterr().out.splitlines()[1:]
    assert table[0].split() == ["step", "job", "work", "output"]
    rows = [re.split(" {2,}", line.strip()) for line in table[2:]]
    assert rows == [[step.name, step.job, after[step.name], step.output] for step in steps]
    assert {name for name, step in plan.steps.items() if not step.has_work} == {
        n for n, s in after.items() if s == "done"
    }
    changed = study(folder, "ab", seed=1)
    steps = plan_steps(changed)
    now = states(steps, Record(changed, steps, "x"))
    assert (now["dedup"], now["assemble original"], now["train a"]) == ("done", "pending", "waits")


def test_another_model_leaves_the_others_as_they_are(folder):
    run(study(folder, "abc"))
    config = study(folder, "abcd")
    steps = plan_steps(config)
    state = states(steps, Record(config, steps, "x"))
    assert [name for name, s in state.items() if s != "done"] == ["train d", "generate d", "replicate d"]


def test_seconds_add_up_over_runs(folder):
    config = study(folder, "a")
    run(config)
    first = json.loads((Path(folder) / "study.json").read_text())
    assert set(first["seconds"]) == {step.job for step in plan_steps(config)}
    run(config, lambda step: time.sleep(0.1) if step.name == "train a" else None)
    again = json.loads((Path(folder) / "study.json").read_text())
    assert again["steps"]["train a"]["seconds"] >= first["steps"]["train a"]["seconds"] + 0.1
    assert again["seconds"]["train-diffusion"] >= first["seconds"]["train-diffusion"] + 0.1


def test_a_shared_step_that_one_model_needs_fails_only_that_model(folder):
    config = study(folder, "ab", b={"duplicates": "keep"})
    name = "assemble original with duplicates"
    ran, record = run(config, failing(name))
    assert {"train a", "generate a", "replicate a"} <= set(ran)
    assert not any(n.endswith(" b") for n in ran)
    assert record.failed_models() == {"b": f"{name}: {name} is wrong"}
    assert RunFolder.open(folder).why_missing("b") == f"failed at “{name}”: {name} is wrong"
    assert RunFolder.open(folder).why_missing("a") is None


@pytest.mark.parametrize(
    "change",
    [{"optimizer": {"learning_rate": 0.01}}, {"max_steps": 7}],
)
def test_results_of_another_configuration_are_not_current(folder, change):
    """Failed before: the report paired the new recipe with the old result, also where the training was longer."""
    run(study(folder, "ab"))
    changed = study(folder, "ab", b={"training": {"training": change}})
    ran, record = run(changed, only=("a",))
    assert "train b" not in ran
    written = RunFolder.open(folder)
    assert written.why_missing("b") == "not done yet: train b, generate b, replicate b"
    assert (written.is_measured("a", "replication"), written.is_measured("b", "replication")) == (True, False)
    assert {states(plan_steps(changed), record)[n] for n in ("train b", "generate b")} == {"pending", "waits"}


def test_a_reason_ends_with_the_configuration_that_failed(folder):
    run(study(folder, "ab", b={"training": {"training": {"seed": 7}}}), failing("train b"))
    _, record = run(study(folder, "ab"), only=("a",))
    assert record.failed_models() == {}
    assert RunFolder.open(folder).why_missing("b").startswith("not done yet: train b")


class Empty:
    """A job that writes a table of which nothing is kept."""

    def run(self, config: Any, options: RunOptions) -> Summary:
        rows = {"in": 5, "kept": 0, "rejected": {"refusal": 4, "empty": 1}, "error": {}}
        return Summary({"x": TableSummary("encode", "/out", "encode-0", 1, 0, rows, 0.0)}, notes=("note: look",))


def test_a_step_that_kept_nothing_fails_the_models_that_need_it(folder, monkeypatch):
    """Model b learns from captions whose encoding kept nothing; model a does not."""
    monkeypatch.setattr(JobInfo, "load", lambda self: Empty())
    captioner = {"name": "blip2", "llm": {"model": "zoo:captioner"}}
    config = study(folder, "ab", b={"captions": "blip2/describe"}, data={"caption": {"captioners": [captioner]}})

    def act(step: Step) -> None:
        if step.name == "encode blip2/describe":
            run_step(step, RunOptions())

    ran, record = run(config, act)
    assert "train a" in ran
    assert "train b" not in ran
    assert list(record.failed_models()) == ["b"]
    why = record.failed_models()["b"]
    assert "nothing was kept: encode: 5 rows, kept 0, rejected 5 (refusal 4, empty 1), error 0" in why
    assert "note: look" in why
    with pytest.raises(RunFailed, match="nothing was kept"):
        run(config, lambda step: run_step(step, RunOptions()) if step.name == "ingest train" else None)
