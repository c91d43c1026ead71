"""Job `report`: what a study left on disk → report.html, summary.json and a table in the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from raysys.config import Config
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import refuse_limit
from raysys.report import print_study, study_report
from raysys.report.collect import collect, summary_of
from raysys.report.folder import RunFolder


class JobConfig(Config):
    """Write the report of a study."""

    run: str = Field("runs/demo", description="run folder of `raysys study`")


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write `<run>/report.html` and `<run>/summary.json`; print the closing table. Returns the summary."""
    refuse_limit("report", options)
    run = RunFolder.open(config.run)
    if options.dry_run:
        print(f"report would write {config.run}/report.html and summary.json (nothing was written)")
        return {}
    data = collect(run)
    summary = summary_of(run, data)
    run.store.write_json("summary.json", summary)
    out = study_report(data, Path(run.path("report.html")))
    print_study(data, report=str(out))
    return summary
