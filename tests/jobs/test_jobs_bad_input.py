"""Bad input to the real jobs: one clear message with the fix and exit code 2, or an outcome row; nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raysys.outcomes import Counts
from raysys.rows import FEATURES, SAMPLES
from raysys.scenes import write_demo_shards
from raysys.shards.licenses import LICENSE_REASONS
from raysys.tables import open_table
from tests.support import tiny
from tests.support.tiny import refused

pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def ingested(tmp_path_factory) -> Path:
    """A folder with shards (the last one ends in the middle of a picture) and their samples."""
    folder = tmp_path_factory.mktemp("ingested")
    tiny.write_configs(folder)
    write_demo_shards(folder / "shards", tiny.SCENES.model_copy(update={"truncated_shard": True}))
    tiny.done("ingest", folder)
    return folder


@pytest.fixture
def folder(ingested: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(ingested, tmp_path / "copy"))


def job_here(job: str, folder: Path, *args: str) -> subprocess.CompletedProcess:
    """A job that ends before Ray would start."""
    return tiny.here(folder, *tiny.command(job, *args))


def parts_of(table: Path) -> dict[str, bytes]:
    return {str(p.relative_to(table)): p.read_bytes() for p in sorted(table.rglob("*.parquet"))}


def all_rows(table: Path) -> list[dict]:
    return [row for t in open_table(str(table)).rows(outcome=None) for row in t.to_pylist()]


def test_missing_and_empty_input(tmp_path):
    tiny.write_configs(tmp_path)
    refused(job_here("ingest", tmp_path), "shards/train does not exist")
    (tmp_path / "shards/train").mkdir(parents=True)
    refused(job_here("ingest", tmp_path), "shards/train", "the folder is empty")
    (tmp_path / "shards/train/notes.doc").write_text("?")
    refused(job_here("ingest", tmp_path), "no shards and no images", "1 other files")
    for job, name in (("dedup", "samples"), ("encode", "samples"), ("assemble", "samples")):
        refused(job_here(job, tmp_path), f"{name} is not a raysys table")
    refused(job_here("train-diffusion", tmp_path), "training_set is not an assembled training set")
    refused(job_here("replicate", tmp_path), "is not a raysys table")
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_dir()) == ["shards"], "nothing was written"


def test_missing_model_and_prompts(tmp_path):
    tiny.write_configs(tmp_path)
    refused(job_here("generate", tmp_path), "prompts", "training_set")
    (tmp_path / "prompts.txt").write_text("a red circle\n")
    refused(job_here("generate", tmp_path, "prompts=prompts.txt"), "model/pipeline")
    (tmp_path / "bad.jsonl").write_text('{"prompt_id": 1, "prompt": "x"}\n{"prompt": "y"}\n')
    refused(job_here("generate", tmp_path, "prompts=bad.jsonl"), "bad.jsonl line 2")


def test_the_wrong_kind_of_table(folder):
    refused(job_here("encode", folder, "duplicates=samples"), "samples", "holds samples rows, expected duplicates rows")
    refused(job_here("dedup", folder, "features=samples"), "samples", "holds samples rows")
    refused(job_here("ingest", folder, "input=samples"), "samples")


def test_all_config_mistakes_at_once(folder):
    message = refused(
        job_here("ingest", folder, "chunk_rws=5", "ingest.check_licenses=perhaps", "cluster.pool.max_size=0"),
        "3 mistakes",
        "chunk_rws: unknown key; did you mean chunk_rows?",
        "ingest.check_licenses = 'perhaps'",
        "cluster.pool.max_size = 0",
    )
    assert message.count("\n  - ") == 3


def test_a_shard_that_ends_in_the_middle_is_one_error_row(ingested):
    counts = Counts.of(all_rows(ingested / "samples")).as_dict()
    assert counts["in"] == 31
    assert counts["error"] == {"truncated_shard": 1}
    assert "truncated_shard" in tiny.here(ingested, "failed", "samples").stdout


def test_changed_configuration_is_refused_kept_or_recomputed(folder):
    before, rows = parts_of(folder / "samples"), all_rows(folder / "samples")
    changed = "ingest.check_licenses=false"
    refused(
        job_here("ingest", folder, changed),
        "samples was written by ingest with other settings",
        "ingest.check_licenses: True → False",
        "--on-change",
    )
    kept = job_here("ingest", folder, changed, "--on-change", "keep")
    assert kept.returncode == 0
    assert "kept as it is, made from other settings or inputs" in kept.stderr
    assert parts_of(folder / "samples") == before

    tiny.done("ingest", folder, changed, "--on-change", "recompute")
    assert before.items() <= parts_of(folder / "samples").items(), "the old version stays"
    again = all_rows(folder / "samples")
    assert [r["row_id"] for r in again] == [r["row_id"] for r in rows]
    refused_before = {r["row_id"] for r in rows if (r["reason"] or "").startswith("license_")}
    assert len(refused_before) == 3
    assert {r["row_id"] for r in again if r["outcome"] == "kept"} == refused_before | {
        r["row_id"] for r in rows if r["outcome"] == "kept"
    }


def test_a_changed_shard_is_refused_or_only_it_is_redone(folder):
    before = parts_of(folder / "samples")
    other = write_demo_shards(folder / "other", tiny.SCENES.model_copy(update={"seed": 1}))
    shutil.copy(folder / "other/train/00001.tar", folder / "shards/train/00001.tar")
    message = refused(job_here("ingest", folder), "00001.tar changed", "--on-change recompute")
    assert "00000.tar" not in message
    assert parts_of(folder / "samples") == before

    tiny.done("ingest", folder, "--on-change", "recompute")
    after = parts_of(folder / "samples")
    assert {n for n in before if after.get(n) != before[n]} == {n for n in before if "/00001.tar." in n}
    keys = {r["row_id"] for r in all_rows(folder / "samples") if r["row_id"].startswith("00001.tar/")}
    assert keys == {f"00001.tar/{k}" for k, v in other["items"].items() if v["shard"] == "train/00001.tar"}


def test_a_vanished_shard_is_refused_or_what_is_there_kept(folder):
    (folder / "shards/train/00000.tar").unlink()
    refused(job_here("ingest", folder), "00000.tar is gone")
    before = parts_of(folder / "samples")
    kept = job_here("ingest", folder, "--on-change", "keep")
    assert kept.returncode == 0
    assert "kept as it is, made from other settings or inputs" in kept.stderr
    assert parts_of(folder / "samples") == before


def test_pending_input_is_noted_and_a_damaged_footer_is_named(folder):
    parts = sorted((folder / "samples").glob("ingest-*/*.parquet"))
    parts[3].unlink()
    result = job_here("dedup", folder, "--dry-run")
    assert result.returncode == 0
    assert "note: samples has 1 pending chunks; continuing with the finished ones" in result.stderr
    parts[0].write_bytes(parts[0].read_bytes()[:-20])
    refused(job_here("dedup", folder), str(parts[0]), "damaged", "delete that file")
    refused(job_here("encode", folder, "duplicates=null"), str(parts[0]), "damaged")
    for command in ("status", "failed"):
        refused(tiny.here(folder, command, "samples"), str(parts[0]), "damaged")
    verified = tiny.here(folder, "verify", "samples")
    assert verified.returncode == 1
    assert parts[0].name in verified.stdout


def test_damaged_rows_fail_their_chunk_and_the_others_go_on(folder):
    """The footer is whole, the data are not: found when the chunk is read. The repair costs this chunk only."""
    part = sorted((folder / "samples").glob("ingest-*/*.parquet"))[0]
    whole = part.read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    part.write_bytes(b"PAR1" + bytes(len(whole) - footer - 4) + whole[-footer:])
    assert pq.read_metadata(part).num_rows == 4
    result = tiny.run("dedup", folder)
    assert result.returncode == 1, result.stderr
    message = result.stderr[result.stderr.index("raysys: 1 of 9 chunks") :]
    assert "stay pending" in message
    assert str(part) in message
    assert "delete that file" in message
    assert "Traceback" not in result.stderr
    assert open_table(str(folder / "features/samples"), FEATURES).n_pending == 1
    part.write_bytes(whole)
    tiny.done("dedup", folder, "--address", "inline")
    described = {r["image_id"] for r in all_rows(folder / "features/samples")}
    rows = all_rows(folder / "samples")
    assert described == {r["row_id"] for r in rows if r["outcome"] == "kept" or r["reason"] in LICENSE_REASONS}


def test_no_space_left(ingested, tmp_path):
    """On a real full disk: the parts that fitted stay, and after making room the same command ends the job."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", disk]).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        full = tiny.run("ingest", ingested, f"output={disk}/samples")
        assert full.returncode in (1, 2), "a part did not fit (2), or the record of the progress (1)"
        assert "Traceback" not in full.stderr
        message = full.stderr[full.stderr.index("raysys: ") :].lower()
        assert message.count("no space left") == 1
        assert "run the same command again" in message
        done = open_table(f"{disk}/samples")
        assert 0 < done.n_pending < 9
        assert not list(disk.rglob("_tmp-*"))
        before = parts_of(disk / "samples")
        subprocess.run(["mount", "-o", "remount,size=8m", disk], check=True)
        tiny.done("ingest", ingested, f"output={disk}/samples", "--address", "inline")
        assert before.items() <= parts_of(disk / "samples").items()
        assert all_rows(disk / "samples") == all_rows(ingested / "samples")
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        refused(job_here("dedup", ingested, f"output={disk}/d", f"features={disk}/e"), "cannot write", "Read-only")
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.mark.parametrize(
    ("job", "key"),
    [("ingest", "output"), ("assemble", "output"), ("train-diffusion", "output"), ("study", "run")],
)
def test_a_submitted_job_refuses_an_output_that_dies_with_its_node(tmp_path, job, key, monkeypatch):
    tiny.write_configs(tmp_path)
    write_demo_shards(tmp_path / "shards", tiny.SCENES)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    refused(job_here(job, tmp_path, f"{key}=here/out"), "here/out", "s3://")
    assert not (tmp_path / "here").exists()


def test_rows_of_a_shard_are_those_of_the_schema(ingested):
    for table in open_table(str(ingested / "samples"), SAMPLES).rows(outcome=None):
        assert table.schema.remove_metadata() == SAMPLES.schema
