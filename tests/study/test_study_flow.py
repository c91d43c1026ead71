"""A real study on a tiny drawn world: one model fails, one is added later; every other result stays as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.support import tiny
from tests.support.html_page import Page

pytestmark = pytest.mark.timeout(1800)

SHORT = {"training": {"training": {"max_steps": 4, "checkpoint_every_steps": 2}}}


def write(folder: Path, models: dict) -> None:
    config = {**tiny.CONFIGS["study"], "run": "study_run"}
    first, second = config["models"].values()
    known = {"plain": first, "short": {"like": "plain", **SHORT}, "fused": {**second, "like": "short"}}
    config["models"] = known | models
    (folder / "study.yaml").write_text(yaml.safe_dump(config, sort_keys=False))


def times(run: Path) -> dict[str, int]:
    """When each file was written, of tables, sets and models."""
    folders = ("samples", "duplicates", "latents", "text_states", "assembled", "models", "generations")
    return {str(p): p.stat().st_mtime_ns for name in folders for p in (run / name).rglob("*") if p.is_file()}


def study(folder: Path, *args: str) -> tuple[int, str, dict]:
    """(exit code, what it said, summary.json)"""
    done = tiny.here(folder, *tiny.command("study", *args))
    summary = folder / "study_run/summary.json"
    return done.returncode, done.stdout + done.stderr, json.loads(summary.read_text()) if summary.exists() else {}


def test_a_model_fails_then_another_is_added(ray_local):
    run = ray_local / "study_run"
    broken = {"like": "short", "training": {"diffusion": {"start_from": "/nowhere/to/be/found"}}}
    write(ray_local, {"broken": broken})
    code, said, summary = study(ray_local, "--only", "short,fused", "--only", "broken")
    assert code == 1, said
    assert "1 of 3 models failed" in said
    assert f"report: {run / 'report.html'}" in said
    assert "/nowhere/to/be/found" in summary["models"]["broken"]["missing"]
    assert summary["models"]["plain"]["missing"].startswith("not done yet")
    assert [name for name, model in summary["models"].items() if model["evaluations"]] == ["short", "fused"]
    figures = summary["models"]["fused"]["evaluations"]["replication"]
    assert {"R", "R_ci", "weights_sha256", "fraction_above", "n_generated", "n_training"} <= set(figures)
    assert summary["models"]["fused"]["recipe"]["fusion"]["level"] == "embedding"
    assert "real_held_out_against_training" in summary["references"]["replication"]
    page = Page((run / "report.html").read_text())
    assert "/nowhere/to/be/found" in " ".join(page.row("broken"))

    before = times(run)
    write(ray_local, {"added": {"like": "short", "training": {"training": {"seed": 1}}}})
    planned = tiny.here(ray_local, *tiny.command("study", "--dry-run", "--only", "fused,added"))
    rows = [re.split(" {2,}", line.strip()) for line in planned.stdout.splitlines()[3:]]
    states = {name: state for name, _, state, _ in rows}
    assert {name for name, state in states.items() if state != "done"} == {
        "train added",
        "generate added",
        "replicate added",
    }
    assert times(run) == before
    code, said, summary = study(ray_local, "--only", "fused,added")
    assert code == 0, said
    assert f"report: {run / 'report.html'}" in said
    assert "missing" not in summary["models"]["added"]
    after = times(run)
    new = {name for name in after if name not in before}
    assert {n: t for n, t in after.items() if n in before} == before, "what was there is not touched"
    assert {Path(name).relative_to(run).parts[:3] for name in new} >= {("generations", "own", "added")}
    assert all("added" in Path(name).relative_to(run).parts for name in new)
