"""Tables without an engine: plans, commits, retries, reading, verification, and what a chunk does with bad items."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.errors import InputError
from raysys.outcomes import error, kept, rejected
from raysys.rows import LATENTS, SAMPLES, array_to_bytes, bytes_to_array
from raysys.tables import Chunk, InputPart, PartialChunkError, Store, commit_part, open_output, open_table
from raysys.tables.commit import check_keys
from raysys.tables.plan import differences, reopen_output
from raysys.tables.process import MAX_ATTEMPTS, MAX_ITEM_DEATHS, AttemptLog, process_chunk
from raysys.tables.stage import Stage
from raysys.tables.verify import status, verify
from tests.support.tables import read_rows

PARTS = [InputPart("a.tar", "/in/a.tar", 10, "s1"), InputPart("b.tar", "/in/b.tar", 4, "s2")]


def rows_of(chunk: Chunk, fate=None) -> list[dict]:
    return [
        {"row_id": f"{chunk.part.name}/{i}", "caption": f"c{i}", **(fate(i) if fate else kept())}
        for i in range(chunk.start, chunk.stop)
    ]


def write_all(output, fate=None) -> None:
    for chunk in output.pending():
        commit_part(output.folder, chunk.file, SAMPLES.table(rows_of(chunk, fate)))


def make(path, fields=None, parts=PARTS, chunk_rows=4, **kwargs):
    return open_output(str(path), SAMPLES, "toy", fields or {"x": 1}, parts, chunk_rows, **kwargs)


def test_chunks_are_row_ranges_named_by_the_input_only(tmp_path):
    output = make(tmp_path)
    assert [(c.name, c.start, c.stop) for c in output.chunks] == [
        ("a.tar.0", 0, 4),
        ("a.tar.1", 4, 8),
        ("a.tar.2", 8, 10),
        ("b.tar.0", 0, 4),
    ]
    assert output.pending() == list(output.chunks)


def test_pending_is_chunks_minus_listing_and_recommit_replaces(tmp_path):
    output = make(tmp_path)
    chunk = output.chunks[1]
    commit_part(output.folder, chunk.file, SAMPLES.table(rows_of(chunk)))
    commit_part(output.folder, chunk.file, SAMPLES.table(rows_of(chunk)))
    again = make(tmp_path)
    assert [c.name for c in again.pending()] == ["a.tar.0", "a.tar.2", "b.tar.0"]
    write_all(again)
    table = read_rows(str(tmp_path))
    assert sorted(table["row_id"].to_pylist()) == sorted(f"{p.name}/{i}" for p in PARTS for i in range(p.n_items))


def test_chunk_rows_stay_as_they_were_when_the_table_was_created(tmp_path):
    make(tmp_path, chunk_rows=4)
    assert len(make(tmp_path, chunk_rows=100).chunks) == 4


def test_added_inputs_are_only_pending_work(tmp_path):
    write_all(make(tmp_path))
    more = make(tmp_path, parts=[*PARTS, InputPart("c.tar", "/in/c.tar", 2, "s3")])
    assert [c.name for c in more.pending()] == ["c.tar.0"]


def test_a_changed_setting_is_refused_with_the_difference_then_recomputed_beside(tmp_path):
    write_all(make(tmp_path, {"model": {"revision": "a"}, "seed": 0}))
    with pytest.raises(InputError, match=r"model.revision: 'a' → 'b'") as refused:
        make(tmp_path, {"model": {"revision": "b"}, "seed": 0})
    assert "--on-change" in refused.value.fix
    kept_old = make(tmp_path, {"model": {"revision": "b"}, "seed": 0}, on_change="keep")
    assert kept_old.is_kept, "nothing made with other settings may be added"
    assert not make(tmp_path, {"model": {"revision": "a"}, "seed": 0}, on_change="keep").is_kept
    new = make(tmp_path, {"model": {"revision": "b"}, "seed": 0}, on_change="recompute")
    assert len(new.pending()) == 4
    assert len(list(tmp_path.glob("toy-*"))) == 2, "the old version stays on disk"
    assert open_table(str(tmp_path)).identity == f"toy-{new.fingerprint}"


def test_a_changed_input_is_refused_and_recompute_redoes_only_its_chunks(tmp_path):
    write_all(make(tmp_path))
    changed = [PARTS[0], InputPart("b.tar", "/in/b.tar", 6, "other")]
    with pytest.raises(InputError, match=r"b\.tar changed"):
        make(tmp_path, parts=changed)
    with pytest.raises(InputError, match=r"b\.tar is gone"):
        make(tmp_path, parts=changed[:1])
    kept_old = make(tmp_path, parts=changed, on_change="keep")
    assert kept_old.is_kept
    assert len(kept_old.chunks) == 4, "the old plan, unchanged"
    redo = make(tmp_path, parts=changed, on_change="recompute")
    assert [c.name for c in redo.pending()] == ["b.tar.0", "b.tar.1"]


def test_dry_run_writes_nothing(tmp_path):
    target = tmp_path / "table"
    assert len(make(target, dry_run=True).pending()) == 4
    assert not target.exists()


def test_another_row_type_and_clashing_names_are_refused(tmp_path):
    make(tmp_path)
    with pytest.raises(InputError, match="holds samples rows"):
        open_output(str(tmp_path), LATENTS, "toy", {}, PARTS, 4)
    clash = [InputPart("a/b", "x", 1, "s"), InputPart("a__b", "y", 1, "s")]
    with pytest.raises(InputError, match="have the same part name"):
        make(tmp_path / "clash", parts=clash)


def test_two_producers_share_a_table(tmp_path):
    write_all(make(tmp_path))
    other = open_output(str(tmp_path), SAMPLES, "second", {"x": 2}, [InputPart("z", "z", 3, "s")], 9)
    write_all(other)
    assert len(read_rows(str(tmp_path))) == 17
    assert [s.producer for s in status(str(tmp_path))] == ["toy", "second"]


def test_a_retry_replaces_only_the_error_rows_it_covers(tmp_path):
    output = make(tmp_path)
    write_all(output, lambda i: error("toy", "Boom") if i % 4 == 1 else kept())
    counts = open_table(str(tmp_path)).counts()
    assert (counts.kept, counts.n_error) == (10, 4)
    chunk = output.chunks[0]
    fixed = [{"row_id": "a.tar/1", "caption": "fixed", **kept()}]
    commit_part(output.folder, chunk.retry_file(1), SAMPLES.table(fixed))
    view = open_table(str(tmp_path))
    assert (view.counts().kept, view.counts().n_error) == (11, 3)
    assert view.parts[0].read()["caption"].to_pylist() == ["c0", "fixed", "c2", "c3"], "in place, order kept"
    assert verify(str(tmp_path)).ok


def test_the_signature_of_a_part_changes_with_a_retry(tmp_path):
    output = make(tmp_path)
    write_all(output)
    before = open_table(str(tmp_path)).inputs()
    commit_part(output.folder, output.chunks[0].retry_file(1), SAMPLES.table([]))
    after = open_table(str(tmp_path)).inputs()
    assert before[0].signature != after[0].signature
    assert before[1:] == after[1:]


def test_verify_names_missing_doubled_foreign_and_damaged_parts(tmp_path):
    output = make(tmp_path)
    write_all(output)
    assert verify(str(tmp_path)).ok
    folder = tmp_path / f"toy-{output.fingerprint}"
    (folder / "a.tar.1.parquet").write_bytes((folder / "a.tar.0.parquet").read_bytes())
    (folder / "a.tar.2.parquet").write_bytes(b"PAR1 not really")
    (folder / "b.tar.0.parquet").unlink()
    (folder / "stranger.0.parquet").write_bytes((folder / "a.tar.0.parquet").read_bytes())
    (folder / "_tmp-123").write_bytes(b"half")
    result = verify(str(tmp_path))
    text = "\n".join(result.problems)
    assert "1 of 4 chunks are pending" in text
    assert "4 keys occur in more than one part" in text
    assert "stranger.0.parquet" in text
    assert "a.tar.2.parquet" in text
    assert "damaged" in text
    assert "1 temporary" in "\n".join(result.notes)


def test_parts_are_plain_parquet_with_the_declared_schema(tmp_path):
    output = make(tmp_path)
    write_all(output)
    table = pq.read_table(tmp_path / f"toy-{output.fingerprint}" / "a.tar.0.parquet")
    assert table.schema.remove_metadata() == SAMPLES.schema


@pytest.mark.parametrize("url", ["memory://raysys-test-tables/t", None])
def test_object_stores_behave_like_the_disk(tmp_path, url):
    path = url or str(tmp_path / "t")
    write_all(make(path))
    assert make(path).pending() == []
    assert len(read_rows(path)) == 14
    assert verify(path).ok


READ_AND_COUNT = """
import os, sys
import fsspec
import pyarrow as pa
from raysys.tables import open_table
pa.set_cpu_count(8)
fsspec.filesystem("memory").put(sys.argv[2], "/held", recursive=True)
view = open_table(sys.argv[1])
opened = []
sys.addaudithook(lambda name, args: opened.append(str(args[0])) if name == "open" else None)
before = len(os.listdir("/proc/self/task"))
assert view.parts[0].read().num_rows == 4
print(len(os.listdir("/proc/self/task")) - before, sum(name.endswith(".parquet") for name in opened))
"""


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are counted through /proc")
@pytest.mark.parametrize("url", ["local", "memory://held"])
def test_no_thread_of_arrow_holds_a_python_file(tmp_path, url):
    """Else a run that ends right after reading a part is aborted (signal 6): the thread outlives the interpreter."""
    write_all(make(tmp_path / "t"))
    source = str(tmp_path / "t") if url == "local" else url
    command = [sys.executable, "-c", READ_AND_COUNT, source, f"{tmp_path}/t/"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    n_threads, n_python_files = map(int, done.stdout.split())
    if url == "local":
        assert n_threads > 0  # Arrow reads in parallel, by itself
        assert n_python_files == 0
    else:
        assert n_threads == 0


def test_a_full_disk_is_one_clear_message_and_leaves_no_half_part(tmp_path):
    import resource

    output = make(tmp_path)
    chunk = output.chunks[0]
    big = [{"row_id": f"a.tar/{i}", "image": bytes(range(256)) * 400, **kept()} for i in range(4)]
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    old = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limit[1]))
    try:
        with pytest.raises(InputError, match="cannot write") as full:
            commit_part(output.folder, chunk.file, SAMPLES.table(big))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, old)
    assert "run the same command again" in full.value.fix
    assert output.pending() == list(output.chunks)
    assert not [p for p in output.folder.names() if p.startswith("_tmp")]


def test_not_a_table(tmp_path):
    with pytest.raises(InputError, match="not a raysys table"):
        open_table(str(tmp_path))


def test_check_keys():
    check_keys([(1,), (2,)], [(2,), (1,)], None, "here")
    with pytest.raises(PartialChunkError, match="1 keys missing, 0 unknown"):
        check_keys([(1,)], [(1,), (2,)], None, "here")
    with pytest.raises(PartialChunkError, match="more than once"):
        check_keys([(1,), (1,)], None, 2, "here")
    with pytest.raises(PartialChunkError, match="1 rows, 2 expected"):
        check_keys([(1,)], None, 2, "here")


def test_unknown_columns_are_refused():
    with pytest.raises(ValueError, match="captoin"):
        SAMPLES.table([{"row_id": "x", "captoin": "typo", **kept()}])


def test_arrays_round_trip_as_little_endian_bytes():
    import numpy as np

    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    data, shape = array_to_bytes(array)
    assert shape == [2, 3, 4]
    assert len(data) == 48
    assert np.array_equal(bytes_to_array(data, shape), array.astype(np.float16))


class Picky(Stage):
    """Fails with the whole batch when a bad item is in it, as a GPU stage would; counts its calls."""

    name = "picky"

    def __init__(self, bad=(), wrong_keys=()):
        self.bad, self.wrong_keys, self.calls = set(bad), set(wrong_keys), 0

    def __call__(self, items: pa.Table) -> list[dict]:
        self.calls += 1
        numbers = items["i"].to_pylist()
        if self.bad & set(numbers):
            raise ValueError("bad item")
        return [
            {"row_id": "stranger" if i in self.wrong_keys else f"r{i}", **(rejected("odd") if i % 2 else kept())}
            for i in numbers
        ]

    def expand(self, item: dict) -> list[dict]:
        return [{"row_id": f"r{item['i']}"}]


def items(n: int) -> pa.Table:
    return pa.table({"i": list(range(n))})


def test_a_bad_item_becomes_an_error_row_and_its_neighbors_are_done():
    stage = Picky(bad={37})
    table = process_chunk(items(100), stage, SAMPLES)
    assert table["row_id"].to_pylist() == [f"r{i}" for i in range(100)]
    bad = table.slice(37, 1).to_pylist()[0]
    assert (bad["outcome"], bad["stage"], bad["reason"], bad["detail"]) == ("error", "picky", "ValueError", "bad item")
    assert stage.calls <= 2 * 7 + 1, "halving, not one by one"


def test_every_item_bad_and_no_item_at_all():
    table = process_chunk(items(5), Picky(bad=range(5)), SAMPLES)
    assert table["outcome"].to_pylist() == ["error"] * 5
    assert len(process_chunk(items(0), Picky(), SAMPLES)) == 0


def test_rows_with_unknown_keys_are_not_committed():
    table = process_chunk(items(8), Picky(wrong_keys={3}), SAMPLES)
    assert table["row_id"].to_pylist() == [f"r{i}" for i in range(8)]
    assert table["reason"].to_pylist()[3] == "PartialChunkError"


def test_user_mistakes_are_not_blamed_on_rows():
    class Missing(Picky):
        def __call__(self, items):
            raise InputError("model folder is gone", "restore it")

    with pytest.raises(InputError, match="model folder"):
        process_chunk(items(3), Missing(), SAMPLES)


def test_an_attempt_that_ends_in_an_exception_is_no_death(tmp_path):
    def attempt() -> None:
        with AttemptLog(Store(tmp_path), "a.tar.0") as log:
            assert not log.one_by_one
            raise OSError("the input cannot be read")

    for _ in range(MAX_ATTEMPTS + 1):
        with pytest.raises(OSError, match="cannot be read"):
            attempt()
    assert Store(tmp_path).sub("_attempts").names() == []


def test_an_item_that_kills_its_worker_is_found_by_counting(tmp_path):
    class Death(BaseException):
        """Stands for SIGKILL: nothing may catch it."""

    class Deadly(Picky):
        def __call__(self, items):
            if 5 in items["i"].to_pylist():
                raise Death
            return super().__call__(items)

    folder, deaths, table = Store(tmp_path), 0, None
    while table is None:
        log = AttemptLog(folder, "a.tar.0")
        log.begin()
        try:
            table = process_chunk(items(10), Deadly(), SAMPLES, log=log)
        except Death:
            deaths += 1
        assert deaths < 20
    log.finish()
    assert deaths == MAX_ATTEMPTS + MAX_ITEM_DEATHS
    assert table["row_id"].to_pylist() == [f"r{i}" for i in range(10)]
    reasons = table["reason"].to_pylist()
    assert reasons[5] == "worker_died"
    assert table["outcome"].to_pylist().count("error") == 1
    assert Store(tmp_path).sub("_attempts").names() == []


def test_rows_are_made_again_only_from_the_inputs_of_the_others(tmp_path):
    """A retry: inputs that were added do not matter, one that changed would mix two versions in a part."""
    output = make(tmp_path)
    fields = output.folder.read_json("_plan.json")["fields"]
    again = partial(reopen_output, str(tmp_path), output.producer, output.fingerprint, fields)
    assert again([*PARTS, InputPart("new", "new", 3, "s")]).chunks == output.chunks
    with pytest.raises(InputError, match=r"settings or inputs have changed:\n  - input a.tar\n"):
        again([replace(PARTS[0], signature="other"), *PARTS[1:]])
    with pytest.raises(InputError, match="- x: 1 → 2"):
        reopen_output(str(tmp_path), output.producer, output.fingerprint, fields | {"x": 2}, PARTS)


def test_differences_are_told_where_they_are():
    old = {"a": {"x": 1}, "prompts": [["p", "one"], ["q", "two"]], "sizes": [1, 2], "same": [1]}
    new = {"a": {"x": 2}, "prompts": [["p", "one"], ["q", "three"]], "sizes": [1], "same": [1]}
    assert differences(old, new) == ["a.x: 1 → 2", "prompts.1.1: 'two' → 'three'", "sizes: [1, 2] → [1]"]
