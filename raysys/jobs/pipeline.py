"""Job `pipeline`: every arrow in order, from shards to the report of two models. `make demo` runs it.

scenes → ingest → dedup → caption → generalize → encode → assemble → train (baseline ‖ mitigated) → generate →
replicate → report
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pydantic import Field

from raysys.config import Config, dump
from raysys.engine.config import EngineConfig, TrainEngineConfig
from raysys.errors import InputError
from raysys.fusion import FusionConfig
from raysys.generation.generate import GenerateConfig, SamplingConfig
from raysys.jobs import (
    JobModule,
    assemble,
    caption,
    dedup,
    encode,
    generalize,
    generate,
    ingest,
    replicate,
    report,
    scenes,
    train_diffusion,
)
from raysys.jobs.captions_in import CaptionSource
from raysys.jobs.layout import GENERALIZED, MODELS, SPLITS, Layout
from raysys.jobs.options import RunOptions
from raysys.jobs.pipeline_captions import CaptionsConfig
from raysys.jobs.run_table import refuse_limit, refuse_lost_path
from raysys.latents.encode import LatentsConfig, TextConfig
from raysys.replication import ReplicationConfig
from raysys.scenes.demo_shards import ScenesConfig
from raysys.shards.decode import DecodeConfig
from raysys.shards.duplicates import DuplicatesConfig
from raysys.shards.ingest import IngestConfig
from raysys.similarity import DescriptorConfig
from raysys.tables import Store
from raysys.training.config import DiffusionTrainingConfig


class ShardsConfig(Config):
    """Input shards; null = the scenes that this run draws."""

    train: str = Field(description="training shards: tars, Parquet or a folder")
    held_out: str = Field(description="shards that are not trained on: the level of chance")
    fusion: str = Field(description="fusion set: images whose caption is their class")


class JobConfig(Config):
    """The whole run. Each section is that of the job of the same name."""

    run: str = Field("runs/demo", description="run folder; everything the run makes lies in it")
    seed: int = Field(0, ge=0, description="seed of weights, sample order, noise and generations; not of the scenes")
    shards: ShardsConfig | None = Field(None, description="your own shards; null = draw scenes")
    scenes: ScenesConfig = Field(ScenesConfig(), description="the drawn world, unless shards are given")
    ingest: IngestConfig = Field(IngestConfig(), description="decoding limits and licences")
    fusion_ingest: IngestConfig | None = Field(
        None, description="the same for the fusion set, whose images are never seen whole; null = as above"
    )
    descriptor: DescriptorConfig = Field(DescriptorConfig(), description="compares images in dedup and replication")
    duplicates: DuplicatesConfig = Field(DuplicatesConfig(), description="near-duplicate thresholds")
    keep_duplicates: bool = Field(False, description="train on duplicates too, as a set without dedup would")
    captions: CaptionsConfig | None = Field(
        None, description="caption and generalize for the mitigated model; null = original captions for both"
    )
    images: LatentsConfig = Field(LatentsConfig(), description="VAE, resolution, crop")
    text: TextConfig = Field(TextConfig(), description="text encoder")
    training: DiffusionTrainingConfig = Field(DiffusionTrainingConfig(), description="both trainings")
    w_lat: float = Field(0.1, ge=0, le=1, description="mitigated model: latent fusion weight (Eq. 1)")
    w_emb: float = Field(0.5, ge=0, le=1, description="mitigated model: embedding fusion weight (Eq. 2)")
    fusion_level: str = Field(
        "embedding", pattern="embedding|token", description="mitigated model: where captions fuse"
    )
    generate: SamplingConfig = Field(
        SamplingConfig(num_images_per_prompt=2, guidance_scale=3.0), description="sampling, for each training caption"
    )
    generate_chunk_rows: int = Field(64, ge=1, description="prompts per chunk of the generate job")
    replication: ReplicationConfig = Field(ReplicationConfig(), description="how generations are compared")
    engine: EngineConfig = Field(EngineConfig(), description="row stages on the cluster")
    train_engine: TrainEngineConfig = Field(TrainEngineConfig(), description="each training on the cluster")
    full_command: str = Field(
        "raysys pipeline --config full", description="what the report names as the published recipe"
    )


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Run every step that is not finished, then write report.html and summary.json. Returns the summary."""
    refuse_limit("pipeline", options)
    refuse_lost_path(config.run)
    if options.dry_run:
        return _dry_run(config, options)
    from raysys.engine.cluster import cluster

    log = _Log(config)
    with cluster(options.address):
        for name, step in _steps(config, options):
            log.step(name, step)
    return report.run(report.JobConfig(run=config.run), options)


