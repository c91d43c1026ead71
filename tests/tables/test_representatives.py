"""SAMPLES ⋈ DUPLICATES against a join over plain dicts."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from raysys.outcomes import kept, rejected
from raysys.rows import DUPLICATES, SAMPLES
from raysys.tables import InputPart, TableView, commit_part, open_output, open_table
from raysys.tables.representatives import LEFT_OUT, RepresentativeRows, Representatives

COLUMNS = ("row_id", "caption", "license", "license_evidence", "cluster_size", "sources")


def sample(i: int, license: str = "CC0-1.0") -> dict:
    own = {"license": license, "license_evidence": f"license={license}"}
    return {"row_id": f"a.tar/{i}", "sample_id": f"s{i}", "caption": f"c{i}", **own, **kept()}


def member(i: int, head: int, members: list[int], license: str, fate: dict | None = None) -> dict:
    sources = [{"row_id": f"a.tar/{m}", "url": None, "license": license} for m in members]
    fate = fate or (kept() if i == head else rejected(f"duplicate_of:a.tar/{head}"))
    shared = {"cluster_size": len(members), "license": license, "sources": sources}
    return {"row_id": f"a.tar/{i}", "sample_id": f"s{i}", "representative": f"a.tar/{head}", **shared, **fate}


SAMPLE_ROWS = [
    sample(0),
    sample(1, "CC-BY-4.0"),
    sample(2),
    {**sample(3), **rejected("too_small")},
    sample(4),
    sample(5),
]
CLUSTER_ROWS = [
    member(0, 0, [0, 1], "CC-BY-4.0"),
    member(1, 0, [0, 1], "CC-BY-4.0"),
    member(2, 2, [2], "CC0-1.0"),
    member(4, 4, [4], "CC0-1.0", rejected("license_conflict:b.tar/9")),
]  # a.tar/5 came after dedup


def write(path: Path, row_type, rows: list[dict], parts: list[InputPart], chunk_rows: int) -> TableView:
    output = open_output(str(path), row_type, "test", {"v": 1}, parts, chunk_rows, on_change="recompute")
    for chunk in output.chunks:
        commit_part(output.folder, chunk.file, row_type.table(rows[chunk.start : chunk.stop]))
    return open_table(str(path))


@pytest.fixture
def samples(tmp_path) -> TableView:
    return write(tmp_path / "samples", SAMPLES, SAMPLE_ROWS, [InputPart("a.tar", "/a.tar", 6, "s")], 6)


@pytest.fixture
def duplicates(tmp_path, samples) -> TableView:
    return write(tmp_path / "duplicates", DUPLICATES, CLUSTER_ROWS, samples.inputs(), 1 << 62)


def all_rows(join: Representatives, columns=COLUMNS) -> list[dict]:
    return [row for table in join.parts(columns) for row in table.to_pylist()]


def test_representatives_carry_the_strictest_license_of_their_cluster(samples, duplicates):
    join = Representatives(samples, duplicates)
    rows = all_rows(join)
    assert [row["row_id"] for row in rows] == ["a.tar/0", "a.tar/2"]
    assert [row["license"] for row in rows] == ["CC-BY-4.0", "CC0-1.0"]
    assert rows[0]["license_evidence"] == "the strictest of 2 copies; this one: license=CC0-1.0"
    assert rows[1]["license_evidence"] == "license=CC0-1.0"
    assert [row["cluster_size"] for row in rows] == [2, 1]
    assert [source["row_id"] for source in rows[0]["sources"]] == ["a.tar/0", "a.tar/1"]
    assert join.ids() == {"a.tar/0", "a.tar/2"}
    assert join.identity == {"samples": samples.identity, "duplicates": duplicates.identity}


def test_without_duplicates_every_kept_sample_stays(samples):
    rows = all_rows(Representatives(samples, None))
    assert [row["row_id"] for row in rows] == [f"a.tar/{i}" for i in (0, 1, 2, 4, 5)]
    assert [row["license"] for row in rows] == ["CC0-1.0", "CC-BY-4.0", "CC0-1.0", "CC0-1.0", "CC0-1.0"]
    assert {row["cluster_size"] for row in rows} == {1}
    assert Representatives(samples, None).inputs() == samples.inputs()


def test_what_is_left_out_says_why(samples, duplicates):
    part = samples.parts[0]
    table = Representatives(samples, duplicates).with_left_out(part, ["row_id", "license"])
    assert table.column_names == ["row_id", "license", LEFT_OUT]
    assert dict(zip(table["row_id"].to_pylist(), table[LEFT_OUT].to_pylist(), strict=True)) == {
        "a.tar/0": None,
        "a.tar/1": "duplicate_of:a.tar/0",
        "a.tar/2": None,
        "a.tar/4": "license_conflict:b.tar/9",
        "a.tar/5": "not_deduplicated",
    }


@pytest.mark.parametrize("with_duplicates", [False, True])
def test_the_rows_of_chunks_are_the_rows_of_the_part(samples, duplicates, with_duplicates):
    join = Representatives(samples, duplicates if with_duplicates else None)
    load = pickle.loads(pickle.dumps(RepresentativeRows.of(join, ("row_id", "license"))))
    parts = samples.inputs()
    chunks = open_output("unused", SAMPLES, "toy", {}, parts, 2, dry_run=True).chunks
    rows = [row for chunk in chunks for row in load(chunk).to_pylist()]
    assert rows == all_rows(join, ("row_id", "license"))


def test_inputs_change_with_who_represents_and_with_the_license_where_it_is_read(tmp_path, samples, duplicates):
    def signatures(rows, columns=()):
        view = write(tmp_path / f"d{len(list(tmp_path.iterdir()))}", DUPLICATES, rows, samples.inputs(), 1 << 62)
        return [part.signature for part in Representatives(samples, view).inputs(columns)]

    grown = [CLUSTER_ROWS[0] | {"cluster_size": 3}, *CLUSTER_ROWS[1:]]
    stricter = [CLUSTER_ROWS[0] | {"license": "CC-BY-SA-4.0"}, *CLUSTER_ROWS[1:]]
    other = [CLUSTER_ROWS[0] | rejected("license_conflict:x"), *CLUSTER_ROWS[1:]]
    base, base_license = signatures(CLUSTER_ROWS), signatures(CLUSTER_ROWS, ["license"])
    assert signatures(grown) == base
    assert signatures(stricter) == base
    assert signatures(stricter, ["license"]) != base_license
    assert signatures(other) != base
