"""`raysys dedup`: the job, and what it found as a page of images and as a list of pairs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raysys.cli.csv_files import refuse_folder, write_csv
from raysys.cli.job import JobCommand
from raysys.jobs.registry import JobInfo

if TYPE_CHECKING:
    from raysys.jobs.dedup import JobConfig


class DedupCommand(JobCommand):
    """The job's command, with --report and --csv. Both also work for a table that is finished."""

    def __init__(self, job: JobInfo) -> None:
        super().__init__(job)
        self.params += [
            click.Option(["--report"], metavar="FILE", help="Write an HTML page that shows the clusters as images."),
            click.Option(
                ["--csv", "csv_path"],
                metavar="FILE",
                help='Write every duplicate with its representative and similarity; "-" = standard output.',
            ),
        ]

    def _invoke(self, *, report: str | None = None, csv_path: str | None = None, **flags: Any) -> None:
        refuse_folder("--report", report)
        refuse_folder("--csv", csv_path)
        done = super()._invoke(**flags)
        if done is None or "duplicates" not in done[1].steps or flags["dry_run"]:
            return
        from raysys.rows import DUPLICATES
        from raysys.shards.duplicates_summary import PAIR_COLUMNS, pairs
        from raysys.tables import open_table

        found = open_table(done[0].output, DUPLICATES)
        if csv_path is not None:
            write_csv(csv_path, PAIR_COLUMNS, pairs(found))
        if report is not None:
            _write_report(done[0], Path(report))
            click.echo(f"wrote {report}", err=True)


def _write_report(config: JobConfig, out: Path) -> None:
    from raysys.report import duplicates_report
    from raysys.report.collect import versions
    from raysys.rows import DUPLICATES, SAMPLES
    from raysys.shards.duplicates_summary import sources_of, summarize
    from raysys.shards.images import image_reader
    from raysys.similarity import descriptor_facts
    from raysys.tables import open_table

    found = summarize(open_table(config.output, DUPLICATES))
    shown = {c.representative for c in found.largest} | {m.row_id for c in found.largest for m in c.members}
    shown |= {row_id for pair in found.closest_to_threshold for row_id in (pair.row_id, pair.representative)}
    sources = sources_of(open_table(config.samples, SAMPLES), sorted(shown))
    settings = config.duplicates.of_descriptor(descriptor_facts(config.descriptor))
    duplicates_report(
        found,
        lambda row_id: image_reader().read(sources[row_id]),
        out,
        place=config.output,
        threshold=settings.threshold if settings.near else None,
        command=" ".join(["raysys", *sys.argv[1:]]),
        versions=versions(),
    )