def _steps(config: JobConfig, options: RunOptions) -> list[tuple[str, Callable[[], Any]]]:
    """(name, action) of every step before the report, in order."""
    steps: list[tuple[str, Callable[[], Any]]] = []
    if config.shards is None:
        steps.append(("scenes", lambda: scenes.run(_scenes(config), options)))
    steps += [
        ("ingest", lambda: _ingest(config, options)),
        ("dedup", lambda: dedup.run(_dedup(config), options)),
    ]
    if config.captions is not None:
        if config.captions.captioners:
            steps.append(("caption", lambda: caption.run(_caption(config), options)))
        steps.append(("generalize", lambda: generalize.run(_generalize(config), options)))
    steps += [
        ("encode", lambda: _encode(config, options)),
        ("assemble", lambda: [assemble.run(c, options) for c in _assembles(config)]),
        ("train", lambda: train_diffusion.run_all(_trainings(config), options)),
        ("generate", lambda: _at_once(generate, _generates(config), options)),
        ("replicate", lambda: [replicate.run(c, options) for c in _replications(config)]),
    ]
    return steps


def _at_once(job: JobModule, configs: Sequence[Config], options: RunOptions) -> list[dict[str, Any]]:
    """The same job on several inputs at the same time: loading a model takes longer than the demo's few rows."""
    from raysys.engine.together import together

    return together([partial(job.run, config, options) for config in configs])


def _encode(config: JobConfig, options: RunOptions) -> None:
    """Train and fusion set at once; then the generalized captions, when there are any."""
    *pictures, last = _encodes(config)
    together, after = (pictures, [last]) if config.captions is not None else ([*pictures, last], [])
    _at_once(encode, together, options)
    for job in after:
        encode.run(job, options)


def _dry_run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """The dry run of every step whose input exists already; the others only by name."""
    print(f"pipeline would write {config.run} by these steps (nothing was written):")
    for name, step in _steps(config, options):
        print(f"── {name}")
        try:
            step()
        except InputError as exc:
            print(f"  waits for the steps before it: {exc.what}")
    return {}


def _ingest(config: JobConfig, options: RunOptions) -> None:
    """Ingest every split; stop here, with the reasons, when nothing of one may be used."""
    for split, job in zip(SPLITS, _ingests(config), strict=True):
        rows = ingest.run(job, options).get("rows")
        if rows is not None and rows["kept"] == 0:
            raise InputError(
                f"no sample of {job.input} was kept as {split}: rejected {rows['rejected']}, error {rows['error']}",
                "look at the table's rows; for images that were cleared elsewhere: ingest.check_licences=false",
            )


class _Log:
    """Says which step runs, and keeps the seconds of each step over all runs in <run>/pipeline.json."""

    def __init__(self, config: JobConfig) -> None:
        self._store = Store(config.run)
        self._record = self._store.read_json("pipeline.json") or {"seconds": {}}
        self._record |= {"seed": config.seed, "config": config.model_dump(mode="json"), "command": _command()}
        self._store.write("config.yaml", dump(config).encode())

    def step(self, name: str, action: Callable[[], Any]) -> None:
        print(f"\n── {name}", file=sys.stderr, flush=True)
        began = time.monotonic()
        try:
            action()
        finally:
            seconds = self._record["seconds"]
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - began, 2)
            self._store.write_json("pipeline.json", self._record)


def _command() -> str:
    return " ".join(["raysys", *sys.argv[1:]])


# --- the configuration of every step: wiring, no math ---


def _scenes(config: JobConfig) -> scenes.JobConfig:
    return scenes.JobConfig(output=Layout(config.run)("shards"), scenes=config.scenes)


def _ingests(config: JobConfig) -> list[ingest.JobConfig]:
    at = Layout(config.run)
    source = {s: at.shards(s) if config.shards is None else getattr(config.shards, s) for s in SPLITS}
    rules = dict.fromkeys(SPLITS, config.ingest) | {"fusion": config.fusion_ingest or config.ingest}
    return [
        ingest.JobConfig(input=source[s], output=at.samples(s), ingest=rules[s], engine=config.engine) for s in SPLITS
    ]


def _dedup(config: JobConfig) -> dedup.JobConfig:
    at = Layout(config.run)
    return dedup.JobConfig(
        samples=at.samples("train"),
        descriptors=at.descriptors,
        output=at.duplicates,
        descriptor=config.descriptor,
        decode=config.ingest.decode,
        duplicates=config.duplicates,
        engine=config.engine,
    )


