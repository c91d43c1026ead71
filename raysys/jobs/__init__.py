"""The jobs, one per processing step. Each is a module with `JobConfig` and `run(config, options)`.

`JOBS` lists them for the command line and the tests. No job is imported here, so that `--help` does not load torch.

To add a job, add its module to this folder, its entry below, and configs/<job>/{demo,full}.yaml.
"""

from __future__ import annotations

from raysys.jobs.registry import JobInfo

JOBS: dict[str, JobInfo] = {}


def register(job: JobInfo) -> None:
    """Add a job to `JOBS`. Raises ValueError if the name is taken."""
    if job.name in JOBS:
        raise ValueError(f"job {job.name!r} is already registered by {JOBS[job.name].module}")
    JOBS[job.name] = job


_WITH_ONLY = {"study"}
"""Jobs that make several models, of which `--only NAME` selects some."""

for _name, (_help, _arguments) in {
    "study": (
        "Run all steps from shards to named models, and compare the models in one report.",
        "--config demo",
    ),
    "scenes": (
        "Draw seeded synthetic scenes with captions, as WebDataset tars.",
        "output=runs/scenes",
    ),
    "ingest": (
        "Read tars, Parquet or a folder; check every image, caption and license; write one row per sample.",
        "input=photos output=mine/samples ingest.require_caption=false ingest.declared_license=CC-BY-4.0",
    ),
    "describe": (
        "Compute image features with a descriptor, for dedup and replicate.",
        "images=photos output=mine/features",
    ),
    "dedup": (
        "Find exact and near duplicates, and choose one representative per cluster.",
        "samples=mine/samples output=mine/duplicates",
    ),
    "caption": (
        "Caption images with one or several vision-language models; every caption is checked.",
        "samples=mine/samples output=mine/captions captioners.0.recipe=blip2 captioners.0.llm.model=models/blip2",
    ),
    "translate": (
        "Translate captions with a language model, English to Japanese or any other pair.",
        "--config translate.yaml",
    ),
    "generalize": (
        "Make captions more general; report their generality score before and after.",
        "--config generalize.yaml",
    ),
    "export": (
        "Write the captioned set as WebDataset tars or as a folder for Hugging Face datasets.",
        "samples=mine/samples captions=mine/captions output=mine/tars",
    ),
    "encode": (
        "Encode images to VAE latents and captions to text states.",
        "--config encode.yaml --address auto",
    ),
    "assemble": (
        "Join latents and text states into the shuffled training set, with or without duplicates.",
        "--config assemble.yaml",
    ),
    "train-diffusion": (
        "Train or fine-tune the U-Net, plain or with dual fusion; save a diffusers pipeline.",
        "--config train.yaml",
    ),
    "generate": (
        "Sample images for a table of prompts, seeded per prompt.",
        "--config generate.yaml --limit 1000",
    ),
    "replicate": (
        "Score generations against the training set: R, its interval and the nearest matches, as a table.",
        "--config replicate.yaml",
    ),
    "report": (
        "Write the HTML report and summary.json of a study.",
        "run=runs/demo",
    ),
}.items():
    _module = f"{__name__}.{_name.replace('-', '_')}"
    register(JobInfo(_name, _module, _help, f"raysys {_name} {_arguments}", has_only=_name in _WITH_ONLY))
