"""Kill, restart, compare: whatever is killed, the same command ends with the keys of an undisturbed run.

Everything goes through the real command line in processes of its own; each has its own Ray.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from raysys.rows import SAMPLES
from raysys.tables import Store, open_table
from raysys.tables.verify import verify
from tests.support import processes
from tests.support.processes import DEADLINE_S, finish, kill_driver, wait_for, workers_of
from tests.support.toy_job import JobConfig, expected_keys

REPO = Path(__file__).resolve().parents[2]
TOY = REPO / "tests/support/toy_job.py"


def start(output: Path, *overrides: str, address: str = "local") -> subprocess.Popen:
    """The toy job as a program of its own, by default with a Ray of its own."""
    config = output.parent / "toy.yaml"
    config.write_text(f"output: {output}\n")
    command = [sys.executable, TOY, "toy", "--config", config, "--address", address, *overrides]
    return processes.start(command, PYTHONPATH=str(REPO))


def parts_done(output: Path) -> int:
    return len(list(output.glob("toy-*/*.parquet")))


def check_whole(output: Path, **settings) -> None:
    """None missing, none twice, counts conserved."""
    config = JobConfig(output=str(output), **settings)
    result = verify(str(output))
    assert result.ok, result.problems
    rows = [r for t in open_table(str(output), SAMPLES).rows(["row_id"], outcome=None) for r in t.to_pylist()]
    assert sorted(r["row_id"] for r in rows) == expected_keys(config)
    total = config.n_parts * config.n_items
    assert result.counts.total == total
    assert result.counts.rejected["fifth"] + result.counts.kept + result.counts.n_error == total


def test_driver_killed_then_interrupted_then_finished(tmp_path):
    """SIGKILL on the driver, Ctrl-C on the second run, then to the end: three starts of one command."""
    output = tmp_path / "table"
    first = start(output, "seconds=0.05")
    wait_for(lambda: parts_done(output) >= 2, first)
    kill_driver(first)
    after_kill = parts_done(output)
    assert 2 <= after_kill < 12

    second = start(output, "seconds=0.05")
    wait_for(lambda: parts_done(output) > after_kill, second)
    second.send_signal(signal.SIGINT)
    code, err = finish(second)
    assert code == 130, err
    assert "run the same command again" in err
    assert parts_done(output) >= after_kill + 1

    code, err = finish(start(output, address="inline"))  # a run may be resumed without Ray, too
    assert code == 0, err
    check_whole(output)


def test_a_broken_engine_blames_only_the_row_that_breaks_it(tmp_path):
    """Three chunks in flight in one worker: each death takes all three with it, and only one row is to blame."""
    output = tmp_path / "table"
    pool = "cluster.pool={chunks_in_flight: 3}"
    code, err = finish(start(output, "heavy=true", "breaking=[7]", "seconds=0.02", pool, "n_parts=2"))
    assert code == 0, err
    check_whole(output, n_parts=2)
    columns = ["row_id", "reason"]
    rows = [r for t in open_table(str(output), SAMPLES).rows(columns, "error") for r in t.to_pylist()]
    assert rows == [{"row_id": "part0/7", "reason": "worker_died"}]


@pytest.mark.slow
@pytest.mark.parametrize("heavy", ["false", "true"])
@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("load=dies", "4 processes in a row were killed while they loaded the model"),
        ("deadly=[0,1,2,3,4,5]", "workers died 4 times in a row"),
        ("load=raises", "RuntimeError: no room for the weights"),
    ],
)
def test_workers_that_can_never_work_end_the_run(tmp_path, heavy, trouble, said):
    """Ray restarts dead workers without limit; the run ends with exit code 2 and the reason."""
    settings = [f"heavy={heavy}", "n_parts=1", "n_items=6", "cluster.max_worker_deaths=4"]
    code, err = finish(start(tmp_path / "table", trouble, *settings))
    assert code == 2, err
    assert said in err
    assert "fix: " in err


@pytest.mark.parametrize("heavy", [pytest.param("false", marks=pytest.mark.slow), "true"])
def test_a_killed_worker_costs_only_time(tmp_path, heavy):
    output = tmp_path / "table"
    process = start(output, "seconds=0.1", f"heavy={heavy}")
    victims: list = []

    def found() -> bool:  # between two chunks no worker is busy
        victims[:] = workers_of(process.pid)
        return bool(victims) and parts_done(output) >= 1

    wait_for(found, process)
    for victim in victims:
        victim.kill()
    code, err = finish(process)
    assert code == 0, err
    check_whole(output)


def test_sigterm_is_a_graceful_stop(tmp_path):
    output = tmp_path / "table"
    process = start(output, "seconds=0.05")
    wait_for(lambda: parts_done(output) >= 1, process)
    process.terminate()
    code, err = finish(process)
    assert code == 143, err
    code, err = finish(start(output, address="inline"))
    assert code == 0, err
    check_whole(output)


def test_failed_rows_and_a_poison_row_then_retry(tmp_path):
    """Errors stand as rows, the deadly item is named, `retry` redoes exactly the failures."""
    output, fixed = tmp_path / "table", tmp_path / "fixed"
    code, err = finish(start(output, "fail=[3, 17]", "deadly=[8]", f"fixed={fixed}", "n_parts=1"))
    assert code == 0, err
    rows = {r["row_id"]: r for t in open_table(str(output)).rows(None, outcome="error") for r in t.to_pylist()}
    assert {k: r["reason"] for k, r in rows.items()} == {
        "part0/3": "ValueError",
        "part0/17": "ValueError",
        "part0/8": "worker_died",
    }
    before = {p.name: p.read_bytes() for p in output.glob("toy-*/*.parquet")}
    fixed.touch()
    config = Store(str(next(output.glob("toy-*")))).read_json("_run/job.json")
    config["config"]["deadly"] = []  # the repair: in real life, a new release
    Store(str(next(output.glob("toy-*")))).write_json("_run/job.json", config)
    retried = subprocess.run(
        [sys.executable, str(TOY), "retry", str(output), "--address", "inline"],
        env={**os.environ, "PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert retried.returncode == 0, retried.stderr
    after = {p.name: p.read_bytes() for p in output.glob("toy-*/*.parquet")}
    assert before.items() <= after.items(), "a retry never rewrites a part"
    assert set(after) - set(before) == {"part0.0.r1.parquet", "part0.1.r1.parquet"}
    check_whole(output, n_parts=1)
    assert open_table(str(output)).counts().n_error == 0


@pytest.mark.slow  # test_inline.py has the same without Ray
def test_too_many_errors_stop_the_run_while_it_runs(tmp_path):
    output = tmp_path / "table"
    failing = f"fail={list(range(30))}"
    code, err = finish(start(output, failing, "cluster.max_error_fraction=0.1", "seconds=0.01", "n_parts=20"))
    assert code == 1
    assert "max_error_fraction" in err
    assert "Traceback" not in err
    assert 0 < parts_done(output) < 60


@pytest.mark.slow
@pytest.mark.parametrize("heavy", ["false", "true"])
@pytest.mark.parametrize("round_", range(5))
def test_matrix_random_kills(tmp_path, heavy, round_):
    """Driver and workers are killed at random moments, again and again, until one run gets through."""
    import random

    rng, output = random.Random(round_), tmp_path / "table"
    for attempt in range(6):
        process = start(output, "seconds=0.02", f"heavy={heavy}")
        time.sleep(rng.uniform(4, 9))
        for victim in workers_of(process.pid) if process.poll() is None else []:
            if rng.random() < 0.5:
                victim.kill()
        time.sleep(rng.uniform(0, 2))
        if process.poll() is None and attempt < 5:
            kill_driver(process)
    code, err = finish(start(output, f"heavy={heavy}"))
    assert code == 0, err
    check_whole(output)


@pytest.mark.slow
def test_two_drivers_on_one_table_do_not_double_rows(tmp_path):
    """A zombie of a lost cluster still writes while the rerun does: both write the same bytes to the same names."""
    output = tmp_path / "table"
    first, second = start(output, "seconds=0.03"), start(output, "seconds=0.03")
    codes = [finish(first)[0], finish(second)[0]]
    assert codes == [0, 0]
    check_whole(output)


@pytest.mark.slow
@pytest.mark.parametrize("heavy", ["false", "true"])
def test_a_lost_node_costs_only_time(tmp_path, monkeypatch, heavy):
    """Three raylets; the SIGKILL of one that runs a worker of the job takes everything on that node along."""
    monkeypatch.setenv("PYTHONPATH", str(REPO))  # the nodes' workers import the toy job
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        raylets = [cluster.add_node(num_cpus=2).all_processes["raylet"][0].process.pid for _ in range(2)]
        cluster.wait_for_nodes()
        output = tmp_path / "table"
        process = start(output, "seconds=0.1", f"heavy={heavy}", address=cluster.address)
        wait_for(lambda: parts_done(output) >= 2, process)
        os.kill(next(pid for pid in raylets if workers_of(pid)), signal.SIGKILL)
        assert parts_done(output) < 12
        code, err = finish(process)
        assert code == 0, err
        check_whole(output)
    finally:
        cluster.shutdown()
