"""The committed measurements meet the gates, and a gate can be missed."""

from __future__ import annotations

import json

import yaml

from benchmarks.__main__ import check


def test_committed_results_meet_their_gates(repo):
    gates = yaml.safe_load((repo / "benchmarks" / "gates.yaml").read_text())
    scripts = {p.stem.removeprefix("bench_") for p in (repo / "benchmarks").glob("bench_*.py")}
    assert set(gates) == scripts, "every benchmark has gates"
    for name, wanted in gates.items():
        recorded = json.loads((repo / "benchmarks" / "results" / f"{name}.json").read_text())
        assert check(recorded["results"], wanted) == []
        assert recorded["machine"]["cpu"]
        assert recorded["versions"]["ray"]


def test_a_missed_gate_is_named():
    results = {"speed": {"ratio": 0.5}, "rows": 3}
    assert check(results, {"speed.ratio": {"min": 0.8}}) == ["speed.ratio = 0.500 is below 0.8"]
    assert check(results, {"speed.ratio": {"max": 0.4}, "rows": {"exact": 4}}) == [
        "speed.ratio = 0.500 is above 0.4",
        "rows = 3 is not 4",
    ]
    assert check(results, {"rows": {"exact": 3, "min": 1, "max": 9}}) == []
