"""A run folder → the contents of its report, and the numbers of `summary.json`."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

from raysys import __version__
from raysys.report.data import StudyReport
from raysys.report.folder import RunFolder
from raysys.report.sections import PARTS, section

PACKAGES = ("ray", "torch", "diffusers", "transformers", "faiss-cpu", "faiss-gpu", "numpy", "pyarrow", "pillow")

STAND_INS = (
    "The images are drawn scenes of 64 × 64 pixels, not photographs.",
    "The VAE, the text encoder and the U-Net are small models of the real architectures, trained on scenes.",
    "Similarity is measured by the embedded descriptor, not by SSCD: published values of R are not comparable.",
)
CAPTION_STAND_IN = "The captioner and the rewriter are small models too, trained on captions of drawn scenes."


def collect(run: RunFolder) -> StudyReport:
    """Everything that the report shows. Models and sections without a result are listed as missing."""
    record = run.record
    parts = _collected(run, PARTS)
    return StudyReport(
        title=record["title"],
        seed=record["seed"],
        command=record["command"],
        versions=versions(),
        seconds=record["seconds"],
        models=run.models,
        missing={name: why for name in run.models if (why := run.why_missing(name)) is not None},
        evaluations=_collected(run, record["evaluations"]),
        parts=parts,
        stand_ins=_stand_ins(record["drawn"], parts.get("captions")),
        full_command=record["full_command"],
    )


def _collected(run: RunFolder, names: Any) -> dict[str, Any]:
    found = {name: section(name).collect(run) for name in names}
    return {name: data for name, data in found.items() if data is not None}


def summary_of(run: RunFolder, data: StudyReport) -> dict[str, Any]:
    """summary.json: {data, models: {name: {recipe, evaluations, seconds}}, references, seconds, seed, versions}."""
    measured = {name: section(name).summary(found) for name, found in data.evaluations.items()}
    models: dict[str, Any] = {}
    for name in data.models:
        evaluations = {e: figures["models"][name] for e, figures in measured.items() if name in figures["models"]}
        models[name] = {"recipe": run.record["models"][name]["recipe"], "evaluations": evaluations}
        models[name]["seconds"] = _seconds(run, name)
        if name in data.missing:
            models[name]["missing"] = data.missing[name]
    facts: dict[str, Any] = {}
    for name, found in data.parts.items():
        facts |= section(name).summary(found)
    return {
        "data": facts,
        "models": models,
        "references": {name: figures["references"] for name, figures in measured.items()},
        "seconds": {**data.seconds, "total": round(data.total_seconds, 2)},
        "seed": data.seed,
        "versions": dict(data.versions),
    }


def _seconds(run: RunFolder, model: str) -> dict[str, float]:
    """{step: seconds} of one model's steps."""
    steps = run.record["steps"].items()
    return {name: step["seconds"] for name, step in steps if step["model"] == model and "seconds" in step}


def _stand_ins(drawn: bool, captions: Any) -> tuple[str, ...]:
    writers = (*captions.captioners, *captions.levels) if captions is not None else ()
    small = any((writer.model or "").startswith("zoo:") for writer in writers)
    return (STAND_INS if drawn else ()) + ((CAPTION_STAND_IN,) if small else ())


def versions() -> dict[str, str]:
    """Versions of Python, raysys and the packages that influence the numbers."""
    found = {"python": platform.python_version(), "raysys": __version__}
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return found | {name: installed[name] for name in PACKAGES if name in installed}
