"""The command line. Help texts import nothing heavy: jobs, Ray and torch load when a command runs.

Exit codes: 0 done; 1 failed, or too many rows failed; 2 bad input; 130 Ctrl-C; 143 SIGTERM.
"""

from __future__ import annotations

import difflib
import errno
import logging
import os
import sys
import traceback
from typing import NoReturn

import click

from raysys import __version__, signals
from raysys.cli.dedup import DedupCommand
from raysys.cli.generality import generality
from raysys.cli.job import JobCommand
from raysys.cli.replication import replication
from raysys.cli.submit import submit
from raysys.cli.zoo import zoo_group
from raysys.errors import InputError, RunFailed
from raysys.jobs import JOBS

OK, FAILED, BAD_INPUT, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

QUIET = {
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_OFFLINE": "1",
    # One line per chunk in the hands of a worker that died; Ray tells the death itself in another message.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "infinite retries remaining, so the task will be retried",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""Environment of this process and Ray's workers, unless set: libraries do not use the network or print advice."""

STOPPED = "stopped. Committed results stay; run the same command again to resume."


_OWN_OPTIONS: dict[str, type[JobCommand]] = {"dedup": DedupCommand}
"""Jobs whose command has options beside those of all jobs."""


class RaysysGroup(click.Group):
    """The `raysys` command: the jobs of the registry, then the commands of this module, in that order."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*JOBS, *self.commands]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in JOBS:
            return super().get_command(ctx, cmd_name)
        return _OWN_OPTIONS.get(cmd_name, JobCommand)(JOBS[cmd_name])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        names = self.list_commands(ctx)
        if args[0] not in names and (close := difflib.get_close_matches(args[0], names, n=1)):
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {close[0]}?", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in (("Jobs, in the order of the data", list(JOBS)), ("Commands", list(self.commands))):
            with formatter.section(title):
                rows = [(name, self.get_command(ctx, name).get_short_help_str(limit=90)) for name in names]
                formatter.write_dl(rows)


@click.group(cls=RaysysGroup, context_settings={"max_content_width": 120, "help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="raysys")
@click.option("--take-keys", metavar="URI", hidden=True, help="Where `raysys submit` left the keys of this job.")
def cli(take_keys: str | None) -> None:
    """Train license-clean text-to-image models that do not copy their training images, and measure it.

    Start with `raysys study --config demo`. Each job takes one YAML file and KEY=VALUE overrides;
    `raysys JOB --help` lists every key.
    """
    if take_keys is not None:
        from raysys.engine.submitted import take

        take(take_keys)


@cli.command()
@click.argument("path")
def status(path: str) -> int | None:
    """Show the state of an output: chunks and rows of a table by fate, or the summary of a whole step."""
    from raysys.cli import tables

    return tables.status(path)


@cli.command()
@click.argument("path")
@click.option(
    "--rejected",
    metavar="[REASON]",
    is_flag=False,
    flag_value="",
    help="List rejected rows instead: those with this reason, or all. Give PATH first.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="List at most this many rows. Default: 50, or all as CSV/JSON."
)
@click.option("--csv", "csv_path", metavar="FILE", help='Write the rows as CSV; "-" = standard output.')
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line, for other programs.")
def failed(path: str, rejected: str | None, limit: int | None, csv_path: str | None, as_json: bool) -> int | None:
    """List the rows of a table that failed, or that were rejected, with reason and detail."""
    from raysys.cli import tables

    return tables.failed(path, rejected, limit, csv_path, as_json)


@cli.command()
@click.argument("path")
@click.option("--limit", type=click.IntRange(min=1), help="Retry at most about this many rows.")
@click.option("--dry-run", is_flag=True, help="Print what would be retried and do nothing.")
@click.option("--address", help='"local", "inline" or a Ray address. Default: as for the job that wrote the table.')
def retry(path: str, limit: int | None, dry_run: bool, address: str | None) -> int | None:
    """Run the failed rows of a table again, and only those."""
    from raysys.cli import tables
    from raysys.jobs.options import RunOptions

    return tables.retry(path, RunOptions(limit=limit, dry_run=dry_run, address=address))


@cli.command()
@click.argument("path")
def verify(path: str) -> int | None:
    """Check a table: all keys present, each once, counts conserved. The exit code is 1 if a check fails."""
    from raysys.cli import tables

    return tables.verify(path)


cli.add_command(generality)
cli.add_command(replication)
cli.add_command(zoo_group)
cli.add_command(submit)


def main(args: list[str] | None = None) -> NoReturn:
    """Run the `raysys` program; turns every exception into a message and an exit code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("raysys").setLevel(logging.INFO)
    signals.install()
    sys.exit(_run(args))


def _run(args: list[str] | None) -> int:
    try:
        result = cli.main(args, prog_name="raysys", standalone_mode=False)
    except click.ClickException as exc:
        exc.show()
        return exc.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo(f"raysys: {STOPPED}", err=True)
        return TERMINATED if signals.received() else INTERRUPTED
    except Exception as exc:
        return _report(exc)
    return result if isinstance(result, int) and not isinstance(result, bool) else OK


def _report(exc: Exception) -> int:
    """Print the exception that ended the command, with a traceback only if it is unexpected; return the exit code."""
    cause = _origin(exc)
    if isinstance(cause, InputError):
        click.echo(f"raysys: {cause}", err=True)
        return BAD_INPUT
    if isinstance(cause, RunFailed):
        click.echo(f"raysys: {cause}", err=True)
        return FAILED
    if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT):
        where = f" while writing {cause.filename}" if cause.filename else ""
        click.echo(
            f"raysys: no space left on the disk{where}; committed results stay"
            "\n  fix: free some space, then run the same command again",
            err=True,
        )
        return FAILED
    traceback.print_exception(exc)
    return FAILED


def _origin(exc: BaseException) -> BaseException:
    """The exception that a worker raised, unwrapped from the engine's exceptions, which keep it as `cause`."""
    while isinstance(getattr(exc, "cause", None), BaseException):
        exc = exc.cause
    return exc


if __name__ == "__main__":
    main()
