"""Collect the data of the captions section from the tables of the caption and generalize jobs."""

from __future__ import annotations

import hashlib
import heapq
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.captions.caption import ORIGINAL
from raysys.captions.level_means import level_means
from raysys.language.generality import REFERENCE
from raysys.outcomes import KEPT, Counts
from raysys.replication.inputs import ImageSet
from raysys.report.folder import RunFolder
from raysys.report.sections.captions.data import (
    CaptionExample,
    CaptionsReport,
    CaptionText,
    GeneralizedText,
    LevelScores,
    Written,
)
from raysys.report.text import plain
from raysys.rows import CAPTIONS
from raysys.tables import Store, TableView, open_table
from raysys.tables.plan import TABLE

N_EXAMPLES = 6
BIN_EDGES = np.linspace(0.0, 10.0, 41)
"""Bin edges of the histograms of the generality score (GS)."""


def collect(run: RunFolder) -> CaptionsReport | None:
    """None if the run made no captions. Reads both tables part by part; keeps only counts and a few examples."""
    captions, generalized = (_view(run, run.record[name]) for name in ("captions", "generalized"))
    if captions is None and generalized is None:
        return None
    training = run.training_images()
    levels = sorted(_written(generalized, "level"), key=lambda w: _rank(w.name))
    return CaptionsReport(
        captioners=_written(captions, "captioner"),
        levels=levels,
        scores=_scores(generalized, [w.name for w in levels]) if generalized is not None else (),
        examples=_examples(captions, generalized, training),
        training_image=training.bytes_of,
        sources=_sources(generalized),
        generality=_pipeline(generalized),
        learned={name: model["recipe"]["captions"] for name, model in run.record["models"].items()},
    )


def _view(run: RunFolder, place: str | None) -> TableView | None:
    if place is None or not Store(run.path(place)).exists(TABLE):
        return None
    return open_table(run.path(place), CAPTIONS)


def summary(report: CaptionsReport) -> dict[str, Any]:
    """For summary.json: {"captions": {"captioners": {name: …}, "levels": {level: …}, "generality"}}."""
    scores = {s.level: s for s in report.scores}
    names = ("gs_before", "gs_after", "similarity", "changed")
    return {
        "captions": {
            "captioners": {w.name: _figures(w) for w in report.captioners},
            "levels": {w.name: _figures(w) | {n: getattr(scores[w.name], n) for n in names} for w in report.levels},
            "generality": report.generality,
        }
    }


def _figures(written: Written) -> dict[str, Any]:
    return written.counts.as_dict() | {
        "tokens_mean": None if written.tokens is None else round(written.tokens, 2),
        "model": written.model,
        "revision": written.revision,
    }


def _written(view: TableView | None, column: str) -> list[Written]:
    """Fates and tokens of the rows per value of `column` (captioner or level), in the table's order."""
    counts: dict[str, Counts] = defaultdict(Counts)
    tokens: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(2))
    model: dict[str, tuple[str | None, str | None]] = {}
    keys = [column, "outcome", "reason", "model", "revision"]
    for table in [] if view is None else view.rows([*keys, "completion_tokens"], outcome=None):
        wanted = [("completion_tokens", "sum"), ("completion_tokens", "count")]
        for row in table.group_by(keys).aggregate([*wanted, ([], "count_all")]).to_pylist():
            name = row[column]
            counts[name].add(row["outcome"], row["reason"], row["count_all"])
            tokens[name] += (row["completion_tokens_sum"] or 0, row["completion_tokens_count"])
            if name not in model or row["model"] is not None:
                model[name] = (row["model"], row["revision"])
    return [
        Written(name, counts[name], float(total / n) if n else None, *model[name])
        for name, (total, n) in tokens.items()
    ]


def _scores(view: TableView, levels: Sequence[str]) -> list[LevelScores]:
    before, after = _histograms(view, "source_gs"), _histograms(view, "gs")
    means = level_means(view.store.url)
    return [_level(level, means.get(level, {}), before[level], after[level]) for level in levels]


