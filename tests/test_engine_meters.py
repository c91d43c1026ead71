"""What a run says about itself: rows in flight, GPU hours, the gate of threaded workers, metrics on object stores."""

from __future__ import annotations

import threading
import time

import fsspec
import pytest

from raysys.engine.config import EngineConfig, PoolConfig
from raysys.engine.meters import SILENT_S, Gate, Gauge, Meters
from raysys.engine.metrics_file import appended
from raysys.progress import Progress
from raysys.tables import Store


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
    assert EngineConfig(pool=pool).chunks_read == 32
    assert EngineConfig(pool=pool, max_chunks_read=5).chunks_read == 5
