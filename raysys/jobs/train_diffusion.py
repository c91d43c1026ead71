"""Job `train-diffusion`: an assembled training set → a diffusers pipeline folder."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from pydantic import Field

from raysys.config import Config, dump
from raysys.engine.config import TrainEngineConfig
from raysys.errors import InputError
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import refuse_limit, refuse_lost_path
from raysys.latents.parts import read_manifest
from raysys.tables import Store
from raysys.tables.plan import differences, fingerprint
from raysys.training.config import DiffusionTrainingConfig
from raysys.training.state import FREE_ON_RESUME


class JobConfig(Config):
    """Train or fine-tune the U-Net of a Stable-Diffusion-style model."""

    training_set: str = Field(description="folder of the assembled training set")
    output: str = Field(description="run folder: checkpoints/, metrics.jsonl, pipeline/")
    validation_set: str | None = Field(None, description="folder of an assembled held-out set for the validation loss")
    vae: str = Field(
        "zoo:vae", description="VAE the latents were made with: zoo:vae or a folder; saved in the pipeline"
    )
    text_encoder: str = Field("zoo:text_encoder", description="CLIP text encoder and tokenizer: zoo name or folder")
    training: DiffusionTrainingConfig = Field(DiffusionTrainingConfig(), description="the training itself")
    engine: TrainEngineConfig = Field(TrainEngineConfig(), description="workers, failures, trackers")


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Train, then write `<output>/pipeline`. A finished training is not repeated."""
    return run_all([config], options)[0]


def run_all(configs: list[JobConfig], options: RunOptions) -> list[dict[str, Any]]:
    """Several trainings at the same time (the demo trains baseline and mitigated model together)."""
    refuse_limit("train-diffusion", options)
    todo = [c for c in configs if _prepare(c, options)]
    if todo and not options.dry_run:
        from raysys.engine.cluster import cluster
        from raysys.engine.train import run_trainings

        with cluster(options.address):
            checkpoints = run_trainings([_train_job(c) for c in todo])
        for config, checkpoint in zip(todo, checkpoints, strict=True):
            _export(config, checkpoint)
    return [summary(c) for c in configs]


def identity(config: JobConfig) -> dict[str, Any]:
    """Everything that changes the trained weights. Models and sets count by their contents, not by their paths."""
    from raysys.models.loading import model_hash, part_folder, text_encoder_hashes

    training = {k: v for k, v in config.training.model_dump(mode="json").items() if k not in FREE_ON_RESUME}
    fusion_set = training["fusion"].pop("set")
    start_from = config.training.start_from
    return {
        "training": training,
        "start_from": None if start_from is None else model_hash(part_folder(start_from, "unet")),
        "training_set": set_identity(config.training_set),
        "fusion_set": None if config.training.fusion.level == "none" else set_identity(fusion_set),
        "vae_hash": model_hash(part_folder(config.vae, "vae")),
        **text_encoder_hashes(config.text_encoder),
    }


def set_identity(folder: str) -> dict[str, Any]:
    """What an assembled set holds: rows and the contents it was made from."""
    manifest = read_manifest(folder)
    return {"rows": manifest["rows"]["kept"], "seed": manifest["seed"], "notes": manifest["notes"]}


def _prepare(config: JobConfig, options: RunOptions) -> bool:
    """Whether there is something to do. Refuses a folder of another training."""
    refuse_lost_path(config.output)
    store, fields = Store(config.output), identity(config)
    record = store.read_json("_run/job.json")
    done = record is not None and store.exists("_run/summary.json") and store.exists("pipeline/model_index.json")
    if record is not None and record["fields"] != fields:
        if options.on_change == "keep" and done:
            return False
        if options.on_change != "recompute":
            changed = "".join(f"\n  - {line}" for line in differences(record["fields"], fields))
            raise InputError(
                f"{store.url} holds another training:{changed}",
                "give another output folder, or --on-change recompute (moves the old one aside)",
            )
        _move_aside(store, fingerprint(record["fields"]))
        done = False
    if options.dry_run:
        _print_plan(config, done)
    elif not done:
        store.write_json("_run/job.json", {"job": "train-diffusion", "fields": fields})
        store.write("_run/config.yaml", dump(config).encode())
    else:
        print(f"train-diffusion: nothing to do, {store.url} is finished", file=sys.stderr)
    return not done


