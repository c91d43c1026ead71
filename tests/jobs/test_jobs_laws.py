"""Small laws of the jobs, without Ray: what counts as changed, what prompt files and exports may hold."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from raysys.engine.config import ClusterConfig
from raysys.engine.drive import drive
from raysys.errors import InputError, RunFailed
from raysys.generation.export import export_images
from raysys.generation.images import png_bytes
from raysys.generation.prompts import read_prompts
from raysys.jobs import assemble, replicate, report, scenes, study, train_diffusion
from raysys.jobs.options import RunOptions
from raysys.latents import assemble as latents
from raysys.outcomes import Counts, kept
from raysys.replication.trained_on import training_images
from raysys.rows import DUPLICATES, GENERATIONS, MATCHES, SAMPLES, TRAINING_SET
from raysys.tables import InputPart, commit_part, open_output, open_table
from raysys.tables.job import Redo, TableJob, TableRun
from raysys.tables.stage import Stage
from tests.support.sets import set_row
from tests.support.tables import read_rows


def write(path, row_type, rows, producer="toy"):
    part = InputPart("p", "p", len(rows), "s")
    output = open_output(str(path), row_type, producer, {}, [part], max(len(rows), 1))
    commit_part(output.folder, output.chunks[0].file, row_type.table(rows))
    return output


def test_a_part_with_other_rows_has_another_signature(tmp_path):
    signatures = set()
    for i in range(60):
        rows = [{"row_id": f"r{k}", "sample_id": f"{i if k == 7 else 0:064x}", **kept()} for k in range(300)]
        write(tmp_path / "t", SAMPLES, rows)
        signatures.add(open_table(str(tmp_path / "t")).inputs()[0].signature)
    assert len(signatures) == 60


def test_a_retry_is_not_stopped_by_rows_that_cannot_be_repaired(tmp_path):
    output = write(tmp_path / "t", SAMPLES, [{"row_id": "r", **kept()}])
    job = TableJob("toy", output.table.url, SAMPLES, {}, [], 1, None, Stage, (), ClusterConfig())
    counts = json.dumps(Counts(error=Counter(Boom=20)).as_dict())
    reports = [{"counts": counts, "n_items": 20, "meters": None, "details": "{}"}]
    with pytest.raises(RunFailed, match="max_error_fraction"):
        drive(TableRun(job, output), 1, reports)
    drive(TableRun(job, output, only={"p.0": Redo(1, {0: ("r",)})}), 1, reports)


def test_prompt_files(tmp_path):
    text = tmp_path / "a.txt"
    text.write_bytes("\ufeffa red circle\r\n\n円\u2028two\n".encode())
    assert [p["prompt"] for p in read_prompts(str(text))] == ["a red circle", "円\u2028two"]
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps({"prompt_id": "x", "prompt": "one\u2028two"}, ensure_ascii=False), encoding="utf-8")
    assert read_prompts(str(lines)) == ({"prompt_id": "x", "prompt": "one\u2028two"},)
    for name, data, message in (
        ("empty.txt", b" \n", "is empty"),
        ("latin.txt", "é".encode("latin-1"), "not UTF-8"),
        ("bad.jsonl", b'{"prompt": "no id"}', "line 1"),
        ("twice.jsonl", b'{"prompt_id": 1, "prompt": "a"}\n{"prompt_id": 1, "prompt": "b"}', "duplicate prompt_ids"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_prompts(str(tmp_path / name))


def test_an_export_holds_one_file_per_generation_and_no_older_ones(tmp_path):
    png = png_bytes(np.zeros((8, 8, 3), np.uint8))
    rows = [{"gen_id": i, "prompt_id": i, "image": png, **kept()} for i in ("a/b-0", "a__b-0", "c-0")]
    write(tmp_path / "t", GENERATIONS, rows)
    folder = tmp_path / "out"
    assert export_images(str(tmp_path / "t"), folder) == 3
    assert len(list(folder.glob("*.png"))) == 3
    (folder / "mine.png").write_bytes(png)
    write(tmp_path / "u", GENERATIONS, rows[:1])
    assert export_images(str(tmp_path / "u"), folder) == 1
    assert sorted(p.name for p in folder.glob("*.png")) == ["a%2Fb-0.png", "mine.png"], "other files are not touched"


def test_duplicates_of_other_samples_are_named(tmp_path):
    samples = str(tmp_path / "samples")
    write(samples, SAMPLES, [{"row_id": f"{i}.png", "sample_id": f"{i:064x}", **kept()} for i in range(3)])
    row = {"row_id": "elsewhere", "cluster_size": 1, **kept()}
    write(tmp_path / "dup", DUPLICATES, [row])
    with pytest.raises(InputError, match="no representative"):
        training_images(samples, open_table(str(tmp_path / "dup")), None)
    write(tmp_path / "dup2", DUPLICATES, [row, {"row_id": "1.png", "cluster_size": 1, **kept()}])
    assert len(training_images(samples, open_table(str(tmp_path / "dup2")), None)) == 1


def test_matches_tell_what_was_trained_on(tmp_path):
    """With the assembled set: its images, each once, its captions and the strictest license; not those of the files."""
    rng = np.random.default_rng(0)
    for folder, n in (("generated", 2), ("training", 4)):
        (tmp_path / folder).mkdir()
        for i in range(n):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(tmp_path / folder / f"{i}.png")
            (tmp_path / folder / f"{i}.txt").write_text("as found")
    arrays = np.zeros((1, 2, 2)), np.zeros((4, 2))
    rows = [set_row(f"{i}.png", "as learnt", *arrays, license="CC-BY-SA-4.0", copy=k) for i in (1, 2) for k in (0, 1)]
    latents.assemble([TRAINING_SET.table(rows)], tmp_path / "set", seed=0)
    paths = {name: str(tmp_path / name) for name in ("generated", "training")} | {"output": str(tmp_path / "out")}
    config = {**paths, "training_set": str(tmp_path / "set"), "replication": {"top": 5}}
    done = replicate.run(replicate.JobConfig.model_validate(config), RunOptions())
    assert done.steps["replication"].values["n_training"] == 2
    matches = read_rows(str(tmp_path / "out" / "matches"), MATCHES).to_pylist()
    assert sorted((m["generated"], m["training"]) for m in matches) == [
        (f"{g}.png", f"{t}.png") for g in (0, 1) for t in (1, 2)
    ]
    assert {(m["caption"], m["license"], m["prompt"]) for m in matches} == {("as learnt", "CC-BY-SA-4.0", "as found")}
    (tmp_path / "training" / "2.png").unlink()
    with pytest.raises(InputError, match=r"training_set: 1 of 2 images .* e\.g\. 2\.png"):
        replicate.run(replicate.JobConfig.model_validate(config), RunOptions())
    with pytest.raises(ValueError, match="give one of them"):
        replicate.JobConfig.model_validate(config | {"duplicates": "d"})


def test_a_training_is_another_one_with_another_fusion_set(tmp_path):
    def manifest(name: str, contents: str) -> str:
        folder = tmp_path / name
        folder.mkdir()
        data = {"rows": {"kept": 3}, "parts": [{"sha256": contents}]}
        (folder / "manifest.json").write_text(json.dumps(data))
        return str(folder)

    def identity(training: str, fusion: str) -> dict:
        config = train_diffusion.JobConfig.model_validate(
            {
                "training_set": training,
                "output": "x",
                "diffusion": {"fusion": {"level": "embedding", "set": fusion}},
            }
        )
        return config.inputs.identity()

    training = manifest("training", "t")
    first = identity(training, manifest("fusion", "a"))
    assert first == identity(training, manifest("moved", "a")), "where it lies does not matter"
    assert first != identity(training, manifest("other", "b"))


@pytest.mark.parametrize(
    ("job", "config"),
    [
        (scenes, {"output": "x"}),
        (assemble, {"samples": "a", "latents": "b", "text_states": "c", "output": "d"}),
        (train_diffusion, {"training_set": "a", "output": "b"}),
        (replicate, {"generated": "a", "training": "b", "output": "c"}),
        (report, {"run": "a"}),
        (study, {"run": "a", "models": {"m": {}}}),
    ],
)
def test_jobs_that_work_on_the_whole_refuse_a_limit(job, config):
    with pytest.raises(InputError, match="--limit 5"):
        job.run(job.JobConfig.model_validate(config), RunOptions(limit=5))
