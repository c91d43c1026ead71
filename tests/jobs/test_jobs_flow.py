"""The real jobs one after the other, with relative paths, on a tiny drawn world whose truth is known."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raysys.outcomes import Counts
from raysys.rows import DUPLICATES, GENERATIONS, LATENTS, MATCHES, SAMPLES, TEXT_STATES
from raysys.tables import Store, commit_part, open_table
from tests.support import tiny
from tests.support.processes import raysys
from tests.support.tables import read_rows

pytestmark = pytest.mark.timeout(1200)

N_UNIQUE = 12
TABLES = ("samples", "features/samples", "duplicates", "latents", "text_states", "generations")
RESUMABLE = ("scenes", "ingest", "dedup", "encode", "assemble", "train-diffusion", "generate")


@pytest.fixture(scope="module")
def flow(ray_local: Path) -> Path:
    """A folder in which every job has run once, with relative paths: the one in which Ray's workers run."""
    tiny.write_configs(ray_local)
    for job in (*RESUMABLE, "replicate"):
        ran(ray_local, *tiny.command(job))
    return ray_local


def ran(folder: Path, *args: str) -> subprocess.CompletedProcess:
    """`raysys …` in this process, on the tests' cluster where it needs one; it must succeed."""
    result = tiny.here(folder, *args)
    assert result.returncode == 0, result.stderr
    return result


@pytest.fixture
def without_ray(monkeypatch) -> None:
    """Whatever asks for Ray fails."""
    monkeypatch.setattr("raysys.engine.cluster.cluster", lambda address: pytest.fail("Ray was asked for"))


def all_rows(path: Path, row_type) -> list[dict]:
    """The rows of every fate."""
    return [row for table in open_table(str(path), row_type).rows(outcome=None) for row in table.to_pylist()]


def truth(flow: Path) -> dict:
    return json.loads((flow / "shards/truth.json").read_text())


def key(row_id: str) -> str:
    """`<shard>/<key>` → key"""
    return row_id.partition("/")[2]


def files(folder: Path) -> dict[str, tuple[int, str]]:
    """{path: (mtime in ns, sha256)} of everything below `folder`."""
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, hashlib.sha256(p.read_bytes()).hexdigest())
        for p in folder.rglob("*")
        if p.is_file()
    }


def images(table: Path) -> dict[str, bytes]:
    return {r["gen_id"]: r["image"] for r in read_rows(str(table), GENERATIONS).to_pylist()}


def test_ingest_finds_what_the_truth_says(flow):
    expected = truth(flow)
    rows = all_rows(flow / "samples", SAMPLES)
    assert Counts.of(rows).as_dict() == expected["counts"]["train"]
    items = {k: v for k, v in expected["items"].items() if v["shard"].startswith("train/")}
    found = {key(r["row_id"]): (r["outcome"], r["reason"]) for r in rows}
    assert found == {k: (v["outcome"], v["reason"]) for k, v in items.items()}
    kept = {key(r["row_id"]): r["license"] for r in rows if r["outcome"] == "kept"}
    assert kept == {k: items[k]["license"] for k in kept}


def test_dedup_finds_the_planted_groups(flow):
    expected = truth(flow)
    assert expected["n_unique"] == N_UNIQUE
    clusters: dict[str, set[str]] = {}
    rows = all_rows(flow / "duplicates", DUPLICATES)
    for row in rows:
        clusters.setdefault(row["cluster_id"], set()).add(key(row["row_id"]))
    groups = {frozenset(members) for members in clusters.values() if len(members) > 1}
    assert groups == {frozenset(g["keys"]) for g in expected["duplicate_groups"]}
    assert sum(r["outcome"] == "kept" for r in rows) == N_UNIQUE
    assert len(rows) == expected["counts"]["train"]["kept"]


def test_each_representative_is_encoded_once(flow):
    representatives = {r["row_id"] for r in read_rows(str(flow / "duplicates"), DUPLICATES).to_pylist()}
    for name, row_type in (("latents", LATENTS), ("text_states", TEXT_STATES)):
        rows = all_rows(flow / name, row_type)
        assert sorted(r["row_id"] for r in rows) == sorted(representatives)
        assert all(r["outcome"] == "kept" for r in rows)


def assembled_rows(folder: Path) -> list[tuple[str, int]]:
    tables = [pq.read_table(p, columns=["row_id", "copy"]) for p in sorted(folder.glob("part-*.parquet"))]
    return [(r["row_id"], r["copy"]) for t in tables for r in t.to_pylist()]


def test_assembled_set_with_and_without_duplicates(flow):
    rows = assembled_rows(flow / "training_set")
    assert len(rows) == N_UNIQUE
    assert all(copy == 0 for _, copy in rows)
    ran(flow, *tiny.command("assemble", "keep_duplicates=true", "output=with_duplicates"))
    with_copies = assembled_rows(flow / "with_duplicates")
    size_of = {r["row_id"]: r["cluster_size"] for r in read_rows(str(flow / "duplicates"), DUPLICATES).to_pylist()}
    assert sorted(with_copies) == sorted((row_id, i) for row_id, n in size_of.items() for i in range(n))
    assert len(with_copies) == truth(flow)["counts"]["train"]["kept"]


