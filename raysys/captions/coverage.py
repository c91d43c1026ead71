"""How many captions the images of a CAPTIONS table have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping

from raysys.outcomes import KEPT
from raysys.tables import TableView
from raysys.tables.read import for_parts


def captions_per_image(captions: TableView, producers: Collection[str]) -> dict[int, int]:
    """{kept captions: images} over the given producers. Memory: one number per image of one part at a time."""
    found: Counter[int] = Counter()
    by_origin: dict[str, Counter[str]] = {}
    parts = sorted((p for p in captions.parts if p.output.producer in producers), key=lambda p: p.origin)
    tables = for_parts(lambda part: part.read(["row_id", "outcome"]), parts)
    for part, table in zip(parts, tables, strict=True):
        if part.origin not in by_origin:
            found.update(n for counts in by_origin.values() for n in counts.values())
            by_origin = {part.origin: Counter()}
        rows = table.to_pylist()
        by_origin[part.origin].update({row["row_id"]: 0 for row in rows})
        by_origin[part.origin].update(row["row_id"] for row in rows if row["outcome"] == KEPT)
    found.update(n for counts in by_origin.values() for n in counts.values())
    return dict(sorted(found.items()))


def few_captions_notes(per_image: Mapping[int, int], min_captions: int, table: str) -> tuple[str, ...]:
    """What to tell when images of `table` have fewer captions than that; () when none has."""
    few = sum(images for n, images in per_image.items() if n < min_captions)
    if not few:
        return ()
    have = "no caption" if min_captions == 1 else f"fewer than {min_captions} captions"
    return (
        f"caption: {few:,} of {sum(per_image.values()):,} images have {have}; "
        f"`raysys status {table}` shows why, another captioner in the same table adds to them",
    )
