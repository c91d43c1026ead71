"""Run row jobs: plan, dry run, map, retry, record. All row jobs use this module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict

from raysys import __version__
from raysys.config import Config, dump
from raysys.engine.drive import MapResult
from raysys.errors import InputError
from raysys.jobs.options import INLINE, RunOptions
from raysys.jobs.outputs import refuse_lost_path
from raysys.tables import Output, Store, open_output
from raysys.tables.job import TableJob, TableRun, errors_of
from raysys.tables.plan import reopen_output
from raysys.tables.results import Plan, Summary, TablePlan, TableSummary


def run_table(job: TableJob, config: Config, options: RunOptions) -> Plan | Summary:
    """Process the pending chunks of `job`, or its error rows if `options.retry` is set."""
    return run_tables({job.job: job}, config, options)


def run_tables(jobs: Mapping[str, TableJob], config: Config, options: RunOptions) -> Plan | Summary:
    """The same for several tables of one command, one after the other in one Ray session: starting Ray takes seconds.

    A retry concerns one output; the result does not contain the other steps.
    """
    opened = {name: (job, output) for name, job in jobs.items() if (output := _open(job, options)) is not None}
    runs = {
        name: TableRun(job, output, errors_of(output) if options.retry else None, options.limit)
        for name, (job, output) in opened.items()
    }
    if options.dry_run:
        return Plan({name: TablePlan.of(r, r.job.cluster.workers(r.job.stage.heavy)) for name, r in runs.items()})
    if not any(run.has_work for run in runs.values()):
        return Summary({name: _idle(run) for name, run in runs.items()})
    with _engine(options.address, list(runs.values())) as engine:
        return Summary({name: _map(run, engine, config, options) for name, run in runs.items()})


Engine = Callable[[TableRun], MapResult]


@contextmanager
def _engine(address: str | None, runs: Sequence[TableRun]) -> Iterator[Engine]:
    """The function that maps a stage over chunks. Ray is imported and started only if it is used."""
    from raysys.engine.inline import is_small, run_inline

    if address == INLINE or (address is None and is_small(runs)):
        yield run_inline
        return
    from raysys.engine.cluster import cluster

    with cluster(address):
        from raysys.engine.map import run_map

        yield run_map


def _open(job: TableJob, options: RunOptions) -> Output | None:
    """Open the output of `job`. Returns None if the retry concerns another output of this command."""
    refuse_lost_path(job.output, options)
    if not sum(p.n_items for p in job.parts) and not options.retry:
        raise InputError(f"{job.job} has no input rows", "check the input path, or run the job that writes it first")
    fields = {"raysys": __version__.rsplit(".", 1)[0], **job.fields}
    retried = options.retried()
    if retried is None:
        output = open_output(
            job.output, job.row_type, job.label, fields, job.parts, job.chunk_rows, options.on_change, options.dry_run
        )
        if not (options.dry_run or output.is_kept):
            for name in job.files:
                if not output.table.exists(name):
                    output.table.write(name, job.files[name])
        return output
    table, producer, digest = retried
    if (Store(job.output).url, job.label) != (table, producer):
        return None
    return reopen_output(job.output, producer, digest, fields, job.parts)


def _map(run: TableRun, engine: Engine, config: Config, options: RunOptions) -> TableSummary:
    """Write the pending chunks of one table, and record its configuration and statistics."""
    if not run.has_work:
        return _idle(run)
    folder = run.output.folder
    if not options.retry:
        folder.write_json("_run/job.json", {"job": run.job.job, "config": config.model_dump(mode="json")})
        folder.write("_run/config.yaml", dump(config).encode())
    result = engine(run)
    folder.write("_run/stats.txt", result.stats.encode())
    summary = TableSummary.of(run.job.job, run.output, result.seconds, **result.meters.totals())
    folder.write_json("_run/summary.json", asdict(summary))
    return summary


def _idle(run: TableRun) -> TableSummary:
    return TableSummary.of(run.job.job, run.output, state="kept" if run.output.is_kept else "nothing to do")
