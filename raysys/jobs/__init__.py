"""The jobs: one per arrow of the data flow, each a module with `JobConfig` and `run(config, options)`.

`JOBS` is the one list that the command line and the tests read. It imports no job: a help text must not load torch.

A new job is three things: its module in this folder, its line in `JOBS`, and configs/<job>/{demo,full}.yaml.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from raysys.errors import InputError

if TYPE_CHECKING:
    from raysys.config import Config
    from raysys.jobs.options import RunOptions
    from raysys.tables.results import Plan, Summary

CONFIGS = Path(__file__).parent / "configs"
"""The packaged configurations: <job>/demo.yaml and <job>/full.yaml."""


class JobModule(Protocol):
    """What a job module holds."""

    JobConfig: type[Config]

    def run(self, config: Config, options: RunOptions) -> Plan | Summary: ...


@dataclass(frozen=True)
class JobInfo:
    """A job's name on the command line, its module, one line of help and one example command."""

    name: str
    module: str
    help: str
    example: str
    has_only: bool = False
    """Whether `--only NAME` chooses models."""

    def load(self) -> JobModule:
        """Import the module. Heavy libraries come in here, not at `raysys --help`."""
        return importlib.import_module(self.module)

    def packaged_config(self, name: str) -> Path:
        """The packaged `demo` or `full` configuration; InputError when this job has none of that name."""
        path = CONFIGS / self.name / f"{name}.yaml"
        if not path.is_file():
            have = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml"))) or "none"
            raise InputError(
                f"{self.name} has no packaged config {name!r} (it has: {have})", "give a YAML file with --config"
            )
        return path


JOBS: dict[str, JobInfo] = {}


def register(job: JobInfo) -> None:
    """Add a job to `JOBS`; ValueError when the name is taken."""
    if job.name in JOBS:
        raise ValueError(f"job {job.name!r} is already registered by {JOBS[job.name].module}")
    JOBS[job.name] = job


for _job in (
    JobInfo(
        "study",
        "raysys.jobs.study",
        "Everything in order: shards to named models, measured and compared in one report.",
        "raysys study --config demo",
        has_only=True,
    ),
    JobInfo(
        "scenes",
        "raysys.jobs.scenes",
        "Draw the embedded image domain: seeded scenes with captions, as WebDataset tars.",
        "raysys scenes --config demo output=runs/scenes",
    ),
    JobInfo(
        "ingest",
        "raysys.jobs.ingest",
        "Read tars, Parquet or a folder; check every image, caption and license; one row per sample.",
        "raysys ingest --config ingest.yaml --limit 10000",
    ),
    JobInfo(
        "describe",
        "raysys.jobs.describe",
        "Make the features of images with a descriptor, for dedup, replicate and audits.",
        "raysys describe --config describe.yaml",
    ),
    JobInfo(
        "dedup",
        "raysys.jobs.dedup",
        "Find exact and near duplicates; clusters with one representative each.",
        "raysys dedup --config dedup.yaml",
    ),
    JobInfo(
        "caption",
        "raysys.jobs.caption",
        "Caption images with one or several vision-language models; every caption is checked.",
        "raysys caption --config caption.yaml --limit 1000",
    ),
    JobInfo(
        "translate",
        "raysys.jobs.translate",
        "Translate captions with a language model, English to Japanese or any other pair.",
        "raysys translate --config translate.yaml",
    ),
    JobInfo(
        "generalize",
        "raysys.jobs.generalize",
        "Make captions more general; reports their generality score before and after.",
        "raysys generalize --config generalize.yaml",
    ),
    JobInfo(
        "export",
        "raysys.jobs.export",
        "Write the captioned set as WebDataset tars or as a folder for Hugging Face datasets.",
        "raysys export --config export.yaml",
    ),
    JobInfo(
        "encode",
        "raysys.jobs.encode",
        "Encode images to VAE latents and captions to text states, once.",
        "raysys encode --config encode.yaml --address auto",
    ),
    JobInfo(
        "assemble",
        "raysys.jobs.assemble",
        "Join latents and text states into the shuffled training set, with or without duplicates.",
        "raysys assemble --config assemble.yaml",
    ),
    JobInfo(
        "train-diffusion",
        "raysys.jobs.train_diffusion",
        "Train or fine-tune the U-Net, plain or with dual fusion; saves a diffusers pipeline.",
        "raysys train-diffusion --config train.yaml",
    ),
    JobInfo(
        "generate",
        "raysys.jobs.generate",
        "Sample images for a table of prompts, seeded per prompt.",
        "raysys generate --config generate.yaml --limit 1000",
    ),
    JobInfo(
        "replicate",
        "raysys.jobs.replicate",
        "Score generations against the training set: R, its interval and the nearest matches, as a table.",
        "raysys replicate --config replicate.yaml",
    ),
    JobInfo(
        "report",
        "raysys.jobs.report",
        "Write the HTML report and summary.json of a study.",
        "raysys report --config demo",
    ),
):
    register(_job)
