"""One kill on each real job, through the real entry point: the same command again ends as if nothing had happened.

What must come out is computed in this process, without Ray, by the functions that the jobs call.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml

from raysys.captions.caption import Caption, CaptionerConfig, resolve
from raysys.captions.checks import ChecksConfig
from raysys.captions.images import SOURCE_COLUMNS, Images
from raysys.generation.generate import Generate, GenerateConfig
from raysys.jobs import train_diffusion
from raysys.latents.encode import EncodeLatents, EncodeText, LatentsConfig, TextConfig
from raysys.models.families import load_pipeline
from raysys.rows import CAPTIONS, SAMPLES
from raysys.scenes import ScenesConfig, write_demo_shards
from raysys.shards.decode import DecodeConfig
from raysys.shards.images import read_images
from raysys.similarity import make_descriptor
from raysys.tables import open_table
from raysys.tables.kept_rows import KeptRows
from raysys.tables.verify import verify
from raysys.training.checkpoint import load_weights, read_state
from raysys.training.diffusion import DENOISER, build_denoiser
from raysys.training.diffusion_config import DiffusionConfig
from raysys.training.local_worker import LocalWorker
from raysys.training.loop import Finished, fit
from tests.support import tiny
from tests.support.processes import finish, kill_driver, wait_for, workers_of

pytestmark = pytest.mark.timeout(1800)


def all_rows(table: Path) -> list[dict]:
    return [row for t in open_table(str(table)).rows(outcome=None) for row in t.to_pylist()]


def n_parts(table: Path) -> int:
    return len(list(table.glob("*/*.parquet")))


def n_chunks(table: Path) -> int:
    return len(open_table(str(table)).outputs[0].chunks)


def kill_in_the_middle(job: str, folder: Path, table: str, *overrides: str) -> None:
    """Start a job and SIGKILL its driver when some of the parts of `table` are there, but not all."""
    process = tiny.begin(job, folder, *overrides)
    wait_for(lambda: n_parts(folder / table) >= 2, process)
    kill_driver(process)
    assert n_parts(folder / table) < n_chunks(folder / table), "it was too quick to be killed in the middle"


def same_rows(table: Path, expected: list[dict]) -> None:
    """Every expected row once and nothing else, columns and all; `verify` agrees."""
    assert verify(str(table)).problems == []
    assert all_rows(table) == expected


@pytest.mark.slow
def test_ingest_driver_killed(tmp_path):
    tiny.write_configs(tmp_path)
    scenes = ScenesConfig(n_train=40, n_held_out=0, n_fusion_classes=0, samples_per_shard=8)
    truth = write_demo_shards(tmp_path / "shards", scenes)
    kill_in_the_middle("ingest", tmp_path, "samples", "chunk_rows=2")
    tiny.done("ingest", tmp_path, "chunk_rows=2")
    same_rows(tmp_path / "samples", SAMPLES.table(tiny.sample_rows(tmp_path / "shards/train")).to_pylist())
    assert open_table(str(tmp_path / "samples")).counts().as_dict() == truth["counts"]["train"]


@pytest.mark.slow
def test_dedup_driver_killed(tmp_path):
    tiny.write_configs(tmp_path)
    samples = tiny.write_samples(tmp_path, 40)
    kill_in_the_middle("dedup", tmp_path, "features/samples", "chunk_rows=2")
    tiny.done("dedup", tmp_path, "chunk_rows=2")
    images = read_images(samples, DecodeConfig())
    expected = [features.tobytes() for features in make_descriptor()(images)]
    found = all_rows(tmp_path / "features/samples")
    assert verify(str(tmp_path / "features/samples")).ok
    assert [(r["image_id"], r["features"]) for r in found] == [
        (r["row_id"], features) for r, features in zip(samples, expected, strict=True)
    ]
    assert [r["row_id"] for r in all_rows(tmp_path / "duplicates")] == [r["row_id"] for r in samples]


@pytest.mark.slow
def test_encode_driver_killed_in_each_of_its_tables(tmp_path):
    tiny.write_configs(tmp_path)
    samples = SAMPLES.table(tiny.write_samples(tmp_path, 40))
    settings = ("duplicates=null", "chunk_rows=2")
    kill_in_the_middle("encode", tmp_path, "latents", *settings)
    kill_in_the_middle("encode", tmp_path, "text_states", *settings)
    tiny.done("encode", tmp_path, *settings)
    ids = pa.array([f"{row_id}/original" for row_id in samples["row_id"].to_pylist()])
    items = samples.append_column("caption_id", ids)
    for name, encoder in (("latents", EncodeLatents(LatentsConfig())), ("text_states", EncodeText(TextConfig()))):
        table = tmp_path / name
        assert verify(str(table)).ok
        expected = {r["row_id"]: r[name] for r in encoder(items)}
        found = {r["row_id"]: r[name] for r in all_rows(table)}
        assert found == expected


@pytest.mark.slow
def test_generate_worker_killed_then_driver(tmp_path):
    tiny.write_configs(tmp_path)
    tiny.write_model(tmp_path)
    prompts = [{"prompt_id": f"p{i}", "prompt": f"a red circle {i}"} for i in range(40)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(p) + "\n" for p in prompts))
    settings = ("prompts=prompts.jsonl", "chunk_rows=2", "generate.num_inference_steps=6")
    table = tmp_path / "generations"
    process = tiny.begin("generate", tmp_path, *settings)
    wait_for(lambda: n_parts(table) >= 2, process)
    victims = workers_of(process.pid)
    assert victims, "no worker was running"
    for victim in victims:
        victim.kill()
    after_worker = n_parts(table)
    wait_for(lambda: n_parts(table) > after_worker + 1, process)
    kill_driver(process)
    assert n_parts(table) < n_chunks(table) == 20
    tiny.done("generate", tmp_path, *settings)
    assert verify(str(table)).ok
    config = GenerateConfig(model=str(tmp_path / "model/pipeline"), num_inference_steps=6, batch_size=4)
    expected = {r["gen_id"]: r["image"] for r in Generate(config)(pa.Table.from_pylist(prompts))}
    assert {r["gen_id"]: r["image"] for r in all_rows(table)} == expected


CAPTIONERS = (
    {"name": "one", "recipe": "scenes", "llm": {"model": "zoo:captioner", "engine": "transformers"}},
    {"name": "two", "recipe": "scenes", "prompts": {"seen": "a photo of"}, "sampling": {"temperature": 0.7}}
    | {"llm": {"model": "zoo:captioner", "engine": "transformers"}},
)


def undisturbed_captions(folder: Path) -> list[dict]:
    """What the two captioners say in this process about <folder>/samples, in order of caption_id."""
    rows = []
    for given, output in zip(CAPTIONERS, open_table(str(folder / "captions")).outputs, strict=True):
        captioner = resolve(CaptionerConfig.model_validate(given), ChecksConfig(), seed=0)
        assert output.producer == f"caption-{captioner.name}"
        stage, samples = Caption(captioner), KeptRows.of(open_table(str(folder / "samples")), SOURCE_COLUMNS)
        load = Images(samples, captioner.image_size, DecodeConfig())
        # Chunk by chunk, as the job does: in other batches near ties of two words may be rounded the other way.
        rows += [row for chunk in output.chunks for row in CAPTIONS.table(stage(load(chunk))).to_pylist()]
    return sorted(rows, key=lambda row: row["caption_id"])


@pytest.mark.slow
def test_caption_driver_killed_with_two_captioners(tmp_path):
    """Twice: while the first captioner has some of its parts, and while the second has."""
    samples = tiny.write_samples(tmp_path, 40)
    config = {"samples": "samples", "output": "captions", "captioners": list(CAPTIONERS), "chunk_rows": 2}
    (tmp_path / "caption.yaml").write_text(yaml.safe_dump(config))
    table = tmp_path / "captions"

    def parts(name: str) -> int:
        return len(list(table.glob(f"caption-{name}-*/*.parquet")))

    for name, before in (("one", 0), ("two", 20)):
        process = tiny.begin("caption", tmp_path)
        wait_for(lambda name=name: parts(name) >= 2, process)
        kill_driver(process)
        assert 2 <= parts(name) < 20, "it was too quick to be killed in the middle"
        assert n_parts(table) - parts(name) == before
    tiny.done("caption", tmp_path)
    found, expected = sorted(all_rows(table), key=lambda row: row["caption_id"]), undisturbed_captions(tmp_path)
    asked = [f"{s['row_id']}/{name}" for s in samples for name in ("one/photo", "one/picture", "two/seen")]
    assert [row["caption_id"] for row in found] == sorted(asked), "every sample, captioner and prompt once"
    assert found == expected
    verified = tiny.here(tmp_path, "verify", "captions")
    assert verified.returncode == 0, verified.stdout + verified.stderr


# --- training ---

# Ray notices a new checkpoint within seconds; a tiny step takes milliseconds.
LONG = ("training.max_steps=240", "training.checkpoint_every_steps=20")


def undisturbed(folder: Path, **changes) -> Finished:
    """What training in this process ends with, without Ray."""
    job = train_diffusion.JobConfig.model_validate(
        {
            "training_set": str(folder / "training_set"),
            "output": "none",
            "diffusion": tiny.DIFFUSION,
            "training": tiny.TRAINING | {"checkpoint_every_steps": 1000} | changes,
        }
    )
    inputs = job.inputs
    return fit(inputs.recipe(inputs.identity()), inputs.run, LocalWorker(folder / "undisturbed"))


@pytest.fixture
def one_thread():
    """Sums in another order are other floats."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.set_num_threads(threads)


