"""What a run says about itself: rows in flight, GPU hours, the gate of threaded workers, metrics on object stores."""

from __future__ import annotations

import threading
import time
from itertools import accumulate
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest

from raysys.engine.config import ClusterConfig, PoolConfig
from raysys.engine.map import run_map
from raysys.engine.meters import SILENT_S, Gate, Gauge, Meters
from raysys.engine.metrics_file import appended
from raysys.outcomes import kept
from raysys.progress import Progress
from raysys.rows import SAMPLES
from raysys.tables import Chunk, InputPart, Store, open_output
from raysys.tables.job import TableJob, TableRun
from raysys.tables.stage import Stage


def test_meters_sum_reports_and_forget_the_rows_of_silent_workers():
    now_s = [0.0]
    meters = Meters(num_gpus=2, clock_s=lambda: now_s[0])
    meters.add({"sums": {"completion_tokens": 5}, "worker": {"id": "a", "alive_s": 1800.0, "rows": 7}})
    meters.add({"sums": {"completion_tokens": 6}, "worker": {"id": "b", "alive_s": 900.0, "rows": 1}})
    assert meters.sums == {"completion_tokens": 11}
    assert meters.shown() == {"in_flight": 8, "gpu_hours": 1.5}
    now_s[0] = SILENT_S
    meters.add({"sums": {}, "worker": {"id": "b", "alive_s": 1800.0, "rows": 2}})
    now_s[0] += 1.0
    assert meters.shown() == {"in_flight": 2, "gpu_hours": 2.0}
    assert Meters().shown() == {}


def test_a_gauge_counts_the_rows_that_threads_hold():
    gauge = Gauge()
    with gauge.holding(3), gauge.holding(4):
        assert gauge.read()["rows"] == 7
    assert gauge.read()["rows"] == 0


def test_the_gate_lets_many_in_or_one_alone():
    gate, inside, most, alone_with = Gate(), [0], [0], []
    lock = threading.Lock()

    def work(alone: bool) -> None:
        with gate.hold(alone):
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.02)
            with lock:
                if alone:
                    alone_with.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work, args=(i % 4 == 3,)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert alone_with == [1, 1, 1]
    assert most[0] > 1


@pytest.mark.parametrize("earlier", [b"", b'{"stage": "earlier"}\n'])
def test_metrics_reach_an_object_store_and_grow_over_runs(earlier: bytes):
    store = Store("memory://metrics-test")
    if store.exists("_run/metrics.jsonl"):
        fsspec.filesystem("memory").rm("/metrics-test", recursive=True)
    if earlier:
        store.write("_run/metrics.jsonl", earlier)
    with (
        appended(store, "_run/metrics.jsonl", every_s=0.05) as path,
        Progress("stage", 2, interval_s=0.001, metrics=path) as progress,
    ):
        time.sleep(0.01)
        progress.update(1)
        deadline = time.monotonic() + 10
        while not store.exists("_run/metrics.jsonl") or store.read("_run/metrics.jsonl") == earlier:
            assert time.monotonic() < deadline, "nothing was uploaded while the run went on"
            time.sleep(0.02)
    found = store.read("_run/metrics.jsonl")
    assert found.startswith(earlier)
    assert found.count(b"\n") == 2 + bool(earlier)
    assert b'"status": "done"' in found


def test_local_metrics_are_the_file_itself(tmp_path):
    with appended(Store(tmp_path), "_run/metrics.jsonl") as path:
        assert str(path) == f"{tmp_path}/_run/metrics.jsonl"


def test_chunks_in_the_object_store_are_bounded_without_being_told():
    pool = PoolConfig(max_size=4, chunks_in_flight=3)
    assert ClusterConfig(pool=pool).chunks_read == 32
    assert ClusterConfig(pool=pool, max_chunks_read=5).chunks_read == 5


SLOW_TO_FREE = 3
"""Chunks above the limit that docs/jobs.md allows for."""


def slow_stage() -> type:
    """A stage that everything waits for. Made here: the cluster's workers do not know this module."""

    class Slow(Stage):
        name, heavy = "slow", True

        def __call__(self, items: pa.Table) -> list[dict]:
            time.sleep(0.2)
            return [{"row_id": row_id, **kept()} for row_id in items["row_id"].to_pylist()]

    return Slow


def most_read(folder: Path, **settings) -> int:
    """The most chunks at one moment that were read but not committed, by the times of the files that both leave."""
    n_chunks = 16
    parts = [InputPart("p", "/in", n_chunks, "s")]
    output = open_output(str(folder / "table"), SAMPLES, "slow", {}, parts, 1)
    read = folder / "read"
    read.mkdir(parents=True)

    def load(chunk: Chunk) -> pa.Table:
        (read / chunk.name).touch()
        return pa.table({"row_id": [str(i) for i in range(chunk.start, chunk.stop)]})

    pool = PoolConfig(num_cpus=0.5)  # not as much as a reader: Ray would do both in one worker, and nothing would wait
    cluster = ClusterConfig(pool=pool, **settings)
    job = TableJob("slow", output.table.url, SAMPLES, {}, parts, 1, load, slow_stage(), (), cluster)
    result = run_map(TableRun(job, output))
    assert result.n_chunks == n_chunks
    parts = list((folder / "table").glob("slow-*/*.parquet"))
    assert len(parts) == len(list(read.iterdir())) == n_chunks
    times = [(path.stat().st_mtime_ns, 1) for path in read.iterdir()] + [(p.stat().st_mtime_ns, -1) for p in parts]
    return max(accumulate(step for _, step in sorted(times)))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_no_more_chunks_are_read_than_the_limit_allows(ray_local: Path, tmp_path: Path):
    """Real readers before a slow worker; with a limit that never holds they run ahead, so this can fail."""
    limit = 3
    assert limit <= most_read(tmp_path / "limited", max_chunks_read=limit) <= limit + SLOW_TO_FREE
    assert most_read(tmp_path / "unlimited", max_chunks_read=1000) > limit + SLOW_TO_FREE
