"""The driver's side of a row job: progress, counts, error budget, failure of the run. Does not import Ray."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from raysys.engine.meters import Meters
from raysys.engine.metrics_file import appended
from raysys.errors import InputError, RunFailed
from raysys.outcomes import Counts
from raysys.progress import Progress
from raysys.tables import Output
from raysys.tables.fates import in_words
from raysys.tables.job import TableRun, first_items
from raysys.tables.results import TOP_REASONS

ERRORS_BEFORE_STOP = 20
"""A few errors at the start of a run may be bad luck; from this number on, the fraction decides."""


@dataclass
class MapResult:
    """What one run did. details: {reason: detail} of the first error row with each reason."""

    counts: Counts = field(default_factory=Counts)
    details: dict[str, str] = field(default_factory=dict)
    n_chunks: int = 0
    failed_chunks: list[str] = field(default_factory=list)
    meters: Meters = field(default_factory=Meters)
    seconds: float = 0.0
    stats: str = ""


def drive(
    run: TableRun,
    n_chunks: int,
    reports: Iterable[Mapping[str, Any]],
    alive: Callable[[], None] = lambda: None,
    starting: str | None = None,
) -> MapResult:
    """Consume the reports of `n_chunks` chunks as they arrive; `alive` is called for each one.

    starting: what happens before the first report, shown while it lasts.

    Raises RunFailed (more errors than allowed, chunks that could not be processed) or InputError (no space left,
    missing model). In any case the committed parts stay, and the same command resumes.
    """
    began, cluster = time.monotonic(), run.job.cluster
    result = MapResult(meters=Meters(cluster.pool.num_gpus))
    total = sum(c.stop - c.start for c in first_items(run.output.chunks, run.limit))
    already = total - sum(c.stop - c.start for c in run.chunks())
    with (
        appended(run.output.folder, "_run/metrics.jsonl") as metrics,
        Progress(
            _label(run.output),
            total,
            "rows",
            cluster.progress_interval_s,
            metrics=metrics,
            start=already,
            starting=starting,
        ) as bar,
    ):
        done = already
        for report in reports:
            alive()
            done += _account(report, result)
            meters = result.meters
            bar.update(done, result.counts, meters.sums, worked_s=report.get("seconds"), **meters.shown())
            _stop_if_too_many_errors(result, run)
    result.seconds = time.monotonic() - began
    _check_conserved(result, done - already, run)
    if result.failed_chunks:
        raise RunFailed(
            f"{len(result.failed_chunks)} of {n_chunks} chunks could not be processed and stay pending, "
            f"first: {result.failed_chunks[0]}\n  fix: run the same command again"
        )
    return result


def _label(output: Output) -> str:
    """The table's name in the progress line. It must be unambiguous, because several jobs may run at once."""
    return f"{output.producer} {'/'.join(output.table.url.split('/')[-2:])}"


def _account(report: Mapping[str, Any], result: MapResult) -> int:
    if report.get("fatal"):
        what, fix = json.loads(report["fatal"])
        raise InputError(what, fix)
    if report.get("problem"):
        result.failed_chunks.append(report["problem"])
        return 0
    result.n_chunks += 1
    result.counts.merge(Counts.from_dict(json.loads(report["counts"])))
    result.details = json.loads(report["details"]) | result.details
    result.meters.add(json.loads(report["meters"] or "{}"))
    return report["n_items"]


def _check_conserved(result: MapResult, n_items: int, run: TableRun) -> None:
    """Check n_items = kept + rejected + error. Keyed stages are checked key by key in each chunk (`process_chunk`)."""
    if run.only is None and not run.job.stage.keyed and result.counts.total != n_items:
        raise RunFailed(f"{n_items} items went into {run.output.producer}, but {result.counts.as_dict()} came out")


def _stop_if_too_many_errors(result: MapResult, run: TableRun) -> None:
    if run.only is not None:  # a retry processes only rows that have failed before
        return
    counts, allowed = result.counts, run.job.cluster.max_error_fraction
    if counts.n_error >= ERRORS_BEFORE_STOP and counts.n_error > allowed * counts.total:
        place = shlex.quote(run.output.table.url)
        raise RunFailed(
            f"{counts.n_error} of {counts.total} rows ended as errors ({in_words(counts.error, TOP_REASONS)}), more "
            f"than max_error_fraction = {allowed:g}{_examples(result)}\n"
            f"  fix: `raysys failed {place}` lists them; fix the cause, run the same command again, "
            f"then run `raysys retry {place}`"
        )


def _examples(result: MapResult) -> str:
    """The detail of the first error row with each of the most frequent reasons, one per line."""
    top = [reason for reason, _ in result.counts.error.most_common(TOP_REASONS) if reason in result.details]
    return "".join(f"\n  first {reason}: {result.details[reason]}" for reason in top)
