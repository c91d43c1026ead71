"""Run whole steps (assemble, export …), and check output paths."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raysys.config import Config
from raysys.errors import InputError
from raysys.jobs.options import RunOptions
from raysys.tables.folder_output import FolderOutput, Record
from raysys.tables.results import FolderPlan, FolderSummary, Plan, Summary


@dataclass(frozen=True)
class FolderJob:
    """A job that writes one folder as a whole.

    fields: every value that changes the result; inputs by their contents.
    write: (empty local folder) → summary. facts: called for a dry run to describe the work; may read the inputs.
    redo: (record of a finished output with the same fields) → whether to write it again.
    follows: fields whose changes need no confirmation by --on-change, as in `FolderOutput`.
    """

    job: str
    output: str
    fields: Mapping[str, Any]
    write: Callable[[Path], Mapping[str, Any]]
    facts: Callable[[], Mapping[str, Any]] = dict
    redo: Callable[[Record], bool] = lambda _: False
    follows: Collection[str] = ()


def run_folder(job: FolderJob, config: Config, options: RunOptions) -> Plan | Summary:
    """Write the folder unless it is finished, with a record of what it was made from."""
    refuse_lost_path(job.output, options)
    output = FolderOutput(job.job, job.output, job.fields, config, options.on_change, options.dry_run, job.follows)
    to_do = output.is_to_do(job.redo)
    if options.dry_run:
        return Plan({job.job: FolderPlan(job.job, output.path, output.state(), to_do, job.facts())})
    if to_do:
        return Summary({job.job: FolderSummary(job.job, output.path, output.write(job.write))})
    found = output.record()
    state = "kept" if output.changed() else "nothing to do"
    return Summary({job.job: FolderSummary(job.job, output.path, found.summary, state)})


def refuse_limit(job: str, options: RunOptions) -> None:
    """Raise InputError if --limit is given to a job that cannot apply it."""
    if options.limit is not None:
        raise InputError(f"--limit {options.limit}: {job} processes its whole input", "remove --limit")


def refuse_object_store(path: str, why: str) -> None:
    """Raise InputError if the output is a URL. `why`: what needs a file system."""
    if "://" in path:
        raise InputError(f"output {path!r}: {why} needs a local or mounted folder", "give such a folder")


def refuse_lost_path(path: str, options: RunOptions) -> None:
    """Raise InputError for a path that disappears with its node: a relative or temporary path in a submitted job.

    `options.allow_local_output` allows a temporary path on a cluster of one node. Ray deletes the job's working
    directory after the job, so a path in it is always refused.
    """
    if "://" in path or not os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR"):
        return
    shared = "give an s3:// or gs:// path, or a folder on a file system that all nodes mount"
    resolved = os.path.abspath(path)
    if not os.path.isabs(path) or resolved.startswith(os.getcwd() + os.sep):
        raise InputError(f"output {path!r} is in the working directory of this job, which is deleted after it", shared)
    if not resolved.startswith("/tmp/"):
        return
    if not options.allow_local_output:
        raise InputError(
            f"output {path!r} is on the disk of the node that runs this job, which is lost with the node",
            f"{shared}; on a cluster of one node, add --allow-local-output",
        )
    from raysys.engine.submitted import count_nodes

    if (n := count_nodes()) != 1:
        raise InputError(f"--allow-local-output: the cluster has {n} nodes, and {path!r} is on one of them", shared)
