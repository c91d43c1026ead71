"""`raysys submit JOB`: the `ray job submit` command for a job, checked before anything is sent."""

from __future__ import annotations

import difflib
import importlib.util
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click

from raysys.cli.job import PACKAGED, config_options, config_path, load_config, names_in, only_option
from raysys.errors import InputError, MissingExtra
from raysys.jobs import JOBS
from raysys.jobs.registry import JobInfo


@click.command()
@click.argument("job", metavar="JOB")
@click.option(
    "--address", help="The cluster's job server, e.g. http://127.0.0.1:8265. Default: RAY_API_SERVER_ADDRESS."
)
@click.option("--submission-id", help="A name for this submission.")
@click.option("--no-wait", is_flag=True, help="Return immediately instead of showing the job's log.")
@click.option("--print-only", is_flag=True, help="Print the command without running it.")
def submit(
    job: str,
    overrides: tuple[str, ...],
    config: str | None,
    limit: int | None,
    dry_run: bool,
    on_change: str,
    only: tuple[str, ...],
    address: str | None,
    submission_id: str | None,
    no_wait: bool,
    print_only: bool,
) -> int:
    """Run a job on a cluster: print and run the `ray job submit` command.

    Run this in the project's folder, which is uploaded to the cluster, except for the files in .rayignore.
    """
    if job not in JOBS:
        close = difflib.get_close_matches(job, JOBS, n=1) or list(JOBS)[:1]
        raise InputError(f"unknown job {job!r}; jobs: {', '.join(JOBS)}", f"for example: raysys submit {close[0]}")
    info = JOBS[job]
    if only and not info.has_only:
        raise InputError(f"--only {only[0]}: {job} does not make models", "omit --only")
    entry = entrypoint(info, config, overrides, limit, dry_run, on_change)
    entry += [word for name in names_in(only) for word in ("--only", name)]
    options = [
        *(["--address", address] if address else []),
        *(["--submission-id", submission_id] if submission_id else []),
        *(["--no-wait"] if no_wait else []),
    ]
    command = ["ray", "job", "submit", "--working-dir", ".", *options, "--", *entry]
    click.echo(shlex.join(command))
    if print_only:
        return 0
    if importlib.util.find_spec("aiohttp") is None:
        raise MissingExtra("ray[default], the part of Ray that talks to a cluster's job server,", "cluster")
    beside_python = shutil.which("ray", path=str(Path(sys.executable).parent))
    return subprocess.run([beside_python or "ray", *command[1:]], check=False).returncode


config_options(submit)
submit.params.append(only_option())


def entrypoint(
    job: JobInfo, config: str | None, overrides: tuple[str, ...], limit: int | None, dry_run: bool, on_change: str
) -> list[str]:
    """The command that the cluster runs. The configuration is validated here, before anything is sent.

    Raises InputError for an invalid configuration, a folder without raysys, or a config file outside of this folder.
    """
    if not Path("raysys/__main__.py").is_file():
        raise InputError(f"raysys is not in {Path.cwd()}", "run `raysys submit` in the project's folder")
    path = config_path(job, config)
    load_config(job, path, overrides)
    config_argument = config or "demo"
    if config_argument not in PACKAGED:
        if not path.resolve().is_relative_to(Path.cwd()):
            raise InputError(f"--config {config} is outside {Path.cwd()}", "copy the file into this folder")
        config_argument = path.resolve().relative_to(Path.cwd()).as_posix()
    return [
        *["python", "-m", "raysys", job.name, "--config", config_argument, *overrides],
        *(["--limit", str(limit)] if limit else []),
        *(["--dry-run"] if dry_run else []),
        *(["--on-change", on_change] if on_change != "refuse" else []),
    ]