def _encodes(config: JobConfig) -> list[encode.JobConfig]:
    """Pictures and original captions; of the generalized captions only their text states."""
    at = Layout(config.run)
    rules = {"train": config.ingest, "fusion": config.fusion_ingest or config.ingest}
    shared = {"text": config.text, "engine": config.engine}
    jobs = [
        encode.JobConfig(
            samples=at.samples(split),
            duplicates=at.duplicates if split == "train" else None,
            latents=at.latents(split),
            text_states=at.text_states(split),
            images=config.images.model_copy(update={"limits": config.images.limits.admitting(rule.decode)}),
            **shared,
        )
        for split, rule in rules.items()
    ]
    if config.captions is not None:
        which = f"{config.captions.generalized_from}/{config.captions.level}"
        source = CaptionSource(table=at.generalized, which=which)
        states = at.text_states(GENERALIZED)
        jobs.append(encode.JobConfig(samples=at.samples("train"), text_states=states, captions=source, **shared))
    return jobs


def _caption(config: JobConfig) -> caption.JobConfig:
    at, captions = Layout(config.run), _captions(config)
    return caption.JobConfig(
        samples=at.samples("train"),
        duplicates=at.duplicates,
        output=at.captions,
        captioners=captions.captioners,
        min_captions=captions.min_captions,
        seed=config.seed,
        limits=DecodeConfig().admitting(config.ingest.decode),
        engine=config.engine,
    )


def _generalize(config: JobConfig) -> generalize.JobConfig:
    """Of synthetic captions where there are any, else of the original ones."""
    at, captions = Layout(config.run), _captions(config)
    synthetic = bool(captions.captioners)
    return generalize.JobConfig(
        captions=at.captions if synthetic else at.samples("train"),
        duplicates=None if synthetic else at.duplicates,
        which=captions.generalized_from,
        output=at.generalized,
        generalize=captions.generalize,
        engine=config.engine,
    )


def _captions(config: JobConfig) -> CaptionsConfig:
    assert config.captions is not None, "the step runs only with captions"
    return config.captions


def _assembles(config: JobConfig) -> list[assemble.JobConfig]:
    """Where the models learn different captions, their sets hold the same images: those with a caption for each."""
    at = Layout(config.run)
    sets = {"train": "train", "fusion": "fusion"} | ({GENERALIZED: "train"} if config.captions is not None else {})
    other = {"train": GENERALIZED, GENERALIZED: "train"} if config.captions is not None else {}
    return [
        assemble.JobConfig(
            samples=at.samples(split),
            duplicates=at.duplicates if split == "train" else None,
            latents=at.latents(split),
            text_states=at.text_states(name),
            required_text_states=at.text_states(other[name]) if name in other else None,
            output=at.assembled(name),
            keep_duplicates=config.keep_duplicates and split == "train",
            seed=config.seed,
        )
        for name, split in sets.items()
    ]


def _training_sets(config: JobConfig) -> dict[str, str]:
    """Model → the set it is trained on; its captions are also its prompts."""
    at = Layout(config.run)
    mitigated = "train" if config.captions is None else GENERALIZED
    return {"baseline": at.assembled("train"), "mitigated": at.assembled(mitigated)}


def _trainings(config: JobConfig) -> list[train_diffusion.JobConfig]:
    at = Layout(config.run)
    fusion = {
        "baseline": FusionConfig(level="none"),
        "mitigated": FusionConfig(
            level=config.fusion_level, w_lat=config.w_lat, w_emb=config.w_emb, set=at.assembled("fusion")
        ),
    }
    return [
        train_diffusion.JobConfig(
            training_set=_training_sets(config)[name],
            output=at.model(name),
            vae=config.images.vae,
            text_encoder=config.text.text_encoder,
            training=config.training.model_copy(update={"seed": config.seed, "fusion": fusion[name]}),
            engine=config.train_engine,
        )
        for name in MODELS
    ]


def _generates(config: JobConfig) -> list[generate.JobConfig]:
    at = Layout(config.run)
    return [
        generate.JobConfig(
            prompts=_training_sets(config)[name],
            output=at.generations(name),
            generate=GenerateConfig(
                model=at.model(name) + "/pipeline",
                seed=config.seed,
                **config.generate.model_dump(),
            ),
            chunk_rows=config.generate_chunk_rows,
            engine=config.engine,
        )
        for name in MODELS
    ]


def _replications(config: JobConfig) -> list[replicate.JobConfig]:
    """Both models against what they were trained on, with held-out images beside; then chance: the baseline's
    generations against the held-out images in the place of the training ones."""
    at = Layout(config.run)
    limits = config.replication.decode.admitting(config.ingest.decode)
    shared = {"replication": config.replication.model_copy(update={"descriptor": config.descriptor, "decode": limits})}
    against_training = [
        replicate.JobConfig(
            generated=at.generations(name),
            training=at.samples("train"),
            training_set=_training_sets(config)[name],
            held_out=at.samples("held_out"),
            output=at.replication(name),
            **shared,
        )
        for name in MODELS
    ]
    chance = replicate.JobConfig(
        generated=at.generations("baseline"),
        training=at.samples("held_out"),
        output=at.replication("held_out"),
        **shared,
    )
    return [*against_training, chance]
