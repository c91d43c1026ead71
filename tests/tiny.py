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
from processes import raysys, start

from raysys import cli
from raysys.latents.assemble import assemble
from raysys.latents.encode import TextConfig, TextEncoder
from raysys.models.loading import load_text_encoder, load_vae
from raysys.models.pipeline import save_pipeline
from raysys.outcomes import kept
from raysys.rows import SAMPLES, TRAINING_SET, array_to_bytes
from raysys.scenes import ScenesConfig, write_demo_shards
from raysys.shards.ingest import IngestConfig, ingest_rows
from raysys.shards.inputs import list_inputs
from raysys.tables import InputPart, commit_part, open_output
from raysys.training.config import DiffusionTrainingConfig
from raysys.training.diffusion import build_model

JOBS = Path(__file__).resolve().parent.parent / "jobs"

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
    "unet": {"block_out_channels": [16, 32], "norm_num_groups": 8, "attention_head_dim": 16},
}

CONFIGS = {
    "scenes": {"output": "shards", "scenes": SCENES.model_dump(mode="json")},
    "ingest": {"input": "shards/train", "output": "samples", "chunk_rows": 4},
    "dedup": {"samples": "samples", "descriptors": "descriptors", "output": "duplicates", "chunk_rows": 8},
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
    "train-diffusion": {"training_set": "training_set", "output": "model", "training": TRAINING},
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
        "output": "replication",
    },
    "pipeline": {
        "run": "run",
        "scenes": SCENES.model_dump(mode="json"),
        "training": TRAINING | {"max_steps": 60},
        "generate": {"num_images_per_prompt": 1, "num_inference_steps": 3, "batch_size": 4},
        "generate_chunk_rows": 4,
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
    """A job that goes on while the test does something to it, started by its launcher in jobs/."""
    launcher = JOBS / f"{job.replace('-', '_')}.py"
    return start([sys.executable, launcher, *command(job, *args)[1:]], folder)


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
    states = TextEncoder(TextConfig())(captions).prompt_embeds.numpy()
    rows = []
    for i, caption in enumerate(captions):
        latents, shape = array_to_bytes(rng.standard_normal((12, 8, 8)))
        embeds, embeds_shape = array_to_bytes(states[i])
        arrays = {"latents": latents, "latents_shape": shape}
        arrays |= {"prompt_embeds": embeds, "prompt_embeds_shape": embeds_shape}
        rows.append({"row_id": f"r{i}", "copy": 0, "caption": caption, "bucket": "8x8", **arrays, **kept()})
    assemble([TRAINING_SET.table(rows)], folder / "training_set", seed=0, part_rows=5)


def write_model(folder: Path) -> None:
    """<folder>/model/pipeline: an untrained tiny U-Net beside the zoo's VAE and text encoder."""
    config = DiffusionTrainingConfig.model_validate(TRAINING)
    unet, noise_scheduler = build_model(config)
    tokenizer, text_encoder = load_text_encoder("zoo:text_encoder")
    save_pipeline(folder / "model/pipeline", unet, load_vae("zoo:vae"), text_encoder, tokenizer, noise_scheduler)
