"""The page of `raysys dedup --report`: the largest clusters and the least similar near-duplicates as images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from raysys.report.data import ImageOf
from raysys.report.headline import Headline
from raysys.report.images import Picture, pictures
from raysys.report.page import write_page
from raysys.shards.duplicates_summary import Cluster, DuplicatesSummary, Pair

BUDGET_BYTES = 4_000_000
"""Of all pictures together, so that the page stays below 5 MB."""


@dataclass(frozen=True)
class Shown:
    """An image of the page. similarity: to the representative; None for the representative itself."""

    row_id: str
    picture: Picture
    similarity: float | None = None
    how: str = ""


def duplicates_report(
    found: DuplicatesSummary,
    image_of: ImageOf,
    out: Path,
    *,
    place: str,
    threshold: float | None,
    command: str,
    versions: Mapping[str, str],
) -> Path:
    """Write the page to `out`; return `out`. place: the DUPLICATES table. threshold: of near-duplicates, if any."""
    groups = [_ids(item) for item in (*found.largest, *found.closest_to_threshold)]
    drawn = iter(pictures([(image_of, row_id) for ids in groups for row_id in ids], BUDGET_BYTES))
    clusters = [(cluster, _shown(cluster.representative, cluster.members, drawn)) for cluster in found.largest]
    pairs = [(pair, _shown(pair.representative, [pair], drawn)) for pair in found.closest_to_threshold]
    return write_page(
        "duplicates.html.j2",
        out,
        found=found,
        clusters=clusters,
        pairs=pairs,
        place=place,
        threshold=threshold,
        headline=headline_of(found),
        command=command,
        versions=versions,
    )


def headline_of(found: DuplicatesSummary) -> Headline:
    if not found.duplicates:
        return Headline("No duplicates were found.", f"{found.rows:,} images", "")
    numbers = f"{found.duplicates:,} duplicates of {found.rows:,} images in {found.clusters:,} clusters"
    return Headline(
        f"{found.duplicates:,} of {found.rows:,} images are duplicates of another one.",
        numbers,
        "One image of each cluster is kept. A near-duplicate that is not one is an image lost: look at the pairs "
        "closest to the threshold first.",
    )


def _ids(item: Cluster | Pair) -> list[str]:
    if isinstance(item, Pair):
        return [item.representative, item.row_id]
    return [item.representative, *(member.row_id for member in item.members)]


def _shown(representative: str, members: Sequence[Pair], drawn) -> list[Shown]:
    head = Shown(representative, next(drawn))
    return [head, *(Shown(m.row_id, next(drawn), m.similarity, m.how) for m in members)]
