"""Row jobs without Ray: the same parts, fates and errors as with it, and Ray is not even imported."""

from __future__ import annotations

import dataclasses
import hashlib
import subprocess
import sys
import types
from pathlib import Path

import pyarrow as pa
import pytest

from raysys.engine.chunk_work import Target
from raysys.engine.config import ClusterConfig
from raysys.engine.inline import SMALL_CORE_SECONDS, is_small, run_inline
from raysys.engine.map import run_map
from raysys.errors import InputError, RunFailed
from raysys.jobs.options import inline
from raysys.outcomes import kept, rejected
from raysys.rows import SAMPLES
from raysys.tables import Chunk, InputPart, open_output, open_table
from raysys.tables.job import TableJob, TableRun
from raysys.tables.results import Plan, Summary
from raysys.tables.stage import Stage
from raysys.tables.verify import verify
from tests.support import toy_job
from tests.support.photos import photo_tiles, png_bytes
from tests.support.processes import raysys

REPO = Path(__file__).resolve().parents[2]


def numbers(heavy: bool) -> type[Stage]:
    """A stage over numbers: every fifth is rejected, 3 raises. Made here: Ray's workers do not know this module."""
    is_heavy = heavy

    class Numbers(Stage):
        name, heavy = "numbers", is_heavy

        def __call__(self, items: pa.Table) -> list[dict]:
            if 3 in items["i"].to_pylist():
                raise ValueError("three")
            return [self.row(item) for item in items.to_pylist()]

        def row(self, item: dict) -> dict:
            fate = rejected("fifth") if item["i"] % 5 == 4 else kept()
            return {"row_id": item["row_id"], "caption": f"c{item['i']}", **fate}

    return Numbers


def a_run(folder: Path, stage: type[Stage]) -> TableRun:
    parts = [InputPart("a", "/in/a", 30, "s"), InputPart("b", "/in/b", 12, "s"), InputPart("empty", "/in/c", 0, "s")]

    def load(chunk: Chunk) -> pa.Table:
        i = list(range(chunk.start, chunk.stop))
        return pa.table({"row_id": [f"{chunk.part.name}/{n}" for n in i], "i": i})

    cluster = ClusterConfig(max_error_fraction=0.5)
    job = TableJob("toy", str(folder), SAMPLES, {"x": 1}, parts, 8, load, stage, (), cluster)
    return TableRun(job, open_output(job.output, SAMPLES, "toy", job.fields, parts, job.chunk_rows))


def contents(run: TableRun) -> dict[str, str]:
    folder = Path(run.output.folder.url)
    return {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in folder.glob("*.parquet")}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("heavy", [False, True])
def test_the_same_bytes_and_counts_as_with_ray(ray_local: Path, tmp_path: Path, heavy: bool) -> None:
    here, there = a_run(tmp_path / "inline", numbers(heavy)), a_run(tmp_path / "ray", numbers(heavy))
    results = run_inline(here), run_map(there)
    assert contents(here) == contents(there)
    assert len(contents(here)) == 6
    assert [r.n_chunks for r in results] == [6, 6]
    assert results[0].counts.as_dict() == results[1].counts.as_dict()
    assert results[0].counts.as_dict() == {"in": 42, "kept": 32, "rejected": {"fifth": 8}, "error": {"ValueError": 2}}
    assert run_inline(there).n_chunks == 0, "nothing is left of what Ray did"


def toy(folder: Path, **settings) -> toy_job.JobConfig:
    return toy_job.JobConfig(output=str(folder), n_parts=2, n_items=20, **settings)


def test_a_stopped_run_goes_on_and_ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, row = [], toy_job.Toy.row

    def interrupted(stage: toy_job.Toy, item: dict) -> dict:
        seen.append(item["i"])
        if len(seen) == 15:
            raise KeyboardInterrupt
        return row(stage, item)

    monkeypatch.setattr(toy_job.Toy, "row", interrupted)
    with pytest.raises(KeyboardInterrupt):
        toy_job.run(toy(tmp_path / "t"), inline())
    assert open_table(str(tmp_path / "t")).n_pending == 3
    summary = toy_job.run(toy(tmp_path / "t"), inline())
    assert isinstance(summary, Summary)
    assert summary.steps["toy"].rows == {"in": 40, "kept": 32, "rejected": {"fifth": 8}, "error": {}}
    assert verify(str(tmp_path / "t")).ok
    assert toy_job.run(toy(tmp_path / "t"), inline()).steps["toy"].state == "nothing to do"


def test_dry_run_limit_and_retry(tmp_path: Path) -> None:
    config = toy(tmp_path / "t", fail=[3], fixed=str(tmp_path / "fixed"))
    plan = toy_job.run(config, inline(dry_run=True))
    assert isinstance(plan, Plan)
    assert (plan.steps["toy"].pending_chunks, plan.steps["toy"].pending_items) == (4, 40)
    assert not (tmp_path / "t").exists()
    assert toy_job.run(config, inline(limit=5)).steps["toy"].pending_chunks == 3
    step = toy_job.run(config, inline()).steps["toy"]
    assert step.rows["error"] == {"ValueError": 2}
    (tmp_path / "fixed").touch()
    (output,) = open_table(config.output).outputs
    again = toy_job.run(config, inline(retry=output.folder.url)).steps["toy"]
    assert (again.rows["error"], again.rows["in"]) == ({}, 40)


