"""A tiny world for the real jobs: 28 drawn samples in three shards, a U-Net of few parameters, relative paths.

`write_configs(folder)` writes one YAML per job; `run(job, folder)` is the job through the real entry point.
"""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml

from raysys import cli
from raysys.latents.assemble import assemble
from raysys.latents.encode import CaptionEncoder, TextConfig
from raysys.models.families import family
from raysys.models.family import Pipeline
from raysys.rows import SAMPLES, TRAINING_SET
from raysys.scenes import ScenesConfig, write_demo_shards
from raysys.shards.ingest import IngestConfig, ingest_rows
from raysys.shards.inputs import list_inputs
from raysys.tables import InputPart, commit_part, open_output
from raysys.training.diffusion import build_denoiser
from raysys.training.diffusion_config import DiffusionConfig
from tests.support.processes import raysys, start
from tests.support.sets import set_row

SCENES = ScenesConfig(
    n_train=12,
    n_held_out=4,
    n_fusion_classes=2,
    n_per_class=2,
    samples_per_shard=10,
    exact_copies=(2, 1),
    n_near=2,
    n_not_allowed=2,
    n_unknown=1,
)

TRAINING = {
    "max_steps": 12,
    "batch_size": 4,
    "log_every_steps": 1,
    "checkpoint_every_steps": 4,
}
DIFFUSION = {"denoiser": {"block_out_channels": [16, 32], "norm_num_groups": 8, "attention_head_dim": 16}}

CONFIGS = {
    "scenes": {"output": "shards", "scenes": SCENES.model_dump(mode="json")},
    "ingest": {"input": "shards/train", "output": "samples", "chunk_rows": 4},
    "describe": {"images": "samples", "output": "features/samples", "chunk_rows": 8},
    "dedup": {"samples": "samples", "features": "features/samples", "output": "duplicates", "chunk_rows": 8},
    "encode": {
        "samples": "samples",
        "duplicates": "duplicates",
        "latents": "latents",
        "text_states": "text_states",
        "chunk_rows": 8,
    },
    "assemble": {
        "samples": "samples",
        "duplicates": "duplicates",
        "latents": "latents",
        "text_states": "text_states",
        "output": "training_set",
        "part_rows": 5,
    },
    "train-diffusion": {
        "training_set": "training_set",
        "output": "model",
        "diffusion": DIFFUSION,
        "training": TRAINING,
    },
    "generate": {
        "prompts": "training_set",
        "output": "generations",
        "generate": {"model": "model/pipeline", "num_inference_steps": 3, "batch_size": 4},
        "chunk_rows": 5,
    },
    "replicate": {
        "generated": "generations",
        "training": "samples",
        "duplicates": "duplicates",
        "features": {"generated": "features/generations", "training": "features/samples"},
        "output": "replication",
    },
    "study": {
        "run": "run",
        "data": {"scenes": {"scenes": SCENES.model_dump(mode="json")}},
        "models": {
            "baseline": {
                "training": {"diffusion": DIFFUSION, "training": TRAINING | {"max_steps": 60}},
                "generate": {
                    "generate": {"num_images_per_prompt": 1, "num_inference_steps": 3, "batch_size": 4},
                    "chunk_rows": 4,
                },
            },
            "mitigated": {
                "like": "baseline",
                "training": {"diffusion": {"fusion": {"level": "embedding", "set": "fusion"}}},
            },
        },
    },
}


def write_configs(folder: Path) -> None:
    """<folder>/<job>.yaml for every job."""
    folder.mkdir(parents=True, exist_ok=True)
    for job, config in CONFIGS.items():
        (folder / f"{job}.yaml").write_text(yaml.safe_dump(config))


def command(job: str, *args: str) -> tuple[str, ...]:
    """The arguments of `raysys` for a job with its tiny configuration, on a Ray of its own."""
    return (job, "--config", f"{job}.yaml", "--address", "local", *args)


def run(job: str, folder: Path, *args: str, **environment: str) -> subprocess.CompletedProcess:
    """A job to its end, wherever that is, in `folder`."""
    return raysys(*command(job, *args), cwd=folder, **environment)


def here(folder: Path, *args: str) -> subprocess.CompletedProcess:
    """`raysys …` in this process, which has loaded the libraries already: for what must end before Ray starts."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main(list(args))
        except SystemExit as exc:
            code = exc.code
    return subprocess.CompletedProcess(args, code, out.getvalue(), err.getvalue())


def done(job: str, folder: Path, *args: str) -> subprocess.CompletedProcess:
    """A job that must succeed."""
    result = run(job, folder, *args)
    assert result.returncode == 0, result.stderr
    return result


def begin(job: str, folder: Path, *args: str) -> subprocess.Popen:
    """A job that goes on while the test does something to it, as a program of its own."""
    return start([sys.executable, "-m", "raysys", *command(job, *args)], folder)


def refused(result: subprocess.CompletedProcess, *texts: str) -> str:
    """Bad input: exit code 2 and one message with all of `texts` and a fix, no traceback. Returns the message."""
    assert result.returncode == 2, (result.returncode, result.stderr)
    assert "Traceback" not in result.stderr, result.stderr
    message = result.stderr[result.stderr.index("raysys: ") :]
    assert message.count("raysys: ") == 1
    assert "fix: " in message
    for text in texts:
        assert text in message, f"{text!r} is not in {message!r}"
    return message


# --- inputs of a job without running the jobs before it: made in this process, without Ray ---


def sample_rows(shards: Path) -> list[dict]:
    """What ingest must write of `shards`, in order."""
    return [row for file in list_inputs(str(shards)) for row in ingest_rows(file, 0, file.n_items, IngestConfig())]


def write_samples(folder: Path, n: int) -> list[dict]:
    """<folder>/shards with one tar of n good scenes, and <folder>/samples of it; its rows."""
    plain = {"n_held_out": 0, "n_fusion_classes": 0, "exact_copies": (), "samples_per_shard": n}
    plain |= dict.fromkeys(("n_near", "n_not_allowed", "n_unknown", "n_damaged_each"), 0)
    config = ScenesConfig(n_train=n, **plain)
    write_demo_shards(folder / "shards", config)
    rows = sample_rows(folder / "shards/train")
    part = InputPart("00000.tar", str(folder / "shards/train/00000.tar"), len(rows), "signature")
    output = open_output(str(folder / "samples"), SAMPLES, "ingest", {}, [part], len(rows))
    commit_part(output.folder, output.chunks[0].file, SAMPLES.table(rows))
    return rows


def write_training_set(folder: Path, n: int = 12) -> None:
    """<folder>/training_set: n random latents with captions and their real text states."""
    rng = np.random.default_rng(0)
    captions = [f"a scene with {i} circles" for i in range(n)]
    rows = [
        set_row(f"r{i}", caption, rng.standard_normal((12, 8, 8)), encoded.states)
        for i, (caption, encoded) in enumerate(zip(captions, CaptionEncoder(TextConfig())(captions), strict=True))
    ]
    assemble([TRAINING_SET.table(rows)], folder / "training_set", seed=0, part_rows=5)


def write_model(folder: Path) -> None:
    """<folder>/model/pipeline: an untrained tiny U-Net beside the zoo's VAE and text encoder."""
    sd = family("sd")
    denoiser = build_denoiser(DiffusionConfig.model_validate(DIFFUSION), seed=0)
    pipeline = Pipeline(sd.load_text_encoder("zoo:text_encoder"), denoiser, sd.load_autoencoder("zoo:vae"))
    sd.save_pipeline(folder / "model/pipeline", pipeline)
