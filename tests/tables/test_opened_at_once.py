"""Several processes open one table at the same moment: every row once, every producer recorded, or a clear refusal."""

from __future__ import annotations

import multiprocessing
import os
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from raysys.errors import InputError
from raysys.outcomes import kept
from raysys.rows import CAPTIONS, FEATURES, SAMPLES
from raysys.scenes import write_demo_shards
from raysys.tables import InputPart, Output, Store, commit_part, open_output, open_table
from raysys.tables.history import History
from raysys.tables.verify import verify
from tests.support import processes, tiny

PARTS = [InputPart("a.tar", "/in/a.tar", 40, "s1"), InputPart("b.tar", "/in/b.tar", 12, "s2")]
ALL_ROWS = Counter(f"{part.name}/{i}" for part in PARTS for i in range(part.n_items))


def opened(
    path: str, parts=PARTS, chunk_rows: int = 10, fields=None, row_type=SAMPLES, producer="toy", **more
) -> Output:
    return open_output(path, row_type, producer, fields or {"x": 1}, parts, chunk_rows, **more)


def write_all(output: Output) -> None:
    """What a job does after it has opened its output, in any order with others."""
    for chunk in output.chunks:
        ids = [f"{chunk.part.name}/{i}" for i in range(chunk.start, chunk.stop)]
        rows = [{"row_id": name, "caption": chunk.part.signature, **kept()} for name in ids]
        commit_part(output.folder, chunk.file, SAMPLES.table(rows))


def rows_of(path: str) -> Counter:
    return Counter(name for table in open_table(path).rows(["row_id"]) for name in table["row_id"].to_pylist())


class Intruder:
    """Runs `open_it` once, directly before the n-th file operation of somebody else that is not a read.

    Everything from which that operation was computed has been read at this moment.
    """

    def __init__(self, n: int, open_it: Callable[[], Output]) -> None:
        self.n, self.open_it, self.outcome = n, open_it, None

    def wrap(self, method: Callable) -> Callable:
        def call(*args, **kwargs):
            self.n -= 1
            if self.n == 0:
                self.outcome = outcome_of(self.open_it)
            return method(*args, **kwargs)

        return call


def outcome_of(function: Callable[[], Output]) -> Output | InputError:
    try:
        return function()
    except InputError as exc:
        return exc


def interleaved(
    monkeypatch, new_place: Callable[[], str], first: Callable[[str], Output], second: Callable[[str], Output]
) -> Iterator[tuple[str, Output | InputError, Output | InputError]]:
    """(path, outcome of first, outcome of second) for each moment at which `second` can come in between."""
    for n in range(1, 50):
        path = new_place()
        intruder = Intruder(n, partial(second, path))
        with monkeypatch.context() as patch:
            for name in ("create", "write", "remove"):
                patch.setattr(Store, name, intruder.wrap(getattr(Store, name)))
            outcome = outcome_of(partial(first, path))
        if intruder.outcome is None:
            assert n > 1, "nothing was written"
            return
        yield path, outcome, intruder.outcome
    raise AssertionError("an open writes a few files")


@pytest.fixture(params=["disk", "memory"])
def new_place(request, tmp_path):
    def new() -> str:
        name = uuid.uuid4().hex
        return str(tmp_path / name) if request.param == "disk" else f"memory://raysys-test-at-once/{name}"

    return new


def test_of_two_chunk_sizes_one_is_used_by_both(monkeypatch, new_place):
    opens = interleaved(monkeypatch, new_place, lambda p: opened(p, chunk_rows=10), lambda p: opened(p, chunk_rows=7))
    for path, first, second in opens:
        assert first.chunks == second.chunks
        write_all(first)
        write_all(second)
        assert rows_of(path) == ALL_ROWS
        assert verify(path).problems == []


def test_two_producers_are_both_recorded(monkeypatch, new_place):
    one, two = (partial(opened, row_type=CAPTIONS, producer=name) for name in ("one", "two"))
    for path, _, _ in interleaved(monkeypatch, new_place, one, two):
        assert {output.producer for output in open_table(path).outputs} == {"one", "two"}


def test_other_settings_or_other_rows_are_refused(monkeypatch, new_place):
    one, other = partial(opened, fields={"x": 1}), partial(opened, fields={"x": 2})
    for path, first, second in interleaved(monkeypatch, new_place, one, other):
        refused, winner = (first, second) if isinstance(first, InputError) else (second, first)
        assert "with other settings:\n  - x: " in refused.what
        assert open_table(path).identity == f"toy-{winner.fingerprint}"
    for path, first, second in interleaved(monkeypatch, new_place, one, partial(opened, row_type=FEATURES)):
        refused, winner = (first, second) if isinstance(first, InputError) else (second, first)
        assert f"holds {winner.row_type.name} rows" in refused.what
        assert open_table(path).row_type == winner.row_type


def test_inputs_added_by_two_at_once_are_all_planned_or_refused(monkeypatch, new_place):
    def table() -> str:
        path = new_place()
        write_all(opened(path))
        return path

    more = [InputPart(name, name, 5, name) for name in ("c", "d")]
    both = interleaved(monkeypatch, table, lambda p: opened(p, [*PARTS, *more]), lambda p: opened(p, [*PARTS, *more]))
    for _, first, second in both:
        assert [c.name for c in first.chunks][-2:] == ["c.0", "d.0"]
        assert first.chunks == second.chunks
    one, other = (partial(opened, parts=[*PARTS, part]) for part in more)
    for path, first, second in interleaved(monkeypatch, table, one, other):
        refused, winner = (first, second) if isinstance(first, InputError) else (second, first)
        assert "is gone" in str(refused), "a plan that another process has extended since is not shortened"
        assert open_table(path).outputs[0].chunks == winner.chunks


