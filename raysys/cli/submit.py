"""`raysys submit JOB`: upload raysys and a configuration to a cluster, and run the job there."""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raysys import signals
from raysys.cli.job import PACKAGED, config_options, config_path, load_config, names_in, only_option
from raysys.errors import InputError, RunFailed
from raysys.jobs import JOBS
from raysys.jobs.registry import JobInfo

if TYPE_CHECKING:
    from raysys.config import Config
    from raysys.engine.submit import JobServer, Package

KEY_FIELD = "api_key_env"
"""The fields of configurations that name an environment variable with a key."""


@click.command()
@click.argument("job", metavar="JOB")
@click.option(
    "--address",
    help="The cluster's job server. Default: RAY_API_SERVER_ADDRESS, else http://127.0.0.1:8265.",
)
@click.option(
    "--working-dir",
    type=click.Path(exists=True, file_okay=False),
    metavar="DIR",
    help="Upload this folder too, except for what its .rayignore names; the job runs in it. The YAML must be in it.",
)
@click.option("--submission-id", help="A name for this submission.")
@click.option("--no-wait", is_flag=True, help="Return as soon as the job has started, without showing its log.")
@click.option("--print-only", is_flag=True, help="Print what would be uploaded and run, without connecting.")
def submit(
    job: str,
    config: str | None,
    overrides: tuple[str, ...],
    address: str | None,
    working_dir: str | None,
    submission_id: str | None,
    no_wait: bool,
    print_only: bool,
    **flags: Any,
) -> int:
    """Run a job on a cluster, with the raysys that is installed here and one YAML file.

    The cluster needs raysys's dependencies, not raysys itself. API keys that the configuration names
    (api_key_env) are taken from the environment here. Ctrl-C leaves the job running.
    """
    info = _job(job, flags["only"])
    path = config_path(info, config)
    keys = keys_in(load_config(info, path, overrides))
    from raysys.engine.submit import job_server

    server = None if print_only else job_server(address)
    with _packed(config, path, working_dir) as (packages, argument):
        words = [info.name, *(["--config", argument] if argument else []), *overrides, *_given(flags)]
        for line in (*(f"upload {package}" for package in packages), *_notes(keys)):
            click.echo(line, err=server is not None)
        if server is None:
            click.echo(f"run {_entrypoint(words)}")
            return 0
        job_id = _start(server, packages, words, keys, submission_id)
    if no_wait:
        click.echo(f"job {job_id} runs on {server.url}\n{_commands(server, job_id)}", err=True)
        return 0
    return _follow(server, job_id)


config_options(submit)
submit.params.append(only_option())


def _job(name: str, only: tuple[str, ...]) -> JobInfo:
    if name not in JOBS:
        close = difflib.get_close_matches(name, JOBS, n=1) or list(JOBS)[:1]
        raise InputError(f"unknown job {name!r}; jobs: {', '.join(JOBS)}", f"for example: raysys submit {close[0]}")
    if only and not JOBS[name].has_only:
        raise InputError(f"--only {only[0]}: {name} does not make models", "omit --only")
    return JOBS[name]


def keys_in(config: Config) -> dict[str, str | None]:
    """The environment variables that the configuration names as keys, with their values here; None = not set here."""

    def names(value: Any) -> Iterator[str]:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                yield from [inner] if key == KEY_FIELD and inner else names(inner)
        elif isinstance(value, list | tuple):
            for item in value:
                yield from names(item)

    return {name: os.environ.get(name) for name in sorted(set(names(config.model_dump())))}


def _notes(keys: Mapping[str, str | None]) -> list[str]:
    return [
        f"key {name}: from this environment, kept out of Ray's job details and logs"
        if value
        else f"note: {name} is not set here; the environment of the cluster's head must have it"
        for name, value in keys.items()
    ]


def _given(flags: Mapping[str, Any]) -> list[str]:
    """The flags of jobs that differ from their defaults, as the job gets them."""
    return [
        *(["--limit", str(flags["limit"])] if flags["limit"] else []),
        *(["--dry-run"] if flags["dry_run"] else []),
        *(["--on-change", flags["on_change"]] if flags["on_change"] != "refuse" else []),
        *(["--allow-local-output"] if flags["allow_local_output"] else []),
        *(word for name in names_in(flags["only"]) for word in ("--only", name)),
    ]


def _entrypoint(words: Sequence[str], uri: str | None = None) -> str:
    """The command that the cluster runs. uri: where the keys wait for it."""
    return shlex.join(["python", "-m", "raysys", *(["--take-keys", uri] if uri else []), *words])


@contextmanager
def _packed(
    config: str | None, path: Path | None, working_dir: str | None
) -> Iterator[tuple[list[Package], str | None]]:
    """The packages to upload, in a temporary folder, and the argument of --config on the cluster.

    Raises InputError if the YAML is not in `working_dir`.
    """
    from raysys.engine.submit import pack_code, pack_folder

    own = path is not None and config not in PACKAGED
    with tempfile.TemporaryDirectory(prefix="raysys-submit-") as temporary:
        argument = config
        if working_dir is None:
            source = Path(temporary, "working_dir")
            source.mkdir()
            if own:
                shutil.copy2(path, source / path.name)  # with its time: the same file makes the same package
                argument = path.name
        else:
            source = Path(working_dir).resolve()
            if own and not path.resolve().is_relative_to(source):
                raise InputError(f"--config {config} is not in --working-dir {working_dir}", "copy the file into it")
            argument = path.resolve().relative_to(source).as_posix() if own else config
        yield [pack_folder("working directory", source, Path(temporary)), pack_code(Path(temporary))], argument


def _start(
    server: JobServer,
    packages: Sequence[Package],
    words: Sequence[str],
    keys: Mapping[str, str | None],
    submission_id: str | None,
) -> str:
    """Upload and start the job; returns its id. The keys go last: the cluster keeps them for minutes only."""
    if note := server.version_note():
        click.echo(note, err=True)
    folder, code = (server.upload(package) for package in packages)
    with server.left({name: value for name, value in keys.items() if value}) as uri:
        return server.start(_entrypoint(words, uri), {"working_dir": folder, "py_modules": [code]}, submission_id)


def _follow(server: JobServer, job_id: str) -> int:
    """Show the job's log until its end; returns its exit code."""
    try:
        click.echo(f"job {job_id} runs on {server.url}; its log:", err=True)
        details = server.follow(job_id, lambda text: click.echo(text, nl=False))
    except KeyboardInterrupt:
        click.echo(f"raysys: job {job_id} goes on\n{_commands(server, job_id)}", err=True)
        return 128 + (signal.SIGTERM if signals.received() else signal.SIGINT)
    except RunFailed as exc:
        raise RunFailed(f"{exc}\n{_commands(server, job_id)}") from None
    if details.driver_exit_code is None:
        raise RunFailed(f"job {job_id}: {details.status.value.lower()}: {details.message}")
    if details.driver_exit_code:
        click.echo(f"raysys: job {job_id} ended with exit code {details.driver_exit_code}", err=True)
    return details.driver_exit_code


def _commands(server: JobServer, job_id: str) -> str:
    return (
        f"  follow it: ray job logs --follow --address {server.url} {job_id}\n"
        f"  stop it:   ray job stop --address {server.url} {job_id}"
    )
