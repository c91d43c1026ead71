"""Job `report`: the run folder of a study → report.html, summary.json and tables in the terminal."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from raysys.config import Config
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import refuse_limit
from raysys.report import print_study, study_report
from raysys.report.collect import collect, summary_of
from raysys.report.folder import RunFolder
from raysys.tables.results import FolderPlan, FolderSummary, Plan, Summary

PAGE = "report.html"


class JobConfig(Config):
    """Write the report of a study."""

    run: str = Field(description="run folder of `raysys study`")


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write `<run>/report.html` and `<run>/summary.json`, and print the result tables. The summary holds the values of
    summary.json."""
    refuse_limit("report", options)
    run = RunFolder.open(config.run)
    if options.dry_run:
        state = "replaces another one" if run.store.exists(PAGE) else "new"
        return Plan({"report": FolderPlan("report", run.path(PAGE), state, True)})
    data = collect(run)
    summary = summary_of(run, data)
    run.store.write_json("summary.json", summary)
    out = study_report(data, Path(run.path(PAGE)))
    print_study(data)
    return Summary({"report": FolderSummary("report", str(out), summary)})
