"""Choose the matches to show, side by side for all models, and the duplicate clusters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysys.report.data import DuplicateCluster, ImageOf
from raysys.report.images import Picture, pictures

MAX_ENTRIES, MAX_PAIRS = 24, 60
"""Entries on the page; fewer if there are many models, so that the pictures stay large enough."""
MAX_OPEN, MAX_OPEN_PAIRS = 9, 16
"""Entries that are not folded, so that a reader on a phone can scroll past the gallery."""
MAX_CLUSTERS = 8
MAX_MEMBERS = 4

GALLERY_BUDGET_BYTES = 3_500_000
CLUSTERS_BUDGET_BYTES = 500_000
"""Both budgets are 4 MB together, so that the page with its plots and tables stays below 5 MB."""


@dataclass(frozen=True)
class ModelMatches:
    """One model's `matches` ({generated, training, similarity, …}) and the pictures of its generations."""

    key: str
    label: str
    series: int
    matches: Sequence[Mapping[str, Any]]
    image: ImageOf


@dataclass(frozen=True)
class Half:
    """One model's generation and its nearest training image."""

    key: str
    label: str
    series: int
    generated: str
    training: str
    similarity: float
    prompt: str | None
    caption: str | None
    license: str | None
    url: str | None
    generated_picture: Picture
    training_picture: Picture


@dataclass(frozen=True)
class Entry:
    """The halves of all models for the same generation id (prompt and index). prompt: the first model's; models trained
    on other captions have other prompts."""

    name: str
    prompt: str | None
    halves: tuple[Half, ...]

    @property
    def worst(self) -> float:
        return max(half.similarity for half in self.halves)


@dataclass(frozen=True)
class ClusterPictures:
    cluster: DuplicateCluster
    shown: tuple[tuple[str, Picture], ...]


def n_entries(n_models: int) -> int:
    """How many entries a page with `n_models` models holds."""
    return max(4, min(MAX_ENTRIES, MAX_PAIRS // n_models))


def n_open(n_models: int) -> int:
    """How many of these entries are not folded."""
    return max(2, min(MAX_OPEN, MAX_OPEN_PAIRS // n_models))


def gallery(models: Sequence[ModelMatches], training_image: ImageOf, max_entries: int = MAX_ENTRIES) -> list[Entry]:
    """The `max_entries` generations with the highest similarity in any model, highest first; ties by id."""
    by_name: dict[str, list[tuple[ModelMatches, Mapping[str, Any]]]] = {}
    for model in models:
        for match in model.matches:
            by_name.setdefault(str(match["generated"]), []).append((model, match))
    worst = {name: max(float(match["similarity"]) for _, match in found) for name, found in by_name.items()}
    chosen = sorted(by_name, key=lambda name: (-worst[name], name))[:max_entries]
    sides = [side for name in chosen for side in by_name[name]]
    requests = [(model.image, str(match["generated"])) for model, match in sides]
    requests += [(training_image, str(match["training"])) for _, match in sides]
    shown = pictures(requests, GALLERY_BUDGET_BYTES)
    halves = iter(
        _half(model, match, generated, training)
        for (model, match), generated, training in zip(sides, shown[: len(sides)], shown[len(sides) :], strict=True)
    )
    return [
        Entry(name, _prompt(found), tuple(next(halves) for _ in found))
        for name, found in ((name, by_name[name]) for name in chosen)
    ]


def duplicate_clusters(clusters: Sequence[DuplicateCluster], training_image: ImageOf) -> list[ClusterPictures]:
    """The largest clusters with the pictures of their first members."""
    largest = sorted(clusters, key=lambda c: -c.size)[:MAX_CLUSTERS]
    members = [list(cluster.members)[:MAX_MEMBERS] for cluster in largest]
    flat = [(training_image, name) for names in members for name in names]
    shown = iter(pictures(flat, CLUSTERS_BUDGET_BYTES))
    return [
        ClusterPictures(cluster, tuple((name, next(shown)) for name in names))
        for cluster, names in zip(largest, members, strict=True)
    ]


def _half(model: ModelMatches, match: Mapping[str, Any], generated: Picture, training: Picture) -> Half:
    return Half(
        key=model.key,
        label=model.label,
        series=model.series,
        generated=str(match["generated"]),
        training=str(match["training"]),
        similarity=float(match["similarity"]),
        prompt=match.get("prompt"),
        caption=match.get("caption"),
        license=match.get("license"),
        url=match.get("url"),
        generated_picture=generated,
        training_picture=training,
    )


def _prompt(found: Sequence[tuple[ModelMatches, Mapping[str, Any]]]) -> str | None:
    return next((match["prompt"] for _, match in found if match.get("prompt")), None)
