"""Write one export: from joined rows to its folder."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from raysys.errors import InputError
from raysys.export.card import card
from raysys.export.files import Contents, Layout, finish, write_shards
from raysys.export.images import ImageBytes
from raysys.export.join import ExportJoin
from raysys.outcomes import KEPT
from raysys.progress import Progress


def export(
    join: ExportJoin,
    folder: Path,
    layout: Layout,
    *,
    rows_per_shard: int,
    max_shard_bytes: int,
    max_error_fraction: float,
) -> dict[str, Any]:
    """Write the export into the empty `folder`; returns its summary.

    Raises InputError if no sample is left or the disk is full, RunFailed if too many images cannot be read.
    """
    with closing(ImageBytes(join, max_error_fraction)) as images:
        with Progress("export", join.n_samples, "samples") as progress:
            sizes = {"rows_per_shard": rows_per_shard, "max_shard_bytes": max_shard_bytes}
            contents = write_shards(images.rows(progress), folder, layout, **sizes)
        images.check_errors(join.counts.kept + len(images.errors))
        if contents.samples == 0:
            raise InputError(
                f"no sample to export ({join.counts.as_dict()})",
                "check `select` and the outcomes of the joined tables",
            )
        held = {"layout": layout, **contents.as_dict(), "rows": join.counts.as_dict(), "errors": images.errors}
        finish(folder, card(held, held["rows"], layout), held)
    return {
        "rows": held["rows"],
        **{name: held[name] for name in ("samples", "captions", "licenses")},
        "shards": len(held["shards"]),
        "unreadable": len(images.errors),
        "limit": join.limit,
    }


def is_incomplete(done: Mapping[str, Any], limit: int | None, retry_unreadable: bool) -> bool:
    """Whether to redo a finished export with summary `done`: it had a smaller limit, or unreadable images to retry."""
    was = done["limit"]
    return (retry_unreadable and done["unreadable"] > 0) or (was is not None and (limit is None or limit > was))


def planned(join: ExportJoin) -> dict[str, int]:
    """What the export would contain, counted without reading images."""
    contents = Contents()
    for _, row in join.rows(with_images=False):
        join.counts.add(KEPT)
        contents.add(row)
    rows = join.counts.as_dict()
    facts = {"rows": rows["in"], "samples": contents.samples, "captions": contents.captions.total()}
    return facts | {f"left out: {reason}": n for reason, n in rows["rejected"].items()}
