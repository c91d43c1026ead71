"""Mean generality scores of a table of generalized captions, per level, before and after."""

from __future__ import annotations

from collections import defaultdict

from raysys.outcomes import KEPT
from raysys.rows import CAPTIONS
from raysys.tables import open_table

PRODUCER = "generalize"
"""The producer of these rows; other producers may write into the same table."""


def level_means(table: str) -> dict[str, dict[str, float]]:
    """{level: {"n", "gs_before", "gs_after", "similarity", "changed"}}: means over the `n` kept rows of each level.

    A level without kept rows has only "n": 0; "similarity" is missing if it was not measured.
    """
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    columns = ["level", "text", "source_text", "gs", "source_gs", "similarity", "outcome"]
    for rows in open_table(table, CAPTIONS).of(PRODUCER).rows(columns, outcome=None):
        for row in rows.to_pylist():
            level = sums[row["level"]]
            if row["outcome"] != KEPT:
                continue
            level["n"] += 1
            level["gs_before"] += row["source_gs"]
            level["gs_after"] += row["gs"]
            level["changed"] += row["text"] != row["source_text"]
            if row["similarity"] is not None:
                level["similarity"] += row["similarity"]
    return {
        level: {"n": int(s["n"])} | {name: round(value / s["n"], 4) for name, value in s.items() if name != "n"}
        for level, s in sorted(sums.items())
    }
