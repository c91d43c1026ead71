"""The HTML reports: one self-contained file each, readable without scripts, network or the folder they came from.

Everything in them that came from data (captions, file names, licences) is untrusted: templates escape it, and a
content policy in the page forbids every load and every script but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raysys.replication import ReplicationResult
from raysys.report import text
from raysys.report.captions import captions_section
from raysys.report.data import PipelineReport
from raysys.report.gallery import N_OPEN, ModelMatches, duplicate_clusters, gallery
from raysys.report.headline import pipeline_headline, replication_headline
from raysys.report.plots import Distribution, distribution_plot, loss_plot

BASELINE, MITIGATED, HELD_OUT = 0, 1, 2
"""Indices of the page's series colours."""


def demo_report(data: PipelineReport, out: Path) -> Path:
    """Write the report of a whole run (data → models → R of both) to `out`; return `out`."""
    models = {"baseline": data.baseline, "mitigated": data.mitigated}
    measured = [
        (text.title_case(model.label), model.result, series)
        for series, model in zip((BASELINE, MITIGATED), models.values(), strict=True)
    ]
    if data.held_out is not None:
        measured.append(("Held-out level", data.held_out, HELD_OUT))
    entries = gallery(
        [
            ModelMatches(key, text.title_case(model.label), model.result.matches, model.image)
            for key, model in models.items()
        ],
        data.training_image,
    )
    page = _environment().get_template("demo.html.j2")
    html = page.render(
        data=data,
        headline=pipeline_headline(data),
        measured=measured,
        figures=text.compare_figures([result for _, result, _ in measured]),
        distribution=_distribution(measured),
        entries=entries,
        n_matches=len({match["generated"] for model in models.values() for match in model.result.matches}),
        clusters=duplicate_clusters(data.duplicates, data.training_image),
        captions=captions_section(data.captions, data.training_image),
        losses=loss_plot(data.losses, f"Training loss against step for {', '.join(data.losses) or 'no training'}."),
        **_assets(),
    )
    return _write(html, out)


def replication_report(
    result: ReplicationResult,
    generated_bytes: Callable[[str], bytes],
    training_bytes: Callable[[str], bytes],
    out: Path,
    *,
    title: str = "Replication report",
    command: str = "",
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write the report of one measurement (`raysys replication GENERATED TRAINING --report out`); return `out`."""
    measured: list[tuple[str, ReplicationResult, int]] = [("Generated", result, BASELINE)]
    if result.held_out is not None:
        measured.append(("Held-out images", result.held_out, HELD_OUT))
    model = ModelMatches("generated", "Generated", result.matches, generated_bytes)
    page = _environment().get_template("replication.html.j2")
    html = page.render(
        title=title,
        command=command,
        versions=versions or {},
        result=result,
        headline=replication_headline(result),
        measured=measured,
        figures=text.compare_figures([result for _, result, _ in measured]),
        distribution=_distribution(measured),
        entries=gallery([model], training_bytes),
        n_matches=len(result.matches),
        **_assets(),
    )
    return _write(html, out)


def _distribution(measured: Sequence[tuple[str, ReplicationResult, int]]) -> Markup:
    rows = [
        Distribution(label, np.asarray(result.similarities, dtype=float), result.R, result.R_ci, series)
        for label, result, series in measured
    ]
    words = "; ".join(f"{row.label}: R {text.number(row.R)}, {len(row.similarities):,} images" for row in rows)
    background = measured[0][1].background
    return distribution_plot(
        rows,
        None if background is None else background.similarities,
        f"Distribution of the similarity to the nearest image. {words}.",
    )


def _environment() -> Environment:
    env = Environment(
        loader=PackageLoader("raysys.report"),
        autoescape=True,  # for every template: Jinja's default would look at the file name and miss `.j2`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in (
        "number",
        "interval",
        "percent",
        "duration",
        "plain",
        "lang_of",
        "title_case",
        "change",
        "sorted_reasons",
        "shorten",
    ):
        env.filters[name] = getattr(text, name)
    env.globals["n_open"] = N_OPEN
    return env


def _assets() -> dict[str, Any]:
    """The page's own style and script, and the script's hash: the content policy lets only that script run."""
    folder = resources.files("raysys.report") / "templates"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": Markup(style), "script": Markup(script), "script_hash": f"sha256-{digest}"}


def _write(html: str, out: Path) -> Path:
    """Replace `out` in one step: a browser that reloads, or a full disk, never leaves half a page."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"_{out.name}.{os.getpid()}")
    try:
        temporary.write_text(html, encoding="utf-8")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return out
