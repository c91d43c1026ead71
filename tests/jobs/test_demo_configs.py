"""The demo configuration of every job, in the order of the data, by the real entry point; then the table commands.

Row jobs run without Ray here, which is quicker; test_jobs_flow.py runs them with it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from raysys.cli import main

STEPS: list[list[str]] = [
    ["scenes"],
    ["ingest"],
    ["dedup"],
    ["caption"],
    ["translate"],
    ["generalize"],
    ["export"],
    ["encode"],
    ["assemble"],
    ["train-diffusion", "training.max_steps=4", "training.checkpoint_every_steps=2"],
    ["generate", "generate.num_inference_steps=2"],
    ["replicate"],
]
"""Few steps where time goes with their number; everything else as packaged."""


@pytest.fixture(scope="module")
def run_once(ray_local: Path) -> Iterator[Path]:
    """The run folder in which every demo has run once. The demos' paths are relative to the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ray_local)
        for step in STEPS:
            assert run_step(*step) == 0, step
        yield ray_local / "runs" / "steps"


def run_step(job: str, *overrides: str) -> int:
    without_ray = () if job == "train-diffusion" else ("--address", "inline")
    return run_cli(job, "--config", "demo", *overrides, *without_ray)


def run_cli(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(args))
    return caught.value.code


def test_samples_meet_the_truth(run_once: Path, capsys) -> None:
    assert run_cli("status", str(run_once / "samples")) == 0
    truth = json.loads((run_once / "shards" / "truth.json").read_text())["counts"]["train"]
    lines = capsys.readouterr().out.splitlines()
    n_rejected = sum(truth["rejected"].values())
    assert any(f"{truth['in']}: kept {truth['kept']}, rejected {n_rejected}, error 0" in line for line in lines)
    found = {words[2]: int(words[1]) for line in lines if (words := line.split())[:1] == ["rejected"]}
    assert found == truth["rejected"]


@pytest.mark.parametrize(
    "table",
    [
        *(
            "samples",
            "features/samples",
            "duplicates",
            "captions",
            "translated",
            "generalized",
            "latents",
            "text_states",
        ),
        *("generations", "replication/matches"),
    ],
)
def test_every_table_is_whole(run_once: Path, table: str) -> None:
    assert run_cli("verify", str(run_once / table)) == 0


def test_a_second_run_changes_nothing(run_once: Path, capsys) -> None:
    def parts() -> dict[Path, int]:
        return {p: p.stat().st_mtime_ns for p in run_once.rglob("*.parquet") if "matches" not in p.parts}

    before = parts()
    for step in STEPS[1:-1]:
        assert run_step(*step) == 0, step
    assert parts() == before
    assert "nothing to do" in capsys.readouterr().err


def test_another_configuration_is_refused_with_what_differs(run_once: Path, capsys) -> None:
    assert run_cli("ingest", "--config", "demo", "ingest.allowed_licenses=[CC0]") == 2
    err = capsys.readouterr().err
    assert "allowed_licenses" in err
    assert "--on-change" in err


def test_dry_run_says_what_is_done_and_writes_nothing(run_once: Path, capsys) -> None:
    assert run_cli("ingest", "--config", "demo", "output=runs/steps/other", "--dry-run") == 0
    assert "pending" in capsys.readouterr().out
    assert not (run_once / "other").exists()


def test_nothing_failed_so_there_is_nothing_to_retry(run_once: Path, capsys) -> None:
    assert run_cli("failed", str(run_once / "latents"), "--json") == 0
    assert capsys.readouterr().out == ""
    assert run_cli("retry", str(run_once / "latents"), "--dry-run") == 0


def test_plain_diffusers_loads_the_trained_pipeline(run_once: Path) -> None:
    code = (
        "import sys; from diffusers import DiffusionPipeline\n"
        "p = DiffusionPipeline.from_pretrained(sys.argv[1], local_files_only=True)\n"
        "assert not any(m.startswith('raysys') for m in sys.modules)\n"
        "print(p('a red circle', num_inference_steps=2, output_type='np').images.shape)"
    )
    command = [sys.executable, "-c", code, str(run_once / "model" / "pipeline")]
    out = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert out.stdout.strip() == "(1, 64, 64, 3)", out.stderr


def test_the_result_is_complete(run_once: Path) -> None:
    result = json.loads((run_once / "replication" / "replication.json").read_text())
    manifest = json.loads((run_once / "training_set" / "manifest.json").read_text())
    assert result["n_training"] == manifest["rows"]["kept"]
    assert {"R", "R_ci", "percentiles", "n_generated", "descriptor", "preset", "matches"} <= set(result)
