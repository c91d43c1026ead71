"""`raysys zoo list` and `raysys zoo build`: list and rebuild the small models that are shipped."""

from __future__ import annotations

from pathlib import Path

import click

MEMBERS = ("vae", "clip", "captioner", "rewriter")


@click.group("zoo")
def zoo_group() -> None:
    """The embedded models: small versions of the real architectures, trained on drawn scenes."""


@zoo_group.command("list")
@click.option("--folder", metavar="DIR", help="A zoo made by `raysys zoo build`. Default: the shipped one.")
def list_members(folder: str | None) -> None:
    """List all members with size, seed, steps and quality; check the files against their checksums."""
    from raysys.models import places

    root = Path(folder) if folder else places.ROOT
    for name, entry in places.read_manifest(root)["members"].items():
        place = places.path(name, root)
        made = f"{entry['bytes'] / 1e6:6.2f} MB  seed {entry['seed']}  {entry['max_steps']:,} steps"
        click.echo(f"{places.PREFIX}{name:<14} {made}")
        click.echo(f"  {place}")
        for metric, value in entry["metrics"].items():
            click.echo(f"  {metric}: {value:.4g}" if isinstance(value, float) else f"  {metric}: {value}")


@zoo_group.command("build")
@click.argument("members", nargs=-1, type=click.Choice(MEMBERS), metavar="[vae|clip|captioner|rewriter]...")
@click.option("--folder", metavar="DIR", help="Output folder. Default: replace the shipped models.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of data and weights.")
@click.option("--max-steps", type=click.IntRange(min=1), help="Training steps. Default: each member's own.")
def build_members(members: tuple[str, ...], folder: str | None, seed: int, max_steps: int | None) -> None:
    """Train the given members (default: all) on scenes; takes minutes per member on one core."""
    from raysys.models import places
    from raysys.zoo import build as zoo_build

    root = Path(folder) if folder else places.ROOT
    built = zoo_build.build(root, members or zoo_build.MEMBERS, seed, max_steps)
    click.echo(f"{root} holds {', '.join(sorted(built['members']))}")