def _move_aside(store: Store, digest: str) -> None:
    if not store.is_local:
        raise InputError(f"{store.url}: folders of an object store are not moved", "give another output folder")
    old = Path(store.url)
    old.rename(old.with_name(f"{old.name}.old-{digest}"))


def _print_plan(config: JobConfig, done: bool) -> None:
    training, engine = config.training, config.engine
    manifest = read_manifest(config.training_set)
    gpu = ", 1 GPU" if engine.use_gpu else ""
    print("train-diffusion would do (nothing was written):")
    print(f"  output          {config.output}{' (finished)' if done else ''}")
    print(f"  samples         {manifest['rows']['kept']:,}")
    print(f"  steps           {training.max_steps:,} × {training.batch_size} samples")
    print(f"  fusion          {training.fusion.level}")
    print(f"  workers         {engine.num_workers} × ({engine.cpus_per_worker:g} CPU{gpu})")


def _train_job(config: JobConfig) -> Any:
    from raysys.engine.train import TrainJob

    name = f"train {Store(config.output).url.rsplit('/', 1)[-1]}"
    return TrainJob(name, Store(config.output).url, train_loop, config, config.training.max_steps, config.engine)


def train_loop(worker: Any, config: JobConfig) -> None:
    """What each Ray Train worker runs."""
    from raysys.models.loading import load_text_encoder
    from raysys.models.text import encode_captions
    from raysys.training.batches import TextConditioning
    from raysys.training.diffusion import train

    tokenizer, text_encoder = load_text_encoder(config.text_encoder, device=str(worker.device))
    train(
        config.training,
        config.training_set,
        text=TextConditioning(lambda texts: encode_captions(tokenizer, text_encoder, texts).prompt_embeds, tokenizer),
        report=worker.report,
        checkpoint_root=worker.checkpoint_root,
        validation_set=config.validation_set,
        rank=worker.rank,
        world_size=worker.world_size,
        device=worker.device,
        wrap_model=worker.wrap_model,
        load_from=worker.load_from,
    )


def _export(config: JobConfig, checkpoint: Any) -> None:
    """Save the pipeline under `<output>/pipeline`; on an object store file by file, the index last."""
    from raysys.models.loading import load_text_encoder, load_vae
    from raysys.training.export import export_pipeline

    store = Store(config.output)
    tokenizer, text_encoder = load_text_encoder(config.text_encoder)
    with checkpoint.as_directory() as folder, tempfile.TemporaryDirectory() as local:
        target = Path(store.path("pipeline")) if store.is_local else Path(local, "pipeline")
        vae = load_vae(config.vae)
        export_pipeline(folder, target, vae=vae, text_encoder=text_encoder, tokenizer=tokenizer)
        if not store.is_local:
            _upload(target, store)
    store.write_json("_run/summary.json", summary(config))


def _upload(pipeline: Path, store: Store) -> None:
    index = "model_index.json"
    files = [f.relative_to(pipeline).as_posix() for f in sorted(pipeline.rglob("*")) if f.is_file()]
    for name in [*(f for f in files if f != index), index]:
        store.write(f"pipeline/{name}", (pipeline / name).read_bytes())


def summary(config: JobConfig) -> dict[str, Any]:
    """Steps and final loss of a training, as far as it is."""
    from raysys.engine.train import read_metrics

    store = Store(config.output)
    records = read_metrics(store)
    last = records[-1] if records else {}
    return {"output": store.url, "steps": last.get("step", 0), "loss": last.get("loss")}
