"""Plots and images of the replication section, for a study and for a single measurement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from raysys.replication import ReplicationResult
from raysys.report import text
from raysys.report.data import ImageOf
from raysys.report.gallery import ModelMatches, gallery, n_entries, n_open
from raysys.report.plots import REFERENCES, Distribution, distribution_plot, series_of
from raysys.report.sections.replication.collect import ReplicationData, references


@dataclass(frozen=True)
class Line:
    """One measurement on the scale and in the tables. series: its color. change: from the first one, as text."""

    label: str
    result: ReplicationResult
    series: int | str
    change: str | None = None


def view(data: ReplicationData) -> dict[str, Any]:
    """Variables of `section.html.j2` and `result.html.j2`."""
    first = data.reference.result
    compared = {model.name for model in data.others}
    lines = [
        Line(
            model.name,
            model.result,
            series_of(model.position),
            text.change(first.R, model.result.R) if model.name in compared else None,
        )
        for model in data.models
    ]
    lines += [Line(label, result, REFERENCES) for label, result in references(data)]
    models = [
        ModelMatches(f"m{i}", model.name, series_of(model.position), model.result.matches, model.image)
        for i, model in enumerate(data.models)
    ]
    return _view(lines, models, data.training_image)


def view_of_one(result: ReplicationResult, image: ImageOf, training_image: ImageOf) -> dict[str, Any]:
    """As `view`, for a single measurement."""
    lines = [Line("Generated", result, 0)]
    if result.held_out is not None:
        lines.append(Line("Held-out images", result.held_out, REFERENCES))
    return _view(lines, [ModelMatches("m0", "Generated", 0, result.matches, image)], training_image)


def _view(lines: Sequence[Line], models: Sequence[ModelMatches], training_image: ImageOf) -> dict[str, Any]:
    return {
        "lines": lines,
        "models": models,
        "figures": text.compare_figures([line.result for line in lines]),
        "distribution": _distribution(lines),
        "entries": gallery(models, training_image, n_entries(len(models))),
        "n_matches": len({match["generated"] for model in models for match in model.matches}),
        "n_open": n_open(len(models)),
    }


def _distribution(lines: Sequence[Line]) -> Markup:
    rows = [
        Distribution(
            line.label, np.asarray(line.result.similarities, dtype=float), line.result.R, line.result.R_ci, line.series
        )
        for line in lines
    ]
    words = "; ".join(f"{row.label}: R {text.number(row.R)}, {len(row.similarities):,} images" for row in rows)
    background = lines[0].result.background
    return distribution_plot(
        rows,
        None if background is None else background.similarities,
        f"Distribution of the similarity to the nearest image. {words}.",
    )
