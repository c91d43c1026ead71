"""Job `study`: shards → models → evaluations → report. `make demo` runs one with two models."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from raysys.engine.config import ClusterConfig, TrainClusterConfig
from raysys.errors import RunFailed
from raysys.jobs import JOBS, report
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import refuse_limit, refuse_lost_path
from raysys.study.config import StudyConfig as JobConfig
from raysys.study.plan import plan_steps, selected
from raysys.study.record import Record
from raysys.study.run import plan_of, run_steps
from raysys.study.step import Step
from raysys.tables.results import Plan, Summary, empty_outputs, nothing_kept


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Run every step that is not finished, then write report.html and summary.json. Returns the summary of `report`.

    Raises RunFailed at the end if a model failed; the report shows the other models and the reason.
    """
    refuse_limit("study", options)
    refuse_lost_path(config.run, options)
    everything = plan_steps(config)
    steps = selected(everything, config, options.only)
    record = Record(config, everything, " ".join(["raysys", *sys.argv[1:]]))
    if options.dry_run:
        return plan_of(steps, record)
    from raysys.engine.cluster import cluster, how_many_fit

    def room_for(step: Step) -> int:
        needed = _resources(getattr(step.config, "cluster", None))
        return 1 if needed is None else config.concurrent or how_many_fit(*needed)

    own = replace(options, only=())
    with cluster(options.address):
        record.start()
        run_steps(steps, record, lambda step: run_step(step, own), room_for)
    summary = report.run(report.JobConfig(run=config.run), own)
    if failed := {m: why for m, why in record.failed_models().items() if not options.only or m in options.only}:
        raise RunFailed(
            f"{len(failed)} of {len(options.only or config.models)} models failed"
            + "".join(f"\n  - {model}: {why}" for model, why in failed.items())
            + f"\n  report: {summary.steps['report'].output}"
        )
    return summary


def run_step(step: Step, options: RunOptions) -> Plan | Summary:
    """Run the step's job. Raises RunFailed if a table that it writes has rows, but no kept one."""
    result = JOBS[step.job].load().run(step.config, options)
    empty = empty_outputs(result)
    # A table of several captioners serves the models that learn from those that kept some.
    filled = {s.output for s in result.steps.values() if s not in empty}
    if lost := [s for s in empty if s.output not in filled]:
        raise RunFailed("\n  ".join([str(nothing_kept(lost)), *result.notes]))
    return result


def _resources(cluster: Any) -> tuple[float, float] | None:
    """Maximum (CPUs, GPUs) of a step; None for a step that runs in this process."""
    if isinstance(cluster, TrainClusterConfig):
        return cluster.num_workers * cluster.cpus_per_worker, cluster.num_workers * float(cluster.use_gpu)
    if isinstance(cluster, ClusterConfig):
        pool = cluster.pool
        return pool.max_size * pool.num_cpus + cluster.load_cpus, pool.max_size * pool.num_gpus
    return None
