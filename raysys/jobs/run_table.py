"""Run one table job: plan, dry run, map, retry, record. Every row job goes through here; none has its own way."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from raysys import __version__
from raysys.config import Config, dump
from raysys.engine.config import EngineConfig
from raysys.engine.map_job import MapJob, Redo, StageSpec, first_items
from raysys.errors import InputError
from raysys.jobs.options import RunOptions
from raysys.outcomes import Counts
from raysys.rows import RowType
from raysys.tables import Chunk, InputPart, Output, Store, TableView, open_output
from raysys.tables.plan import reopen_output
from raysys.tables.read import error_rows, parts_of


@dataclass(frozen=True)
class TableJob:
    """A row stage from input parts to one table.

    fields: every value that changes the result (makes the fingerprint).
    load: chunk → items (an Arrow table), in CPU tasks; stage: (factory, args), built once per worker.
    keyed: the output keys follow from the items; heavy: the stage loads a model and gets an actor pool.
    producer: whose rows these are, where several write into one table (captioners); default: the job's name.
    """

    job: str
    output: str
    row_type: RowType
    fields: Mapping[str, Any]
    parts: Sequence[InputPart]
    chunk_rows: int
    load: Callable[[Chunk], pa.Table]
    stage: tuple[Callable[..., Any], tuple]
    engine: EngineConfig
    keyed: bool = True
    heavy: bool = False
    producer: str | None = None

    @property
    def label(self) -> str:
        return self.producer or self.job


def run_table(job: TableJob, config: Config, options: RunOptions) -> dict[str, Any]:
    """Do the pending chunks of `job` (or its error rows, when `options.retry`). Returns the summary as a dict."""
    return run_tables([job], config, options)[0]


def run_tables(jobs: Sequence[TableJob], config: Config, options: RunOptions) -> list[dict[str, Any]]:
    """The same for several tables of one job, one after the other on one Ray: starting it takes seconds."""
    planned = [_plan(job, options) for job in jobs]
    if all(isinstance(p, dict) for p in planned):
        return planned
    from raysys.engine.cluster import cluster  # Ray starts only when there is something to do

    with cluster(options.address):
        return [
            p if isinstance(p, dict) else _map(p, job, config, options) for job, p in zip(jobs, planned, strict=True)
        ]


def _plan(job: TableJob, options: RunOptions) -> dict[str, Any] | MapJob:
    """What is to be mapped; a summary when nothing is."""
    refuse_lost_path(job.output)
    if not sum(p.n_items for p in job.parts) and not options.retry:
        raise InputError(f"{job.job} has no input rows", "check the input path, or run the job before it")
    output = _open(job, options)
    if output is None:
        return {}
    if options.dry_run:
        return _dry_run(job, output, options)
    if output.is_kept:
        print(
            f"{job.job}: {output.folder.url} is kept as it is, {len(output.pending())} chunks pending", file=sys.stderr
        )
        return summary(output, 0.0)
    only = _errors(output) if options.retry else None
    mapped = MapJob(output, job.load, StageSpec(*job.stage), job.keyed, job.heavy, job.engine, only, options.limit)
    if mapped.chunks():
        return mapped
    n_done = len(output.chunks) - len(output.pending())
    print(f"{job.label}: nothing to do, {n_done} of {len(output.chunks)} chunks are done", file=sys.stderr)
    return summary(output, 0.0)


def _map(mapped: MapJob, job: TableJob, config: Config, options: RunOptions) -> dict[str, Any]:
    """Map one table and record how it was made."""
    from raysys.engine.map import run_map

    folder = mapped.output.folder
    if not options.retry:
        folder.write_json("_run/job.json", {"job": job.job, "config": config.model_dump(mode="json")})
        folder.write("_run/config.yaml", dump(config).encode())
    result = run_map(mapped)
    folder.write("_run/stats.txt", result.stats.encode())
    record = summary(mapped.output, result.seconds) | result.meters.totals()
    folder.write_json("_run/summary.json", record)
    return record


def _open(job: TableJob, options: RunOptions) -> Output | None:
    """None: a retry is meant for another output of this command."""
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


def _errors(output: Output) -> dict[str, Redo]:
    """{chunk: the rows of it that still stand as errors}"""
    found = {}
    for part in parts_of(output):
        if rows := error_rows(part):
            found[part.chunk.name] = Redo(len(part.files), rows)
    return found


def _dry_run(job: TableJob, output: Output, options: RunOptions) -> dict[str, Any]:
    chosen = first_items(output.chunks, options.limit)
    if options.retry:
        errors = _errors(output)
        redone = [errors[c.name] for c in chosen if c.name in errors]
        work = {"chunks_to_retry": len(redone), "rows_to_retry": sum(len(r.rows) for r in redone)}
    else:
        done = output.done()
        pending = [c for c in chosen if c.name not in done]
        work = {"pending_chunks": len(pending), "pending_items": sum(c.stop - c.start for c in pending)}
    pool = job.engine.pool
    plan = {
        "job": job.label,
        "output": output.folder.url,
        "inputs": len(job.parts),
        "items": sum(c.stop - c.start for c in chosen),
        "chunks": len(chosen),
        **work,
        "workers": f"{pool.min_size}–{pool.max_size} × ({pool.num_cpus:g} CPU, {pool.num_gpus:g} GPU)"
        if job.heavy
        else f"one task per chunk × {pool.num_cpus:g} CPU",
    }
    print(f"{job.label} would do (nothing was written):")
    for name, value in plan.items():
        print(f"  {name:<15} {value:,}" if isinstance(value, int) else f"  {name:<15} {value}")
    return plan


def summary(output: Output, seconds: float) -> dict[str, Any]:
    """Counts after retries, progress and place of one output."""
    counts = counts_of_output(output)
    return {
        "table": output.table.url,
        "producer": f"{output.producer}-{output.fingerprint}",
        "chunks": len(output.chunks),
        "pending_chunks": len(output.pending()),
        "rows": counts.as_dict(),
        "seconds": round(seconds, 2),
    }


def counts_of_output(output: Output) -> Counts:
    return TableView(output.table, (output,)).counts()


def refuse_limit(job: str, options: RunOptions) -> None:
    """InputError when --limit is given to a job that works on the whole: silence would look like obedience."""
    if options.limit is not None:
        raise InputError(f"--limit {options.limit}: {job} works on the whole input", "leave --limit out")


def refuse_lost_path(path: str) -> None:
    """InputError for an output that would vanish with its node: a relative or temporary path in a submitted job."""
    if "://" in path or not os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return
    resolved = os.path.abspath(path)
    if not os.path.isabs(path) or resolved.startswith(("/tmp/", os.getcwd() + os.sep)):
        raise InputError(
            f"output {path!r} lies on the node that runs this job and goes away with it",
            "give an s3:// or gs:// path, or a folder on a file system that all nodes mount",
        )