def records(folder: Path, name: str = "model") -> list[dict]:
    path = folder / name / "metrics.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def n_checkpoints(folder: Path) -> int:
    """How many checkpoints are published."""
    return len(list((folder / "model/checkpoints").glob("step-*")))


def checkpoint_steps(folder: Path, name: str = "model") -> list[int]:
    """The steps of the checkpoints on storage, oldest first."""
    return [read_state(c).step for c in sorted((folder / name / "checkpoints").glob("step-*"))]


def same_weights(folder: Path, expected: Finished) -> None:
    """The last checkpoint holds exactly these weights, and the pipeline their average."""
    last = sorted((folder / "model/checkpoints").glob("step-*"))[-1]
    built = build_denoiser(DiffusionConfig.model_validate(tiny.DIFFUSION), 0)
    load_weights(last, {DENOISER: built}, use_ema=False)
    trained = expected.modules[DENOISER].state_dict()
    assert all(torch.equal(x, trained[name]) for name, x in built.state_dict().items())
    saved = load_pipeline(folder / "model/pipeline").denoiser
    average = expected.ema.shadow
    assert all(torch.equal(p, average[f"{DENOISER}.{name}"]) for name, p in saved.named_parameters())


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("inline", "inline"),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("local", "inline"), ("inline", "local"))),
    ],
)
def test_training_terminated_resumes_bit_for_bit(tmp_path, one_thread, first, then):
    """SIGTERM leaves a checkpoint of the last step; the same command ends with the weights of an undisturbed run.

    With Ray and without it, and each resumes what the other began.
    """
    tiny.write_configs(tmp_path)
    tiny.write_training_set(tmp_path)
    long = ("training.max_steps=300", "training.checkpoint_every_steps=1000")
    process = tiny.begin("train-diffusion", tmp_path, *long, "--address", first)
    wait_for(lambda: len(records(tmp_path)) >= 3, process)
    process.send_signal(signal.SIGTERM)
    code, err = finish(process)
    assert code == 143, err
    [stopped] = checkpoint_steps(tmp_path)
    assert records(tmp_path)[-1]["step"] == stopped < 300
    assert not (tmp_path / "model/pipeline").exists()
    before = records(tmp_path)
    tiny.done("train-diffusion", tmp_path, *long, "--address", then)
    after = records(tmp_path)
    assert after[:stopped] == before, "no step was done again"
    assert [r["step"] for r in after] == list(range(1, 301))
    same_weights(tmp_path, undisturbed(tmp_path, max_steps=300))


