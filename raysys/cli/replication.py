"""`raysys replication GENERATED TRAINING`: R of two folders or tables. Needs no configuration and no Ray."""

from __future__ import annotations

import csv
import json
import os
import platform
import shlex
from importlib.metadata import distributions
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from raysys.errors import InputError

if TYPE_CHECKING:
    from raysys.replication import ReplicationConfig, ReplicationResult

DESCRIPTORS = ("embedded", "sscd", "clip", "dinov2")
STDOUT = "-"


@click.command()
@click.argument("generated")
@click.argument("training")
@click.option(
    "--held-out",
    metavar="DIR",
    help="Real images that were not trained on: their R is the level of chance, shown beside R.",
)
@click.option("--report", metavar="FILE", help="Write an HTML report with the worst matches as images.")
@click.option(
    "--json", "json_path", metavar="FILE", help='Write every figure and match as JSON; "-" = standard output.'
)
@click.option(
    "--csv", "csv_path", metavar="FILE", help="Write the nearest training images of each image, one per line."
)
@click.option(
    "--descriptor",
    type=click.Choice(DESCRIPTORS),
    default="embedded",
    show_default=True,
    help="Image descriptor. embedded needs no weights.",
)
@click.option("--weights", metavar="PATH", help="sscd: a TorchScript file. clip, dinov2: a folder. Never downloaded.")
@click.option("--sha256", metavar="HEX", help="SHA-256 of the weights. Required for sscd: TorchScript can run code.")
@click.option(
    "--preset", help="Preprocessing of sscd: dcr224 (used for all published R), sscd288, sscd320. Default: the first."
)
@click.option(
    "--top", type=click.IntRange(1, 1000), default=1, show_default=True, help="Nearest training images kept per image."
)
@click.pass_context
def replication(
    ctx: click.Context,
    generated: str,
    training: str,
    held_out: str | None,
    report: str | None,
    json_path: str | None,
    csv_path: str | None,
    **comparison: Any,
) -> None:
    """Measure how much GENERATED copies from TRAINING: R, its interval, the worst matches.

    Each is a folder of images (with captions and licenses in .txt and .json files of the same name) or a raysys table.
    R is the 95th percentile of s(g), the similarity of a generated image to its nearest training image.
    """
    config = _config(**comparison)
    for path in (report, json_path, csv_path):
        _refuse_folder(path)
    from raysys.replication import open_images, score, terminal_progress

    sets = open_images(generated, "generated"), open_images(training, "training")
    with terminal_progress() as progress:
        result = score(*sets, held_out=held_out, config=config, progress=progress)
    if json_path is not None:
        _write_json(json_path, result)
    if csv_path is not None:
        _write_csv(Path(csv_path), result)
    if report is not None:
        from raysys.report import replication_report

        replication_report(
            result, sets[0].bytes_of, sets[1].bytes_of, Path(report), command=_command(ctx), versions=_versions()
        )
    if json_path != STDOUT:
        from raysys.report import print_replication

        print_replication(result)
    for path in (report, json_path, csv_path):
        if path not in (None, STDOUT):
            click.echo(f"wrote {path}", err=True)


def _config(
    descriptor: str, weights: str | None, sha256: str | None, preset: str | None, top: int
) -> ReplicationConfig:
    from raysys.config import validate
    from raysys.replication import ReplicationConfig

    chosen = {"name": descriptor, "weights": weights, "sha256": sha256, "preset": preset}
    flags = {f"descriptor.{name}" for name in chosen} | {"top"}
    return validate(ReplicationConfig, {"descriptor": chosen, "top": top}, "command line", flags)


def _refuse_folder(path: str | None) -> None:
    """Raise InputError before any work if the result cannot be written."""
    if path is not None and path != STDOUT and os.path.isdir(path):
        raise InputError(f"{path} is a folder", f"give a file name, for example {os.path.join(path, 'replication')}…")


def _write_json(path: str, result: ReplicationResult) -> None:
    text = json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n"
    if path == STDOUT:
        click.echo(text, nl=False)
        return
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_text(text, encoding="utf-8")


def _write_csv(path: Path, result: ReplicationResult) -> None:
    """One line per generated image and rank, in the order of the generated images."""
    from raysys.rows import FATE, MATCHES

    columns = [field.name for field in MATCHES.schema if field.name not in {fate.name for fate in FATE}]
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as out:
        writer = csv.DictWriter(out, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(result.neighbors)


def _command(ctx: click.Context) -> str:
    """The command that repeats this measurement, with its arguments and the given options."""
    words = ["raysys", "replication"]
    for param in ctx.command.params:
        value = ctx.params.get(param.name)
        if isinstance(param, click.Argument):
            words.append(value)
        elif value is not None and value != param.default:
            words += [param.opts[0], str(value)]
    return shlex.join(words)


def _versions() -> dict[str, str]:
    """Versions of the packages that can influence similarities; GPU machines have another faiss package."""
    names = ("raysys", "numpy", "pillow", "faiss-cpu", "faiss-gpu-cu12", "torch")
    installed = {d.metadata["Name"].lower(): d.version for d in distributions()}
    return {"python": platform.python_version()} | {n: installed[n] for n in names if n in installed}
