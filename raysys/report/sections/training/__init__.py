"""The section about training: how each model was trained, and its loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysys.report.folder import RunFolder
from raysys.report.plots import loss_plot
from raysys.report.recipe import recipe_in_words


@dataclass(frozen=True)
class Training:
    """recipes: model → how it was made, in words. losses: model → the records of its metrics.jsonl."""

    recipes: Mapping[str, str]
    losses: Mapping[str, Sequence[Mapping[str, Any]]]


def collect(run: RunFolder) -> Training:
    recipes = {name: recipe_in_words(model["recipe"]) for name, model in run.record["models"].items()}
    return Training(recipes, {name: run.metrics(name) for name in run.models})


def summary(data: Training) -> dict[str, Any]:
    """Empty: `summary.json` has the recipes under the models."""
    return {}


def view(data: Training) -> dict[str, Any]:
    names = [name for name, records in data.losses.items() if records]
    words = f"Training loss against step for {', '.join(names) or 'no training'}."
    return {"recipes": data.recipes, "losses": loss_plot(data.losses, words)}
