"""The HTML reports: one self-contained file each, readable without scripts, network or the run folder.

Everything that comes from data (captions, file names, licenses) is untrusted: templates escape it, and the page's
Content-Security-Policy forbids all loads and all scripts except its own.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from raysys.replication import ReplicationResult
from raysys.report import text
from raysys.report.data import StudyReport
from raysys.report.headline import Headline
from raysys.report.plots import series_of
from raysys.report.recipe import captions_in_words
from raysys.report.sections import section
from raysys.report.sections.replication import replication_headline, view_of_one

NOTHING = Headline("No model has a result yet.", "no results", "")


def study_report(data: StudyReport, out: Path) -> Path:
    """Write the report of a study to `out`; return `out`."""
    evaluations = [
        {
            "name": name,
            "headline": section(name).headline(found),
            "view": section(name).view(found),
            "limits": section(name).limits(found),
            "absent": {m: why for m, why in data.missing.items() if m not in section(name).measured(found)},
        }
        for name, found in data.evaluations.items()
    ]
    parts = [{"name": name, "view": section(name).view(found)} for name, found in data.parts.items()]
    return write_page(
        "study.html.j2",
        out,
        data=data,
        headline=evaluations[0]["headline"] if evaluations else NOTHING,
        evaluations=evaluations,
        parts=parts,
        series_of={name: series_of(i) for i, name in enumerate(data.models)},
    )


def replication_report(
    result: ReplicationResult,
    generated_bytes: Callable[[str], bytes],
    training_bytes: Callable[[str], bytes],
    out: Path,
    *,
    command: str = "",
    versions: Mapping[str, str] | None = None,
) -> Path:
    """Write the report of one measurement (`raysys replication GENERATED TRAINING --report out`); return `out`."""
    return write_page(
        "replication.html.j2",
        out,
        title="Replication report",
        command=command,
        versions=versions or {},
        result=result,
        headline=replication_headline(result),
        view=view_of_one(result, generated_bytes, training_bytes),
    )


def write_page(template: str, out: Path, **values: Any) -> Path:
    """Render a template that extends base.html.j2, and write it to `out`; return `out`."""
    return _write(_environment().get_template(template).render(**values, **_assets()), out)


def _environment() -> Environment:
    env = Environment(
        loader=ChoiceLoader([PackageLoader("raysys.report"), PackageLoader("raysys.report", "sections")]),
        autoescape=True,  # Jinja's select_autoescape would go by the file name and skip `.j2`
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
        "change",
        "sorted_reasons",
        "shorten",
    ):
        env.filters[name] = getattr(text, name)
    env.filters["captions_in_words"] = captions_in_words
    return env


def _assets() -> dict[str, Any]:
    """The page's style and script, and the script's hash, which the Content-Security-Policy allows."""
    folder = resources.files("raysys.report") / "templates"
    style = (folder / "page.css").read_text(encoding="utf-8")
    script = (folder / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"style": Markup(style), "script": Markup(script), "script_hash": f"sha256-{digest}"}


def _write(html: str, out: Path) -> Path:
    """Replace `out` atomically, so that a reload or a full disk never yields an incomplete page."""
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f"_{out.name}.{os.getpid()}")
    try:
        temporary.write_text(html, encoding="utf-8")
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    return out