def test_too_many_errors_stop_it_and_mistakes_are_told(tmp_path: Path) -> None:
    cluster = ClusterConfig(max_error_fraction=0.1)
    with pytest.raises(RunFailed, match=r"max_error_fraction = 0\.1"):
        toy_job.run(toy(tmp_path / "t", fail=range(20), cluster=cluster), inline())
    assert open_table(str(tmp_path / "t")).counts().n_error == 20, "what was committed stays"

    class Missing(numbers(False)):
        def __init__(self) -> None:
            raise InputError("no model", "build it")

    with pytest.raises(InputError, match="no model"):
        run_inline(a_run(tmp_path / "m", Missing))


def test_a_broken_engine_is_built_again_and_only_its_row_is_blamed(tmp_path: Path) -> None:
    step = toy_job.run(toy(tmp_path / "t", breaking=[7]), inline()).steps["toy"]
    assert step.rows["error"] == {"worker_died": 1}
    assert step.rows["in"] == 40


def test_an_engine_that_breaks_on_every_item_stops_the_run_with_its_reason(tmp_path: Path) -> None:
    """Not one row is blamed for an engine that cannot run; after the repair, the same command does everything."""
    broken = toy(tmp_path / "t", breaking=range(20))
    with pytest.raises(InputError, match=r"workers died 10 times in a row .*the engine died") as told:
        toy_job.run(broken, inline())
    assert "cluster.max_worker_deaths" in told.value.fix
    assert open_table(str(tmp_path / "t")).counts().total == 0
    step = toy_job.run(toy(tmp_path / "t"), inline()).steps["toy"]
    assert (step.rows["in"], step.rows["error"]) == (40, {})


def test_neighbors_that_break_the_engine_are_blamed_if_others_do_not(tmp_path: Path) -> None:
    """Three at the start of a chunk, and later three more: fewer deaths in a row than an engine that cannot run."""
    step = toy_job.run(toy(tmp_path / "t", breaking=[0, 1, 2, 15, 16, 17]), inline()).steps["toy"]
    assert (step.rows["in"], step.rows["error"]) == (40, {"worker_died": 6})


def test_a_stage_that_cannot_be_built_is_told_with_its_cause(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="could not be started: RuntimeError: no room for the weights"):
        toy_job.run(toy(tmp_path / "t", load="raises"), inline())


WITHOUT_RAY = """
import sys
from raysys.jobs.options import inline
from tests.support import toy_job
toy_job.run(toy_job.JobConfig(output=sys.argv[1]), inline())
assert "ray" not in sys.modules, "Ray was imported"
"""


def test_ray_is_not_imported(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_RAY, str(tmp_path / "t")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, timeout=120)
    assert done.returncode == 0, done.stderr
    assert open_table(str(tmp_path / "t")).counts().total == 120


def test_what_needs_ray_says_so() -> None:
    from raysys.engine.cluster import cluster

    with pytest.raises(InputError, match="inline"), cluster(inline().address):
        pass
    assert dataclasses.asdict(inline(limit=3)) == dataclasses.asdict(inline()) | {"limit": 3}


def small(folder: Path, core_seconds: float | None) -> TableRun:
    run = a_run(folder, numbers(False))
    return dataclasses.replace(run, job=dataclasses.replace(run.job, core_seconds=core_seconds))


def test_a_small_job_needs_no_ray_unless_a_cluster_is_there(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(is_initialized=lambda: False))
    run = small(tmp_path / "t", SMALL_CORE_SECONDS)
    assert is_small([run])
    assert "toy: a small job, run in this process without Ray (--address local starts one)" in capsys.readouterr().err
    assert not is_small([run, run]), "together they are not small"
    assert not is_small([small(tmp_path / "t", core_seconds=None)]), "unknown work, or a model that takes memory"
    with monkeypatch.context() as connected:
        connected.setitem(sys.modules, "ray", types.SimpleNamespace(is_initialized=lambda: True))
        assert not is_small([run])
    with monkeypatch.context() as submitted:
        submitted.setenv("RAY_ADDRESS", "head:6379")
        assert not is_small([run])
    assert capsys.readouterr().err == ""


def test_only_pending_work_counts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setitem(sys.modules, "ray", types.SimpleNamespace(is_initialized=lambda: False))
    run = small(tmp_path / "t", 5 * SMALL_CORE_SECONDS)
    assert not is_small([run])
    for chunk in run.chunks()[:-1]:  # 4 of 42 items are left
        Target.of(run).publish(chunk, SAMPLES.schema.empty_table())
    assert is_small([run])


def test_ingest_of_a_few_images_starts_no_ray(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for i in range(3):
        (tmp_path / "in" / f"{i}.png").write_bytes(png_bytes(photo_tiles(64)[i]))
    config = ["input=in", "output=samples", "ingest.require_caption=false", "ingest.declared_license=CC0"]
    done = raysys("ingest", "--config", "demo", *config, cwd=tmp_path, RAY_ADDRESS="")
    assert done.returncode == 0, done.stderr
    assert "run in this process without Ray" in done.stderr
    assert "ray: local cluster" not in done.stderr
    assert open_table(str(tmp_path / "samples")).counts().kept == 3
