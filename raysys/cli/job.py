"""One command per job: its flags, its configuration, and a help text made from the configuration class."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raysys.errors import InputError
from raysys.jobs.options import ON_CHANGE, RunOptions
from raysys.jobs.registry import JobInfo

if TYPE_CHECKING:
    from raysys.config import Config

PACKAGED = ("demo", "full")

RESUME = (
    "A run can be stopped at any time (Ctrl-C, kill, a lost machine): run the same command again to resume it. "
    "`raysys status OUTPUT` shows its progress, `raysys retry OUTPUT` redoes rows that failed."
)


def config_options(command: click.Command) -> click.Command:
    """The argument and options that choose a job's configuration: shared by the jobs and `raysys submit`."""
    for param in (
        click.Argument(["overrides"], nargs=-1, metavar="[KEY=VALUE]..."),
        click.Option(["--config"], metavar="FILE", help='A YAML file, or "demo" or "full" for a packaged one.'),
        click.Option(
            ["--limit"], type=click.IntRange(min=1), metavar="N", help="Stop after about N input items (whole chunks)."
        ),
        click.Option(["--dry-run"], is_flag=True, help="Print what would be done: items, chunks, pending, resources."),
        click.Option(
            ["--on-change"],
            type=click.Choice(ON_CHANGE),
            default="refuse",
            show_default=True,
            help="What to do if the output was written with another configuration.",
        ),
    ):
        command.params.append(param)
    return command


def only_option() -> click.Option:
    """`--only`, for commands that make several models."""
    return click.Option(["--only"], multiple=True, metavar="NAME", help="Only these models (a,b or repeat the option).")


def names_in(only: tuple[str, ...]) -> tuple[str, ...]:
    """The names of `--only a,b --only c`."""
    return tuple(name.strip() for part in only for name in part.split(",") if name.strip())


class JobCommand(click.Command):
    """`raysys <job>`: imports the job's module only to run it or to show its help."""

    def __init__(self, job: JobInfo) -> None:
        super().__init__(job.name, callback=self._invoke, help=job.help, short_help=job.help)
        self.job = job
        config_options(self)
        self.params += [
            click.Option(
                ["--address"],
                help='"local", "inline" (row jobs and trainings with one worker: in this process, without Ray) or a '
                "Ray address. Default: the running cluster if there is one, else local; such a training runs inline.",
            ),
            click.Option(["--print-config"], is_flag=True, help="Print the resolved configuration as YAML and stop."),
            *([only_option()] if job.has_only else []),
        ]

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from raysys.cli.config_help import format_fields

        with formatter.section("Configuration keys"):
            formatter.write(format_fields(self.job.load().JobConfig, width=formatter.width) + "\n")
        with formatter.section("Example"):
            formatter.write_text(self.job.example)
        with formatter.section("Resume"):
            formatter.write_text(RESUME)

    def _invoke(
        self,
        overrides: tuple[str, ...],
        config: str | None,
        limit: int | None,
        dry_run: bool,
        on_change: Any,
        address: str | None,
        print_config: bool,
        only: tuple[str, ...] = (),
    ) -> None:
        path = config_path(self.job, config)
        resolved = load_config(self.job, path, overrides)
        if print_config:
            from raysys.config import dump

            click.echo(dump(resolved), nl=False)
            return
        click.echo(f"raysys {self.job.name}: configuration {path}", err=True)
        if config is None:
            click.echo("  (the packaged demo, because --config was not given)", err=True)
        options = RunOptions(limit, dry_run, on_change, address, names_in(only))
        from raysys.cli.results import show

        show(self.job.load().run(resolved, options))


def config_path(job: JobInfo, config: str | None) -> Path:
    """The file that `--config` means: a path or the name of a packaged file; by default the packaged demo."""
    if config is None or config in PACKAGED:
        return job.packaged_config(config or "demo")
    return Path(config)


def load_config(job: JobInfo, path: Path, overrides: tuple[str, ...]) -> Config:
    """The job's validated configuration. Raises InputError with all mistakes."""
    from raysys.config import load

    for override in overrides:
        if "=" not in override and override.endswith((".yaml", ".yml")):
            raise InputError(f"{override} is not KEY=VALUE", f"to give a file: raysys {job.name} --config {override}")
    return load(job.load().JobConfig, path, overrides)
