"""Job `report`: what a pipeline run left on disk → report.html, summary.json and a table in the terminal."""

from __future__ import annotations

import importlib.metadata
import platform
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import Field

from raysys import __version__
from raysys.config import Config
from raysys.errors import InputError
from raysys.jobs.layout import GENERALIZED, MODELS, SPLITS, Layout
from raysys.jobs.options import RunOptions
from raysys.jobs.report_captions import captions_of, summary_of_captions
from raysys.jobs.run_table import refuse_limit
from raysys.outcomes import KEPT, Counts
from raysys.replication import ReplicationResult
from raysys.replication.inputs import open_images
from raysys.replication.saved import load_result
from raysys.report import CaptionsReport, DuplicateCluster, ModelReplication, PipelineReport, TableOutcome, demo_report
from raysys.report.terminal import print_pipeline
from raysys.report.text import plain
from raysys.rows import DUPLICATES, SAMPLES
from raysys.tables import Store, open_table
from raysys.tables.plan import TABLE

PACKAGES = ("ray", "torch", "diffusers", "transformers", "faiss-cpu", "faiss-gpu", "numpy", "pyarrow", "pillow")

STAND_INS = (
    "The pictures are drawn scenes of 64 × 64 pixels, not photographs.",
    "The VAE, the text encoder and the U-Net are small models of the real architectures, trained on scenes.",
    "Similarity is measured by the embedded descriptor, not by SSCD: published values of R are not comparable.",
)
CAPTION_STAND_IN = "The captioner and the rewriter are small models too, trained on captions of drawn scenes."


class JobConfig(Config):
    """Write the report of a pipeline run."""

    run: str = Field("runs/demo", description="run folder of `raysys pipeline`")


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write `<run>/report.html` and `<run>/summary.json`; print the closing table. Returns the summary."""
    refuse_limit("report", options)
    record = Store(config.run).read_json("pipeline.json")
    if record is None:
        raise InputError(f"{config.run} is no run folder of `raysys pipeline`", "run the pipeline first")
    if options.dry_run:
        print(f"report would write {config.run}/report.html and summary.json (nothing was written)")
        return {}
    at = Layout(config.run)
    results = {name: load_result(at.replication(name)) for name in (*MODELS, "held_out")}
    tables = _tables(at)
    captions = captions_of(at, _trained_level(record), open_images(at.samples("train")))
    summary = _summary(record, tables, results)
    if captions is not None:
        summary["captions"] = summary_of_captions(captions)
    Store(config.run).write_json("summary.json", summary)
    out = Path(Store(config.run).path("report.html"))
    page = _page(at, record, summary, tables, results, captions)
    demo_report(page, out)
    print_pipeline(page, report=str(out))
    return summary


def _summary(
    record: dict[str, Any], tables: list[TableOutcome], results: dict[str, ReplicationResult]
) -> dict[str, Any]:
    return {
        "rows": _pipeline_counts(tables).as_dict(),
        "tables": {t.name: t.counts.as_dict() for t in tables},
        "replication": {name: _figures(result) for name, result in results.items()},
        "seconds": record["seconds"] | {"total": round(sum(record["seconds"].values()), 2)},
        "seed": record["seed"],
        "versions": versions(),
    }


def _figures(result: ReplicationResult) -> dict[str, Any]:
    names = ("R", "R_ci", "R_ci_reason", "mean", "percentiles", "n_generated", "n_training", "descriptor", "preset")
    data = result.to_dict()
    return {name: data[name] for name in names} | {"R_background_percentile": data["R_background_percentile"]}


def _pipeline_counts(tables: list[TableOutcome]) -> Counts:
    """Fate of every training input row: ingest's, with the duplicates that dedup rejected afterwards."""
    ingest = next(t.counts for t in tables if t.name == "samples/train")
    dedup = next(t.counts for t in tables if t.name == "duplicates")
    return Counts(dedup.kept, ingest.rejected + dedup.rejected, ingest.error + dedup.error)


