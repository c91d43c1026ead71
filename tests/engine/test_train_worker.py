"""The worker that Ray Train's processes give to the training loop, without Ray Train."""

from __future__ import annotations

import threading

from ray.train.v2.api.preemption import PreemptionInfo

from raysys.engine import train_worker
from raysys.engine.train_job import MetricsFile, read_metrics
from raysys.tables import Store
from raysys.training.worker import Request


class Context:
    """Ray Train's context, as far as it is asked."""

    def __init__(self) -> None:
        self.preemption_context = self
        self.preemption_info: PreemptionInfo | None = None


def test_a_preemption_is_answered_with_one_checkpoint(monkeypatch):
    """Failed before: the announcement was not read. The run goes on: Ray restarts it elsewhere from the checkpoint."""
    context = Context()
    monkeypatch.setattr(train_worker, "get_train_context", lambda: context)
    stop = threading.Event()
    requested = train_worker.Requests(stop)
    assert requested() is Request.NOTHING
    context.preemption_info = PreemptionInfo(1_000, {"node-a": [0]})
    assert [requested() for _ in range(3)] == [Request.CHECKPOINT, Request.NOTHING, Request.NOTHING]
    context.preemption_info = PreemptionInfo(1_000, {"node-a": [0], "node-b": [1]})
    assert requested() is Request.CHECKPOINT, "another node, another announcement"
    stop.set()
    assert requested() is Request.STOP


def test_rays_context_still_has_what_is_read_of_it():
    """It is not public: an upgrade of Ray may move it."""
    from ray.train.v2._internal.execution.context import TrainContext
    from ray.train.v2._internal.execution.preemption import PreemptionContext

    assert "preemption_context" in TrainContext.__dataclass_fields__
    assert PreemptionContext().preemption_info is None


def test_steps_done_again_replace_their_records(tmp_path):
    store = Store(tmp_path)
    first = MetricsFile(store, 0)
    for step in (1, 2, 3):
        first.add({"step": step, "loss": 1.0})
    resumed = MetricsFile(store, 1)
    assert [r["step"] for r in read_metrics(store)] == [1], "before the first report, too"
    for step in (3, 4):
        resumed.add({"step": step, "loss": 0.5})
    found = read_metrics(store)
    assert [(r["step"], r["loss"]) for r in found] == [(1, 1.0), (3, 0.5), (4, 0.5)], "2 is of the run before"
    assert all(r["time"] > 0 for r in found)


def test_a_record_that_was_cut_off_is_written_again(tmp_path):
    """Failed before: after a full disk the training could not be resumed, nor its report be made."""
    store = Store(tmp_path)
    MetricsFile(store, 0).add({"step": 1, "loss": 1.0})
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 2, "lo')
    assert [r["step"] for r in read_metrics(store)] == [1]
    resumed = MetricsFile(store, 1)
    for step in (2, 3):
        resumed.add({"step": step, "loss": 0.5})
    assert [r["step"] for r in read_metrics(store)] == [1, 2, 3]