@pytest.mark.slow
def test_training_driver_killed_resumes_bit_for_bit(tmp_path, one_thread):
    tiny.write_configs(tmp_path)
    tiny.write_training_set(tmp_path)
    process = tiny.begin("train-diffusion", tmp_path, *LONG)
    wait_for(lambda: n_checkpoints(tmp_path) and len(records(tmp_path)) >= 12, process)
    kill_driver(process)
    killed_at, reached = time.time(), len(records(tmp_path))
    assert 12 <= reached < 240
    assert not (tmp_path / "model/pipeline").exists()

    tiny.done("train-diffusion", tmp_path, *LONG)
    found = records(tmp_path)
    assert [r["step"] for r in found] == list(range(1, 241)), "every step once"
    redone = [r["step"] for r in found if r["time"] > killed_at]
    assert 21 <= redone[0] <= reached + 1, "it resumed from a checkpoint, not from the start"
    same_weights(tmp_path, undisturbed(tmp_path, max_steps=240))


@pytest.mark.slow
def test_sigterm_leaves_a_checkpoint_of_two_workers(tmp_path, one_thread):
    """Failed before: nobody told the workers to stop, so the steps since the last interval were lost.

    Two FSDP2 workers, whose checkpoint one worker then goes on from; training longer is the same run.
    """
    tiny.write_configs(tmp_path)
    tiny.write_training_set(tmp_path)
    never = "training.checkpoint_every_steps=1000"
    two = ("cluster.num_workers=2", "training.parallel=fsdp2", "training.max_steps=2000", never)
    process = tiny.begin("train-diffusion", tmp_path, *two)
    wait_for(lambda: len(records(tmp_path)) >= 12, process)
    process.send_signal(signal.SIGTERM)
    code, err = finish(process)
    assert code == 143, err
    assert "stopping: waiting" in err
    [stopped] = checkpoint_steps(tmp_path)
    assert 12 <= stopped < 2000
    assert records(tmp_path)[-1]["step"] == stopped
    [checkpoint] = (tmp_path / "model/checkpoints").glob("step-*")
    assert len(list(checkpoint.glob("*.safetensors"))) == 2, "every worker's part, in one folder"
    before, more = records(tmp_path), stopped + 3
    tiny.done("train-diffusion", tmp_path, f"training.max_steps={more}", never)
    after = records(tmp_path)
    assert after[: len(before)] == before, "no step was done again"
    assert [r["step"] for r in after] == list(range(1, more + 1))
    tiny.done("train-diffusion", tmp_path, f"training.max_steps={more + 2}", never)
    assert records(tmp_path)[-1]["step"] == more + 2, "training longer is the same run"
    refused = tiny.run("train-diffusion", tmp_path, f"training.max_steps={more}", never)
    tiny.refused(refused, f"was trained for {more + 2} steps")