def _tables(at: Layout) -> list[TableOutcome]:
    """Every table of the run in the order of the data; those of captions only where the run made some."""
    places = {
        **{f"samples/{s}": at.samples(s) for s in SPLITS},
        "descriptors": at.descriptors,
        "duplicates": at.duplicates,
        "captions": at.captions,
        "generalized": at.generalized,
        **{f"latents/{s}": at.latents(s) for s in ("train", "fusion")},
        **{f"text_states/{s}": at.text_states(s) for s in ("train", GENERALIZED, "fusion")},
        **{f"generations/{m}": at.generations(m) for m in MODELS},
    }
    optional = {"captions", "generalized", f"text_states/{GENERALIZED}"}
    there = [name for name, path in places.items() if name not in optional or Store(path).exists(TABLE)]
    return [_table(name, places[name]) for name in there]


def _table(name: str, path: str) -> TableOutcome:
    view = open_table(path)
    seconds = [o.folder.read_json("_run/summary.json") for o in view.outputs]
    licences: Counter[str] = Counter()
    if view.row_type.name == SAMPLES.name:
        for table in view.rows(["licence"], outcome=None):
            licences.update(x or "unknown" for x in table["licence"].to_pylist())
    return TableOutcome(name, view.counts(), sum(s["seconds"] for s in seconds if s) or None, dict(licences))


def _page(
    at: Layout,
    record: dict[str, Any],
    summary: dict[str, Any],
    tables: list[TableOutcome],
    results: dict[str, ReplicationResult],
    captions: CaptionsReport | None,
) -> PipelineReport:
    from raysys.engine.train import read_metrics

    config = record["config"]
    recipes = _recipes(config, _trained_level(record))
    models = {
        name: ModelReplication(name, results[name], open_images(at.generations(name)).bytes_of, recipes[name])
        for name in MODELS
    }
    return PipelineReport(
        title="raysys demo" if config["shards"] is None else "raysys pipeline",
        seed=record["seed"],
        command=record["command"],
        versions=summary["versions"],
        seconds=summary["seconds"],
        tables=tables,
        losses={name: read_metrics(Store(at.model(name))) for name in MODELS},
        **models,
        held_out=results["held_out"],
        training_image=open_images(at.samples("train")).bytes_of,
        stand_ins=_stand_ins(config, captions),
        full_command=config["full_command"],
        duplicates=_clusters(at),
        captions=captions,
    )


def _trained_level(record: dict[str, Any]) -> str | None:
    """Level of the captions of the mitigated model; None = the original ones, as in runs before there were others."""
    captions = record["config"].get("captions")
    return captions["level"] if captions is not None else None


def _recipes(config: dict[str, Any], level: str | None) -> dict[str, str]:
    """How each model was trained, in words."""
    fusion = f"dual fusion at {config['fusion_level']} level, w_lat {config['w_lat']:g}, w_emb {config['w_emb']:g}"
    if level is None:
        return {"baseline": "plain fine-tuning, no fusion", "mitigated": fusion}
    return {
        "baseline": "plain fine-tuning on the original captions, no fusion; prompted with the original captions",
        "mitigated": f"{fusion}, on generalized captions (level {plain(level)}); prompted with these captions",
    }


def _stand_ins(config: dict[str, Any], captions: CaptionsReport | None) -> tuple[str, ...]:
    writers = (*captions.captioners, *captions.levels) if captions is not None else ()
    small = any((w.model or "").startswith("zoo:") for w in writers)
    return (STAND_INS if config["shards"] is None else ()) + ((CAPTION_STAND_IN,) if small else ())


def _clusters(at: Layout) -> list[DuplicateCluster]:
    """Clusters of two and more, the representative first."""
    members: dict[str, list[dict[str, Any]]] = {}
    columns = ["row_id", "cluster_id", "cluster_size", "kind", "licence", "outcome"]
    for table in open_table(at.duplicates, DUPLICATES).rows(columns, outcome=None):
        for row in table.to_pylist():
            if (row["cluster_size"] or 1) > 1:
                members.setdefault(row["cluster_id"], []).append(row)
    clusters = []
    for rows in members.values():
        rows.sort(key=lambda r: r["outcome"] != KEPT)
        kind = "near" if any(r["kind"] == "near" for r in rows) else "exact"
        ids = [r["row_id"] for r in rows]
        clusters.append(DuplicateCluster(ids, rows[0]["cluster_size"], kind, rows[0]["licence"]))
    return clusters


def versions() -> dict[str, str]:
    """What ran: Python, raysys and the packages that decide the numbers."""
    found = {"python": platform.python_version(), "raysys": __version__}
    installed = {d.metadata["Name"].lower(): d.version for d in importlib.metadata.distributions()}
    return found | {name: installed[name] for name in PACKAGES if name in installed}