def test_inputs_that_changed_are_redone_once_whoever_finds_out_first(monkeypatch, new_place):
    changed = [InputPart("a.tar", "/in/a.tar", 50, "other"), PARTS[1]]

    def table() -> str:
        path = new_place()
        write_all(opened(path))
        return path

    def redo(path: str) -> Output:
        output = opened(path, changed, on_change="recompute")
        write_all(output)
        return output

    for path, first, second in interleaved(monkeypatch, table, redo, redo):
        assert first.chunks == second.chunks
        assert first.pending() == []
        assert rows_of(path) == ALL_ROWS + Counter(f"a.tar/{i}" for i in range(40, 50))
        assert verify(path).problems == []


def test_a_job_on_replaced_inputs_writes_no_part_that_counts(new_place):
    path = new_place()
    late = opened(path)
    write_all(late)
    newer = opened(path, [InputPart("a.tar", "/in/a.tar", 40, "other"), PARTS[1]], on_change="recompute")
    write_all(newer)
    write_all(late)  # a driver that was started before the change and is still running
    captions = {c for table in open_table(path).rows(["caption"]) for c in table["caption"].to_pylist()}
    assert captions == {"other", "s2"}
    assert rows_of(path) == ALL_ROWS
    back = opened(path, PARTS, on_change="recompute")
    assert [c.part.name for c in back.pending()] == ["a.tar"] * 4, "the first edition is not taken up again"
    gone = opened(path, PARTS[1:], on_change="recompute")
    assert gone.pending() == []
    assert [c.part.name for c in opened(path, PARTS).pending()] == ["a.tar"] * 4


def test_a_document_is_changed_by_one_process_at_a_time(new_place):
    store = Store(new_place())
    history = History(store, "_plan.json")
    assert history.read() is None
    for n in range(12):
        assert History(store, "_plan.json").update(lambda old: [*(old or []), len(old or [])]) == list(range(n + 1))
    assert history.update(lambda old: old) == history.read() == list(range(12))
    assert store.read_json("_plan.json") == [0], "the first version stays, under the name that it has always had"


def test_a_disk_without_hard_links(tmp_path, monkeypatch):
    def link(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    assert Store(tmp_path).create("sub/x", b"first")
    assert not Store(tmp_path).create("sub/x", b"second")
    assert [(f.name, f.read_bytes()) for f in (tmp_path / "sub").iterdir()] == [("x", b"first")]


def test_a_store_that_reports_a_failed_condition_in_its_own_way(monkeypatch):
    from fsspec.implementations.memory import MemoryFileSystem

    plain = MemoryFileSystem.pipe_file

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        try:
            plain(self, path, value, mode, **kwargs)
        except FileExistsError:
            raise OSError(22, "At least one of the pre-conditions you specified did not hold") from None

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
    store = Store(f"memory://raysys-test-at-once/{uuid.uuid4().hex}")
    assert store.create("x", b"first")
    assert not store.create("x", b"second")
    assert store.read("x") == b"first"


def _open_and_write(path: str, chunk_rows: int, producer: str, barrier, queue) -> None:
    for n in range(ROUNDS):
        barrier.wait()
        output = opened(f"{path}/{n}", chunk_rows=chunk_rows, producer=producer)
        barrier.wait()
        write_all(output)
    queue.put((producer, chunk_rows))


ROUNDS = 12


@pytest.mark.parametrize("producers", [["toy"] * 4, ["toy", "second", "third", "fourth"]], ids=["one", "several"])
def test_processes_released_by_a_barrier(tmp_path, producers):
    context = multiprocessing.get_context("forkserver")
    barrier, queue = context.Barrier(len(producers)), context.SimpleQueue()
    arguments = [(str(tmp_path), 9 + 5 * k, name, barrier, queue) for k, name in enumerate(producers)]
    workers = [context.Process(target=_open_and_write, args=each) for each in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(processes.DEADLINE_S)
    assert [worker.exitcode for worker in workers] == [0] * len(producers)
    for n in range(ROUNDS):
        view = open_table(str(tmp_path / str(n)))
        assert {output.producer for output in view.outputs} == set(producers)
        assert view.n_pending == 0
        for name in set(producers):
            rows = Counter(i for t in view.of(name).rows(["row_id"]) for i in t["row_id"].to_pylist())
            assert rows == ALL_ROWS, f"round {n}, {name}"


RAYSYS_TOGETHER = """
import sys, time
from pathlib import Path
from raysys import cli
from raysys.jobs import run_table
opens, mine, other = run_table.open_output, Path(sys.argv[1]), Path(sys.argv[2])
def together(*args, **kwargs):
    mine.touch()
    while not other.exists():
        time.sleep(0.0005)
    return opens(*args, **kwargs)
run_table.open_output = together
cli.main(sys.argv[3:])
"""


def test_two_commands_at_once(tmp_path):
    """`raysys ingest` twice, held until both are about to open the table."""
    write_demo_shards(tmp_path / "shards", tiny.SCENES)
    command = ["ingest", "--address", "inline", "input=shards/train", "output=samples"]
    both = [
        processes.start([sys.executable, "-c", RAYSYS_TOGETHER, *here, *command, f"chunk_rows={n}"], tmp_path)
        for n, here in ((2, ("first", "second")), (5, ("second", "first")))
    ]
    for process in both:
        code, err = processes.finish(process)
        assert code == 0, err
    assert verify(str(tmp_path / "samples")).problems == []
    n_planned = sum(chunk.stop - chunk.start for chunk in open_table(str(tmp_path / "samples")).outputs[0].chunks)
    rows = [row for table in open_table(str(tmp_path / "samples")).rows(["row_id"], None) for row in table.to_pylist()]
    assert len({row["row_id"] for row in rows}) == len(rows) == n_planned > 20