def test_assembled_captions_are_those_that_were_encoded(flow):
    """Not those of the samples: a set is also made of generalized captions, and its captions are prompts later."""
    states = shutil.copytree(flow / "text_states", flow / "other_states")
    for part in states.glob("encode-*/*.parquet"):
        _rewrite(part, "caption", lambda caption: caption and f"in other words, {caption}")
    ran(flow, *tiny.command("assemble", "text_states=other_states", "output=in_other_words"))
    original = {r["row_id"]: r["caption"] for r in read_rows(str(flow / "samples"), SAMPLES).to_pylist()}
    tables = [pq.read_table(part) for part in sorted((flow / "in_other_words").glob("part-*.parquet"))]
    found = {row["row_id"]: row["captions"][0] for table in tables for row in table.to_pylist()}
    assert found == {row_id: f"in other words, {original[row_id]}" for row_id in found}
    assert len(found) == N_UNIQUE


def test_the_same_commands_again_change_no_file(flow, without_ray):
    before = files(flow)
    for job in RESUMABLE:
        err = ran(flow, *tiny.command(job)).stderr
        assert job == "scenes" or "nothing to do" in err
    changed = {n for n, f in files(flow).items() if before.get(n) != f}
    # Drawing is quicker than looking: scenes are drawn again, to the same bytes.
    assert {n for n in changed if not n.startswith("shards/")} == set()
    assert {n: f[1] for n, f in files(flow).items()} == {n: f[1] for n, f in before.items()}


def test_status_failed_and_verify_of_every_table(flow):
    for name in TABLES:
        view = open_table(str(flow / name))
        status = tiny.here(flow, "status", name)
        assert status.returncode == 0, status.stderr
        n_chunks = len(view.outputs[0].chunks)
        assert f"{n_chunks} of {n_chunks} done, 0 pending" in status.stdout
        assert f"kept {view.counts().kept}" in status.stdout
    failed = raysys("failed", "latents", cwd=flow)
    assert (failed.returncode, failed.stdout) == (0, "0 error rows\n")
    for name in ("samples", "generations", "replication/matches"):
        verified = tiny.here(flow, "verify", name)
        assert verified.returncode == 0, verified.stdout
        assert verified.stdout.endswith("ok\n")


def test_verify_says_what_is_wrong(flow, tmp_path):
    table = shutil.copytree(flow / "samples", tmp_path / "samples")
    sorted(table.glob("ingest-*/*.parquet"))[0].unlink()
    verified = raysys("verify", table)
    assert verified.returncode == 1
    assert "1 of 8 chunks are pending" in verified.stdout
    assert verified.stdout.endswith("NOT WHOLE\n")