@pytest.mark.slow
def test_training_worker_killed_goes_on_in_the_same_run(tmp_path, one_thread):
    tiny.write_configs(tmp_path)
    tiny.write_training_set(tmp_path)
    process = tiny.begin("train-diffusion", tmp_path, *LONG)
    wait_for(lambda: n_checkpoints(tmp_path) and len(records(tmp_path)) >= 12, process)
    victims = workers_of(process.pid, "RayTrainWorker")
    assert victims, "no training worker was running"
    for victim in victims:
        victim.kill()
    code, err = finish(process)
    assert code == 0, err
    assert [r["step"] for r in records(tmp_path)] == list(range(1, 241))
    same_weights(tmp_path, undisturbed(tmp_path, max_steps=240))


@pytest.mark.slow
def test_training_interrupted_twice(tmp_path, one_thread):
    """Ctrl-C, then SIGTERM, then to the end; and once more as if it had died before the pipeline was saved."""
    tiny.write_configs(tmp_path)
    tiny.write_training_set(tmp_path)
    long = ("training.max_steps=300", "training.checkpoint_every_steps=100")
    for number, expected, at in ((signal.SIGINT, 130, 12), (signal.SIGTERM, 143, 32)):
        process = tiny.begin("train-diffusion", tmp_path, *long)
        wait_for(lambda at=at: len(records(tmp_path)) >= at, process)
        process.send_signal(number)
        code, err = finish(process)
        assert code == expected, err
        assert "run the same command again" in err
        assert checkpoint_steps(tmp_path)[-1] == records(tmp_path)[-1]["step"]
    tiny.done("train-diffusion", tmp_path, *long)
    whole = records(tmp_path)
    assert [r["step"] for r in whole] == list(range(1, 301))
    expected = undisturbed(tmp_path, max_steps=300)
    same_weights(tmp_path, expected)
    shutil.rmtree(tmp_path / "model/pipeline")
    record = tmp_path / "model/_output.json"
    record.write_text(json.dumps(json.loads(record.read_text()) | {"summary": None}))
    tiny.done("train-diffusion", tmp_path, *long)
    assert records(tmp_path) == whole
    same_weights(tmp_path, expected)