def _level(level: str, means: Mapping[str, float], before: np.ndarray, after: np.ndarray) -> LevelScores:
    names = ("gs_before", "gs_after", "similarity", "changed")
    return LevelScores(level, int(means.get("n", 0)), *(means.get(name) for name in names), before, after)


def _histograms(view: TableView, column: str) -> dict[str, np.ndarray]:
    """{level: number of kept captions in each bin}"""
    counts: dict[str, np.ndarray] = defaultdict(lambda: np.zeros(len(BIN_EDGES) - 1, dtype=np.int64))
    for table in view.rows(["level", column]):
        for level in pc.unique(table["level"]).to_pylist():
            values = table.filter(pc.equal(table["level"], level))[column].to_numpy()
            counts[level] += np.histogram(values, BIN_EDGES)[0]
    return counts


def _rank(level: str) -> tuple[int, str]:
    """Sort key: the order of the paper, then alphabetical."""
    known = list(REFERENCE)
    return (known.index(level) if level in known else len(known), level)


def _sources(view: TableView | None) -> tuple[str, ...]:
    """The captioners whose captions were generalized."""
    tables = [] if view is None else view.rows(["captioner"], outcome=None)
    return tuple(sorted({name for table in tables for name in pc.unique(table["captioner"]).to_pylist()}))


def _pipeline(view: TableView | None) -> str | None:
    if view is None:
        return None
    return next((name for output in view.outputs if (name := output.fields().get("generality"))), None)


# --- examples ---


def _examples(captions: TableView | None, generalized: TableView | None, training: ImageSet) -> list[CaptionExample]:
    """Examples, chosen by a hash of the image id: the same in every report of the run, and not hand-picked."""
    main = generalized if generalized is not None else captions
    assert main is not None, "called with a table"
    chosen = _chosen(main)
    facts = training.facts_of(chosen)
    written, levels = (_rows_of(view, chosen) for view in (captions, generalized))
    return [
        CaptionExample(name, _texts(name, facts.get(name, {}).get("caption"), written[name], levels[name]))
        for name in chosen
    ]


def _chosen(view: TableView) -> list[str]:
    best: list[str] = []
    for table in view.rows(["row_id"], outcome=None):
        best = heapq.nsmallest(N_EXAMPLES, {*best, *table["row_id"].to_pylist()}, key=_hash)
    return best


def _hash(row_id: str) -> bytes:
    return hashlib.blake2b(row_id.encode(), digest_size=8).digest()


def _rows_of(view: TableView | None, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """{row_id: its rows}, in the order of the table: by captioner and prompt as configured"""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for table in [] if view is None else view.rows(outcome=None):
        wanted = table.filter(pc.is_in(table["row_id"], pa.array(names, pa.string())))
        for row in wanted.to_pylist():
            found[row["row_id"]].append(row)
    return found


def _texts(
    name: str, original: str | None, written: Sequence[dict[str, Any]], levels: Sequence[dict[str, Any]]
) -> tuple[CaptionText, ...]:
    """The original caption, then the synthetic ones, each with its generalized versions."""
    made: dict[str, list[GeneralizedText]] = defaultdict(list)
    for row in sorted(levels, key=lambda r: _rank(r["level"])):
        generalized = GeneralizedText(row["level"], row["text"], row["source_gs"], row["gs"], _problem(row))
        made[row["source_caption_id"]].append(generalized)
    first = CaptionText(ORIGINAL, None, original, None, None, tuple(made[f"{name}/{ORIGINAL}"]))
    synthetic = [
        CaptionText(
            row["captioner"],
            row["prompt_name"],
            row["text"],
            row["language"],
            _problem(row),
            tuple(made[row["caption_id"]]),
        )
        for row in written
    ]
    return (first, *synthetic)


def _problem(row: Mapping[str, Any]) -> str | None:
    return None if row["outcome"] == KEPT else f"{row['outcome']}: {plain(row['reason'] or 'unknown')}"
