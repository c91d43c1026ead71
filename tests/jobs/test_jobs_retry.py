"""`raysys retry` on real jobs: it redoes exactly the rows that stand as errors, and rewrites no part."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raysys.rows import SAMPLES
from raysys.scenes import write_demo_shards
from raysys.tables import open_table
from tests.support import tiny
from tests.support.processes import finish, raysys, wait_for

pytestmark = pytest.mark.timeout(1200)


def all_rows(table: Path) -> list[dict]:
    return [row for t in open_table(str(table)).rows(outcome=None) for row in t.to_pylist()]


def parts_of(table: Path) -> dict[str, bytes]:
    return {str(p.relative_to(table)): p.read_bytes() for p in sorted(table.rglob("*.parquet"))}


def retry(folder: Path, table: str, *args: str):
    return raysys("retry", table, "--address", "local", *args, cwd=folder)


def test_a_shard_that_was_away_while_it_was_ingested(tmp_path):
    """The worst case: nothing of the shard could be read, not even the keys of its items."""
    tiny.write_configs(tmp_path)
    write_demo_shards(tmp_path / "shards", tiny.SCENES)
    expected = SAMPLES.table(tiny.sample_rows(tmp_path / "shards/train")).to_pylist()
    shard, away = tmp_path / "shards/train/00001.tar", tmp_path / "away.tar"
    process = tiny.begin("ingest", tmp_path)
    wait_for(lambda: list(tmp_path.glob("samples/*/_plan.json")), process)  # listed; Ray is not up yet
    os.rename(shard, away)
    code, err = finish(process)
    assert code == 0, err
    rows = all_rows(tmp_path / "samples")
    assert len(rows) == len(expected)
    errors = [r for r in rows if r["outcome"] == "error"]
    assert [r["row_id"] for r in errors] == [f"00001.tar/#{i}" for i in range(10)]
    assert {r["reason"] for r in errors} == {"FileNotFoundError"}

    os.rename(away, shard)
    before = parts_of(tmp_path / "samples")
    planned = tiny.here(tmp_path, "retry", "samples", "--dry-run")
    assert planned.returncode == 0
    assert [s.split()[-1] for s in planned.stdout.splitlines() if "to retry" in s] == ["3", "10"]
    assert parts_of(tmp_path / "samples") == before
    retried = retry(tmp_path, "samples")
    assert retried.returncode == 0, retried.stderr
    assert retried.stdout.endswith("no errors left\n")
    assert all_rows(tmp_path / "samples") == expected
    after = parts_of(tmp_path / "samples")
    assert before.items() <= after.items()
    redone = [r for n in set(after) - set(before) for r in pq.read_table(tmp_path / "samples" / n).to_pylist()]
    assert sorted(r["row_id"] for r in redone) == sorted(r["row_id"] for r in expected[10:20])
    assert tiny.here(tmp_path, "verify", "samples").returncode == 0


def test_pictures_that_could_not_be_read_again(tmp_path):
    """Pictures are referenced, not copied: while their shard is away rows are errors; once it is back they are redone.

    The clusters keep such rows as errors too; after the retry the same command makes them again as a whole.
    """
    tiny.write_configs(tmp_path)
    samples = tiny.write_samples(tmp_path, 8)
    shard, away = tmp_path / "shards/train/00000.tar", tmp_path / "away.tar"
    os.rename(shard, away)
    dedup = tiny.command("dedup", "--address", "inline")
    assert tiny.here(tmp_path, *dedup).returncode == 1, "nothing is kept"
    assert {r["outcome"] for r in all_rows(tmp_path / "features/samples")} == {"error"}
    listed = tiny.here(tmp_path, "failed", "features/samples", "--json").stdout.splitlines()
    assert [json.loads(line)["image_id"] for line in listed] == [r["row_id"] for r in samples]
    assert {json.loads(line)["reason"] for line in listed} == {"FileNotFoundError"}
    assert {r["outcome"] for r in all_rows(tmp_path / "duplicates")} == {"error"}
    unhelpful = tiny.here(tmp_path, "retry", "duplicates")
    assert unhelpful.returncode == 1
    assert "whole-table step" in unhelpful.stderr

    os.rename(away, shard)
    retried = tiny.here(tmp_path, "retry", "features/samples", "--address", "inline")
    assert retried.returncode == 0, retried.stderr
    assert {r["outcome"] for r in all_rows(tmp_path / "features/samples")} == {"kept"}
    assert tiny.here(tmp_path, *dedup).returncode == 0
    assert {r["outcome"] for r in all_rows(tmp_path / "duplicates")} == {"kept"}
