"""`raysys failed` and the closing line of a job: which rows are not kept, why, and what the exit code says."""

from __future__ import annotations

import csv
import io
import json
import shlex
from pathlib import Path

import pytest
from PIL import Image

from raysys import cli
from raysys.outcomes import error, kept, rejected
from raysys.rows import DUPLICATES, SAMPLES
from raysys.tables import InputPart, commit_part, open_output

N_PARTS, N_ROWS = 3, 40


def run_cli(*args: str) -> int:
    with pytest.raises(SystemExit) as caught:
        cli.main(list(args))
    return caught.value.code


def fate(part: int, row: int) -> dict:
    if part == 1:
        return kept()
    if row % 8 == 0:
        return rejected("too_large", f"{row} px,\nor more")
    if row % 10 == 1:
        return rejected("truncated")
    return error("ingest", "OSError", f"row {row} was away") if row == 2 else kept()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Parts 0 and 2 with 5 rows too_large, 4 truncated and 1 error each; part 1 with kept rows only."""
    folder = str(tmp_path_factory.mktemp("table") / "my samples")
    parts = [InputPart(f"in{p}", f"/in/{p}", N_ROWS, "s") for p in range(N_PARTS)]
    output = open_output(folder, SAMPLES, "ingest", {"x": 1}, parts, N_ROWS)
    for p, chunk in enumerate(output.chunks):
        rows = [{"row_id": f"in{p}/{i}", **fate(p, i)} for i in range(N_ROWS)]
        commit_part(output.folder, chunk.file, SAMPLES.table(rows))
    return folder


def ids(reason: str) -> list[str]:
    found = [(f"in{p}/{i}", fate(p, i)) for p in range(N_PARTS) for i in range(N_ROWS)]
    return [name for name, f in found if f["reason"] == reason]


def test_rejected_rows_are_listed_as_a_table(table: str, capsys) -> None:
    assert run_cli("failed", table, "--rejected") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["row_id", "reason", "detail"]
    assert lines[-1] == "18 rejected rows: too_large 10, truncated 8"
    assert {line.split()[0] for line in lines[2:-1] if line.startswith("in")} == {*ids("too_large"), *ids("truncated")}


def test_rejected_rows_of_one_reason(table: str, capsys) -> None:
    assert run_cli("failed", table, "--rejected", "truncated", "--limit", "3") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[2:-1]] == ids("truncated")[:3]
    assert lines[-1] == "8 rejected rows: truncated 8; 3 shown (--limit, or --csv for all)"


def test_an_unknown_reason_names_those_that_occur(table: str, capsys) -> None:
    assert run_cli("failed", table, "--rejected", "too_big") == 2
    err = capsys.readouterr().err
    assert "no rejected rows with the reason 'too_big'" in err
    assert "too_large 10, truncated 8" in err


def test_error_rows_alone_without_the_option(table: str, capsys) -> None:
    assert run_cli("failed", table) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["row_id", "stage", "reason", "detail"]
    assert [line.split()[:3] for line in lines[2:-1]] == [
        ["in0/2", "ingest", "OSError"],
        ["in2/2", "ingest", "OSError"],
    ]
    assert lines[-1] == "2 error rows: OSError 2"


@pytest.mark.parametrize("place", ["-", "new folder/rows.csv"])
def test_csv_holds_all_rows_and_their_details_whole(table: str, capsys, tmp_path: Path, place: str) -> None:
    target = place if place == "-" else str(tmp_path / place)
    assert run_cli("failed", table, "--rejected", "too_large", "--csv", target) == 0
    out = capsys.readouterr().out
    text = out if place == "-" else Path(target).read_text()
    assert place == "-" or out == ""
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["row_id"] for row in rows] == ids("too_large")
    assert rows[1] == {"row_id": "in0/8", "reason": "too_large", "detail": "8 px,\nor more"}


def test_json_holds_all_rows_unless_limited(table: str, capsys) -> None:
    assert run_cli("failed", table, "--rejected", "--json") == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows) == 18
    assert run_cli("failed", table, "--rejected", "--json", "--limit", "11") == 0
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == rows[:11]


def test_a_csv_file_that_is_a_folder_is_refused(table: str, capsys, tmp_path: Path) -> None:
    assert run_cli("failed", table, "--csv", str(tmp_path)) == 2
    assert f"--csv {tmp_path} is a folder" in capsys.readouterr().err


def test_reasons_that_name_a_row_are_listed_as_one(tmp_path: Path, capsys) -> None:
    folder = str(tmp_path / "duplicates")
    output = open_output(folder, DUPLICATES, "dedup", {"x": 1}, [InputPart("a", "/a", 5, "s")], 5)
    rows = [{"row_id": str(i), **(kept() if i < 2 else rejected(f"duplicate_of:{i % 2}"))} for i in range(5)]
    commit_part(output.folder, output.chunks[0].file, DUPLICATES.table(rows))
    assert run_cli("failed", folder, "--rejected", "duplicate_of", "--json") == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["row_id"], row["reason"]) for row in found] == [(str(i), f"duplicate_of:{i % 2}") for i in (2, 3, 4)]


def photographs(folder: Path, licensed: range, n: int = 6) -> str:
    folder.mkdir()
    for i in range(n):
        Image.new("RGB", (64, 64), (40 * i, 9, 9)).save(folder / f"{i}.png")
        if i in licensed:
            (folder / f"{i}.json").write_text('{"license": "CC0"}')
    return str(folder)


def ingest(folder: str, output: Path, *more: str) -> int:
    settings = ["ingest.require_caption=false", "chunk_rows=4", "--address", "inline"]
    return run_cli("ingest", "--config", "demo", f"input={folder}", f"output={output}", *settings, *more)


def test_photos_of_ones_own_are_told_both_keys_that_they_need(tmp_path: Path, capsys) -> None:
    folder = photographs(tmp_path / "photos", range(0))
    assert run_cli("ingest", f"input={folder}", f"output={tmp_path / 'mine'}", "--address", "inline") == 1
    said = capsys.readouterr().err
    assert "(empty_caption 6)" in said
    assert "ingest.require_caption=false" in said
    assert "ingest.declared_license=CC-BY-4.0" in said
    both = ["ingest.require_caption=false", "ingest.declared_license=CC-BY-4.0", "--on-change", "recompute"]
    assert run_cli("ingest", f"input={folder}", f"output={tmp_path / 'mine'}", "--address", "inline", *both) == 0


def test_a_run_that_kept_nothing_fails_and_says_why(tmp_path: Path, capsys) -> None:
    folder, output = photographs(tmp_path / "photos", range(0)), tmp_path / "my samples"
    for _ in range(2):  # also when there is nothing to do, because the table still has nothing
        assert ingest(folder, output) == 1
        said = capsys.readouterr()
        assert "6 rows: kept 0, rejected 6 (license_unknown 6), error 0" in said.out + said.err
        assert "raysys: nothing was kept: ingest: 6 rows" in said.err
        assert "ingest.declared_license" in said.err
    command = f"raysys failed {shlex.quote(str(output))} --rejected"
    assert f"`{command}`" in said.err
    assert run_cli(*shlex.split(command)[1:]) == 0
    assert "6 rejected rows: license_unknown 6" in capsys.readouterr().out


def test_a_run_with_some_kept_rows_ends_well_and_names_the_command(tmp_path: Path, capsys) -> None:
    folder, output = photographs(tmp_path / "photos", range(2)), tmp_path / "samples"
    for _ in range(2):
        assert ingest(folder, output) == 0
        said = capsys.readouterr()
        assert "6 rows: kept 2, rejected 4 (license_unknown 4), error 0" in said.out + said.err
        assert f"list rejected rows: raysys failed {output} --rejected" in said.err
        assert "nothing was kept" not in said.err


def test_a_limit_to_rows_that_are_not_kept_fails_too(tmp_path: Path) -> None:
    folder, output = photographs(tmp_path / "photos", range(4, 6)), tmp_path / "samples"
    assert ingest(folder, output, "--limit", "1") == 1
    assert ingest(folder, output) == 0
