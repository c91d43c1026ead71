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
    from raysys.tables.results import Plan, Summary

PACKAGED = ("demo", "full")

RESUME = (
    "A run can be stopped at any time (Ctrl-C, kill, a lost machine): run the same command again to resume it. "
    "`raysys status OUTPUT` shows its progress, `raysys retry OUTPUT` redoes rows that failed."
)


def config_options(command: click.Command) -> click.Command:
    """The argument and options that choose a job's configuration: shared by the jobs and `raysys submit`."""
    for param in (
        click.Argument(["overrides"], nargs=-1, metavar="[KEY=VALUE]..."),
        click.Option(
            ["--config"],
            metavar="FILE",
            help='A YAML file, or "demo" or "full" for a packaged one. '
            "Default: the keys on the command line, and the defaults listed below.",
        ),
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
        click.Option(
            ["--allow-local-output"],
            is_flag=True,
            help="On a cluster of one node: a job that was submitted may write to this node's disk (/tmp/…).",
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
                help='"local" (a private Ray), "inline" (row jobs: in this process, without Ray) or a Ray address. '
                "Default: the cluster in RAY_ADDRESS; without one inline for a small job without a model, else local.",
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
        allow_local_output: bool,
        address: str | None,
        print_config: bool,
        only: tuple[str, ...] = (),
    ) -> tuple[Config, Plan | Summary] | None:
        """Run the job and print its result; return the configuration and the result, or None for --print-config."""
        path = config_path(self.job, config)
        resolved = load_config(self.job, path, overrides)
        if print_config:
            from raysys.config import dump

            click.echo(dump(resolved), nl=False)
            return None
        click.echo(f"raysys {self.job.name}: {f'configuration {path}' if path else 'default configuration'}", err=True)
        if config == "demo" and (own := _own_inputs(path, overrides)):
            note = f"{own} is not the demo's, but all other settings are; omit --config for the defaults"
            click.echo(f"  note: {note}", err=True)
        options = RunOptions(limit, dry_run, on_change, address, names_in(only), allow_local_output)
        from raysys.cli.results import refuse_empty, show

        result = self.job.load().run(resolved, options)
        show(result)
        refuse_empty(result)
        return resolved, result


_OUTPUTS = {"output", "latents", "text_states", "export"}


def _own_inputs(demo: Path, overrides: tuple[str, ...]) -> str:
    """The overrides that replace inputs of the demo by others."""
    from raysys.config import read_yaml

    paths = {key for key, value in read_yaml(demo).items() if str(value).startswith("runs/")} - _OUTPUTS
    return ", ".join(override for override in overrides if override.partition("=")[0] in paths)


def config_path(job: JobInfo, config: str | None) -> Path | None:
    """The file that `--config` means: a path or the name of a packaged file; None without `--config`."""
    if config is None:
        return None
    return job.packaged_config(config) if config in PACKAGED else Path(config)


def load_config(job: JobInfo, path: Path | None, overrides: tuple[str, ...]) -> Config:
    """The job's validated configuration: the file's or, without a file, the defaults, with the overrides.

    Raises InputError with all mistakes.
    """
    from raysys.config import load

    for override in overrides:
        if "=" not in override and override.endswith((".yaml", ".yml")):
            raise InputError(f"{override} is not KEY=VALUE", f"to give a file: raysys {job.name} --config {override}")
    if path is None and not overrides:
        fields = job.load().JobConfig.model_fields
        required = " and ".join(name for name, field in fields.items() if field.is_required()) or "a configuration"
        raise InputError(
            f"raysys {job.name} needs {required}",
            f"for example: {job.example}\n       raysys {job.name} --help lists all keys; --config demo runs the demo",
        )
    return load(job.load().JobConfig, path, overrides)