@pytest.mark.slow
def test_two_workers_learn_what_one_learns(tmp_path):
    tiny.write_configs(tmp_path)
    tiny.write_training_set(tmp_path)
    tiny.done("train-diffusion", tmp_path)
    for kind in ("ddp", "fsdp2"):
        more = (f"output={kind}", "cluster.num_workers=2", f"training.parallel={kind}")
        tiny.done("train-diffusion", tmp_path, *more)
        one, two = (records(tmp_path, name) for name in ("model", kind))
        assert [r["step"] for r in two] == [r["step"] for r in one] == list(range(1, 13))
        assert [r["loss"] for r in two] == pytest.approx([r["loss"] for r in one], rel=1e-5)
        assert [r["grad_norm"] for r in two] == pytest.approx([r["grad_norm"] for r in one], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_a_damaged_checkpoint_of_two_workers_is_skipped(tmp_path, kind):
    """Failed before: a changed bit was loaded, a damaged snapshot of Ray Train ended every later run in a traceback."""
    tiny.write_configs(tmp_path)
    tiny.write_training_set(tmp_path)
    two = ("cluster.num_workers=2", f"training.parallel={kind}")
    tiny.done("train-diffusion", tmp_path, *two, "output=straight", "training.max_steps=16")
    tiny.done("train-diffusion", tmp_path, *two)
    damaged = tmp_path / "model/checkpoints/step-00000012/shard-00002-model-00001-of-00001.safetensors"
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    for folder in ("checkpoints", "_ray"):
        (tmp_path / "model" / folder).mkdir(exist_ok=True)
        (tmp_path / "model" / folder / "checkpoint_manager_snapshot.json").write_text('{"ray_version"')
    again = tiny.done("train-diffusion", tmp_path, *two, "training.max_steps=16")
    assert f"checkpoint skipped: {damaged} is damaged" in again.stderr
    assert "step-00000008, after step 8" in again.stderr
    resumed, straight = (records(tmp_path, name) for name in ("model", "straight"))
    assert [(r["step"], r["loss"]) for r in resumed] == [(r["step"], r["loss"]) for r in straight]
    assert checkpoint_steps(tmp_path) == [12, 16]


@pytest.mark.slow
def test_a_full_disk_ends_a_training_on_ray_with_one_message(tmp_path, one_thread):
    tiny.write_configs(tmp_path)
    tiny.write_training_set(tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=9m", "tmpfs", disk]).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        tiny.refused(tiny.run("train-diffusion", tmp_path, f"output={disk}/model"), "checkpoint", "No space left")
        subprocess.run(["mount", "-o", "remount,size=60m", disk], check=True)
        tiny.done("train-diffusion", tmp_path, f"output={disk}/model")
        assert [r["step"] for r in records(tmp_path, "disk/model")] == list(range(1, 13))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


# --- a whole study ---


@pytest.mark.slow
def test_study_interrupted_at_every_step_then_finished(tmp_path):
    """Ctrl-C as soon as each of these is there; the last run does what is left, and the report has the whole run."""
    tiny.write_configs(tmp_path)
    run = tmp_path / "run"
    landmarks = (
        "samples/train/_table.json",
        "latents/train/_table.json",
        "models/*/metrics.jsonl",
        "generations/own/*/*/*.parquet",
    )
    for landmark in landmarks:
        process = tiny.begin("study", tmp_path)
        wait_for(lambda landmark=landmark: list(run.glob(landmark)), process)
        process.send_signal(signal.SIGINT)
        code, err = finish(process)
        assert code == 130, err
        assert not (run / "summary.json").exists()
    tiny.done("study", tmp_path)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["data"]["rows"]["in"] == 28
    for model in summary["models"].values():
        assert model["evaluations"]["replication"]["n_generated"] == 12
        assert "missing" not in model
    for table in run.rglob("_table.json"):
        assert verify(str(table.parent)).problems == []