def test_the_pipeline_loads_in_a_process_without_raysys(flow):
    code = (
        "import sys; sys.modules['raysys'] = None\n"
        "from diffusers import DiffusionPipeline\n"
        "pipeline = DiffusionPipeline.from_pretrained('model/pipeline')\n"
        "image = pipeline('a red circle', num_inference_steps=2).images[0]\n"
        "print(type(pipeline).__name__, image.size)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], cwd=flow, capture_output=True, text=True, timeout=240)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip().endswith("StableDiffusionPipeline (64, 64)")


def test_metrics_are_complete_and_finite(flow):
    records = [json.loads(line) for line in (flow / "model/metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in records] == list(range(1, 13))
    assert all(0 < r["loss"] < 10 for r in records)


def test_two_workers_and_a_redone_part_give_the_same_images(flow):
    reference = images(flow / "generations")
    assert len(reference) == N_UNIQUE
    pool = "cluster.pool={min_size: 2, max_size: 2}"
    ran(flow, *tiny.command("generate", "output=generations2", pool))
    assert images(flow / "generations2") == reference
    part = sorted((flow / "generations2").glob("generate-*/*.parquet"))[1]
    part.unlink()
    ran(flow, *tiny.command("generate", "output=generations2", "export=png"))
    assert part.is_file()
    assert images(flow / "generations2") == reference
    exported = [json.loads(line) for line in (flow / "png/metadata.jsonl").read_text().splitlines()]
    assert {f["gen_id"]: (flow / "png" / f["file_name"]).read_bytes() for f in exported} == reference


def test_replication_has_one_match_per_generated_image(flow):
    result = json.loads((flow / "replication/replication.json").read_text())
    generated = set(images(flow / "generations"))
    assert {m["generated"] for m in result["matches"]} == generated
    assert len(result["matches"]) == result["n_generated"] == result["n_training"] == N_UNIQUE
    nearest = {m["generated"]: m["training"] for m in result["matches"]}
    rows = read_rows(str(flow / "replication/matches"), MATCHES).to_pylist()
    assert {r["generated"]: r["training"] for r in rows if r["rank"] == 0} == nearest


def planned(job: str, folder: Path, *args: str) -> str:
    """What a job prints when it is only asked what it would do."""
    return ran(folder, *tiny.command(job, "--dry-run", *args)).stdout


def test_dry_run_writes_nothing(flow, without_ray, tmp_path):
    tiny.write_configs(tmp_path)
    (tmp_path / "shards").symlink_to(flow / "shards")
    before = files(tmp_path)
    said = planned("ingest", tmp_path)
    assert "nothing was written" in said
    assert [line.split()[-1] for line in said.splitlines() if line.split()[0] in ("items", "chunks")] == ["28", "8"]
    assert "scenes would" in planned("scenes", tmp_path, "output=elsewhere")
    for job in ("dedup", "encode", "assemble", "train-diffusion", "generate", "replicate"):
        assert f"{job} would" in planned(job, flow, *(["output=planned"] if job != "encode" else []))
    assert files(tmp_path) == before
    assert not (flow / "planned").exists()


def test_limit_is_whole_chunks_and_goes_on(flow, tmp_path):
    tiny.write_configs(tmp_path)
    (tmp_path / "shards").symlink_to(flow / "shards")
    inline = tiny.command("ingest", "--address", "inline")
    assert tiny.here(tmp_path, *inline, "--limit", "6").returncode == 0
    view = open_table(str(tmp_path / "samples"))
    assert (view.counts().total, view.n_pending) == (8, 6)
    note = tiny.here(tmp_path, *tiny.command("dedup", "--dry-run")).stderr
    assert "note: samples has 6 pending chunks" in note
    assert tiny.here(tmp_path, *inline).returncode == 0
    assert all_rows(tmp_path / "samples", SAMPLES) == [
        row | {"shard": row["shard"].replace(str(flow), str(tmp_path))} for row in all_rows(flow / "samples", SAMPLES)
    ]


def test_print_config_shows_what_would_run(flow):
    shown = tiny.here(flow, *tiny.command("encode", "chunk_rows=3", "--print-config"))
    assert shown.returncode == 0
    assert "chunk_rows: 3" in shown.stdout
    assert "resolution: 64" in shown.stdout


@pytest.mark.slow
def test_unreadable_shard_becomes_error_rows_and_retry_redoes_exactly_these(flow, tmp_path):
    """Pictures are referenced, not copied: while a shard is away its rows are errors; `retry` redoes these."""
    shutil.copytree(flow / "shards", tmp_path / "shards")
    shutil.copytree(flow / "duplicates", tmp_path / "duplicates")
    tiny.write_configs(tmp_path)
    shutil.copytree(flow / "samples", tmp_path / "samples")
    for part in (tmp_path / "samples").glob("ingest-*/*.parquet"):  # the copies' rows point at the copied shards
        _rewrite(part, "shard", lambda shard: shard.replace(str(flow), str(tmp_path)))
    shard, away = tmp_path / "shards/train/00001.tar", tmp_path / "away.tar"
    os.rename(shard, away)
    tiny.done("encode", tmp_path)
    rows = all_rows(tmp_path / "latents", LATENTS)
    errors = {r["row_id"] for r in rows if r["outcome"] == "error"}
    assert errors == {r["row_id"] for r in rows if r["row_id"].startswith("00001.tar/")}
    assert 0 < len(errors) < N_UNIQUE == len(rows)
    listed = raysys("failed", "latents", "--json", cwd=tmp_path).stdout.splitlines()
    assert {json.loads(line)["row_id"] for line in listed} == errors
    assert all(json.loads(line)["reason"] == "FileNotFoundError" for line in listed)

    os.rename(away, shard)
    before = files(tmp_path / "latents")
    retried = raysys("retry", "latents", "--address", "local", cwd=tmp_path)
    assert retried.returncode == 0, retried.stderr
    assert retried.stdout.endswith("no errors left\n")
    after = files(tmp_path / "latents")
    new = {n for n in after if n.endswith(".parquet") and n not in before}
    assert {n: f for n, f in after.items() if n in before and n.endswith(".parquet")} == {
        n: f for n, f in before.items() if n.endswith(".parquet")
    }
    redone = [r for n in new for r in pq.read_table(tmp_path / "latents" / n).to_pylist()]
    assert {r["row_id"] for r in redone} == errors
    assert all_rows(tmp_path / "latents", LATENTS) == all_rows(flow / "latents", LATENTS)
    assert raysys("verify", "latents", cwd=tmp_path).returncode == 0


def _rewrite(part: Path, column: str, change: Callable[[str], str]) -> None:
    """Change a column of a committed part."""
    table = pq.read_table(part)
    index, field = table.schema.get_field_index(column), table.schema.field(column)
    changed = pa.array([change(value) for value in table[column].to_pylist()], field.type)
    commit_part(Store(part.parent), part.name, table.set_column(index, field, changed).replace_schema_metadata(None))
