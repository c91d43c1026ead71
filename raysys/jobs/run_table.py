"""Run row jobs: plan, dry run, map, retry, record. Every row job goes through here; none has its own way."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from raysys import __version__
from raysys.config import Config, dump
from raysys.engine.drive import MapResult
from raysys.errors import InputError
from raysys.jobs.options import INLINE, RunOptions
from raysys.jobs.outputs import refuse_lost_path
from raysys.outcomes import Counts
from raysys.tables import Output, Store, TableView, open_output
from raysys.tables.job import Redo, TableJob, TableRun, first_items
from raysys.tables.plan import reopen_output
from raysys.tables.read import error_rows, parts_of
from raysys.tables.results import Plan, State, Summary, TablePlan, TableSummary


def run_table(job: TableJob, config: Config, options: RunOptions) -> Plan | Summary:
    """Do the pending chunks of `job` (or its error rows, when `options.retry`)."""
    return run_tables({job.job: job}, config, options)


def run_tables(jobs: Mapping[str, TableJob], config: Config, options: RunOptions) -> Plan | Summary:
    """The same for several tables of one command, one after the other on one Ray: starting it takes seconds.

    A retry is meant for one output; the other steps are left out of what is returned.
    """
    opened = {name: (job, output) for name, job in jobs.items() if (output := _open(job, options)) is not None}
    runs = {name: _run_of(job, output, options) for name, (job, output) in opened.items()}
    if options.dry_run:
        return Plan({name: _plan_of(run, options) for name, run in runs.items()})
    if not any(_has_work(run) for run in runs.values()):
        return Summary({name: _idle(run) for name, run in runs.items()})
    with _engine(options.address) as engine:
        return Summary({name: _map(run, engine, config, options) for name, run in runs.items()})


Engine = Callable[[TableRun], MapResult]


@contextmanager
def _engine(address: str | None) -> Iterator[Engine]:
    """What maps a stage over chunks. Ray starts, and is imported, only when there is something to do on it."""
    if address == INLINE:
        from raysys.engine.inline import run_inline

        yield run_inline
        return
    from raysys.engine.cluster import cluster

    with cluster(address):
        from raysys.engine.map import run_map

        yield run_map


def _open(job: TableJob, options: RunOptions) -> Output | None:
    """None: a retry is meant for another output of this command."""
    refuse_lost_path(job.output)
    if not sum(p.n_items for p in job.parts) and not options.retry:
        raise InputError(f"{job.job} has no input rows", "check the input path, or run the job before it")
    fields = {"raysys": __version__.rsplit(".", 1)[0], **job.fields}
    retried = options.retried()
    if retried is None:
        return open_output(
            job.output, job.row_type, job.label, fields, job.parts, job.chunk_rows, options.on_change, options.dry_run
        )
    table, producer, digest = retried
    if (Store(job.output).url, job.label) != (table, producer):
        return None
    return reopen_output(job.output, producer, digest, fields, job.parts)


def _run_of(job: TableJob, output: Output, options: RunOptions) -> TableRun:
    return TableRun(job, output, _errors(output) if options.retry else None, options.limit)


def _has_work(run: TableRun) -> bool:
    return not run.output.is_kept and bool(run.chunks())


def _idle(run: TableRun) -> TableSummary:
    return table_summary(run.job.job, run.output, state="kept" if run.output.is_kept else "nothing to do")


def _map(run: TableRun, engine: Engine, config: Config, options: RunOptions) -> TableSummary:
    """Map one table and record how it was made."""
    if not _has_work(run):
        return _idle(run)
    folder = run.output.folder
    if not options.retry:
        folder.write_json("_run/job.json", {"job": run.job.job, "config": config.model_dump(mode="json")})
        folder.write("_run/config.yaml", dump(config).encode())
    result = engine(run)
    folder.write("_run/stats.txt", result.stats.encode())
    summary = table_summary(run.job.job, run.output, result.seconds, **result.meters.totals())
    folder.write_json("_run/summary.json", Summary({run.job.label: summary}).as_dict()["steps"][run.job.label])
    return summary


def _errors(output: Output) -> dict[str, Redo]:
    """{chunk: the rows of it that still stand as errors}"""
    found = {}
    for part in parts_of(output):
        if rows := error_rows(part):
            found[part.chunk.name] = Redo(len(part.files), rows)
    return found


def _plan_of(run: TableRun, options: RunOptions) -> TablePlan:
    job, output, pool = run.job, run.output, run.job.cluster.pool
    chosen = first_items(output.chunks, options.limit)
    pending = run.chunks()
    n_items = sum(c.stop - c.start for c in pending)
    if run.only is not None:
        n_items = sum(len(run.only[c.name].rows) for c in pending)
    return TablePlan(
        job=job.label,
        output=output.folder.url,
        inputs=len(job.parts),
        items=sum(c.stop - c.start for c in chosen),
        chunks=len(chosen),
        pending_chunks=0 if output.is_kept else len(pending),
        pending_items=0 if output.is_kept else n_items,
        workers=f"{pool.min_size}–{pool.max_size} × ({pool.num_cpus:g} CPU, {pool.num_gpus:g} GPU)"
        if job.stage.heavy
        else f"one task per chunk × {pool.num_cpus:g} CPU",
        is_retry=run.only is not None,
    )


def table_summary(
    job: str,
    output: Output,
    seconds: float = 0.0,
    state: State = "done",
    meters: Mapping[str, int] | None = None,
    gpu_hours: float | None = None,
) -> TableSummary:
    """Counts after retries, progress and place of one output."""
    return TableSummary(
        job=job,
        output=output.table.url,
        producer=f"{output.producer}-{output.fingerprint}",
        chunks=len(output.chunks),
        pending_chunks=len(output.pending()),
        rows=counts_of_output(output).as_dict(),
        seconds=round(seconds, 2),
        state=state,
        meters=meters or {},
        gpu_hours=gpu_hours,
    )


def counts_of_output(output: Output) -> Counts:
    return TableView(output.table, (output,)).counts()
