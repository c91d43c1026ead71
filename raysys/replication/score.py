"""The replication score of generated images against training images, with everything that belongs beside it.

    generated, training → features → top-k search → s(g) → R, its interval, the background and the matches

Nothing here needs Ray: two folders on a laptop are enough.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import Field

from raysys.config import Config
from raysys.errors import InputError
from raysys.outcomes import kept
from raysys.progress import Progress
from raysys.replication import stats
from raysys.replication.features import Features, Unreadable, describe
from raysys.replication.inputs import FACTS, ImageSet, open_images, refuse_same
from raysys.shards.decode import DecodeConfig
from raysys.similarity import Descriptor, DescriptorConfig, array_blocks, make_descriptor, query_views, top_k

Source = str | os.PathLike | ImageSet
"""A folder of images, a raysys table, or an opened image set."""

ProgressFn = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


class ReplicationConfig(Config):
    """How two sets of images are compared."""

    descriptor: DescriptorConfig = Field(default_factory=DescriptorConfig, description="what makes images comparable")
    top: int = Field(1, ge=1, le=1000, description="nearest training images kept for each generated image")
    background_images: int = Field(
        10_000, ge=0, description="training images drawn for the train-against-train background; 0 = no background"
    )
    seed: int = Field(0, ge=0, description="of that draw")
    decode: DecodeConfig = Field(default_factory=DecodeConfig, description="limits that every image must keep")
    batch_images: int = Field(64, ge=1, description="most images described at a time")
    block_rows: int = Field(16_384, ge=1, description="training features searched at a time: bounds the memory")
    workers: int = Field(2, ge=1, description="threads that decode images")
    threads: int | None = Field(None, ge=1, description="threads of the search; null = all")


@dataclass(frozen=True)
class Background:
    """Training images against the other training images: how alike different images of this collection are."""

    similarities: np.ndarray  # [n] to the nearest other image
    n: int
    mean: float
    percentiles: dict[str, float]
    fraction_above: dict[str, float]
    histogram: dict[str, list]

    def to_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("n", "mean", "percentiles", "fraction_above", "histogram")}


@dataclass(frozen=True)
class ReplicationResult:
    """R and what is always reported beside it. `held_out` has the same form: real images in the generated ones' place.

    R: 95th percentile of s(g) = max over training x of <g, x>. R_ci: 95 % interval from order statistics, or None
    with `R_ci_reason`. R_background_percentile: the share of the background (in %) at or below R.
    `similarities` [n_generated] are s(g) in the order of `generated_ids`; `matches` holds one entry per generated
    image, most similar first; `neighbours` the `top` nearest of each as MATCHES rows.
    """

    R: float
    R_ci: tuple[float, float] | None
    R_ci_reason: str | None
    mean: float
    percentiles: dict[str, float]
    fraction_above: dict[str, float]
    n_generated: int
    n_training: int
    descriptor: str
    preset: str
    weights_sha256: str
    similarities: np.ndarray
    generated_ids: tuple[str, ...]
    neighbours: list[dict[str, Any]] = field(repr=False)
    background: Background | None = None
    held_out: ReplicationResult | None = None
    R_background_percentile: float | None = None
    unreadable: list[Unreadable] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def matches(self) -> list[dict[str, Any]]:
        """[{generated, training, similarity, prompt, caption, licence, url}], most similar first, ties by name."""
        names = ("generated", "training", "similarity", "prompt", *FACTS)
        nearest = [{n: row[n] for n in names} for row in self.neighbours if row["rank"] == 0]
        return sorted(nearest, key=lambda m: (-m["similarity"], m["generated"]))

    def to_dict(self) -> dict[str, Any]:
        """The JSON of `raysys replication --json`: plain types only."""
        plain = ("mean", "percentiles", "fraction_above", "n_generated", "n_training", "descriptor", "preset")
        return {
            "R": self.R,
            "R_ci": None if self.R_ci is None else list(self.R_ci),
            "R_ci_reason": self.R_ci_reason,
            **{name: getattr(self, name) for name in plain},
            "weights_sha256": self.weights_sha256,
            "R_background_percentile": self.R_background_percentile,
            "background": None if self.background is None else self.background.to_dict(),
            "held_out": None if self.held_out is None else self.held_out.to_dict(),
            "comparability": stats.COMPARABILITY,
            "matches": self.matches,
            "unreadable": [asdict(u) for u in self.unreadable],
            "seconds": self.seconds,
        }


def score(
    generated: Source,
    training: Source,
    *,
    held_out: Source | None = None,
    descriptor: DescriptorConfig | Descriptor | None = None,
    config: ReplicationConfig | None = None,
    progress: ProgressFn | None = None,
) -> ReplicationResult:
    """How much `generated` repeats of `training` (folders, tables or opened image sets).

    held_out: real images that were not trained on, measured in the same way: the level that chance reaches.
    descriptor: instead of the config's; a loaded one may be given to several calls.
    progress: called with (stage, done, total); see `terminal_progress`.

    Unreadable images are listed in the result and are not part of the figures. Raises InputError for a wrong path,
    a set without any readable image, or the same folder given twice.
    """
    config = config or ReplicationConfig()
    clock, report = _Clock(), progress or (lambda stage, done, total: None)
    sets = {"generated": open_images(generated, "generated"), "training": open_images(training, "training")}
    if held_out is not None:
        sets["held_out"] = open_images(held_out, "held_out")
    measured = [role for role in sets if role != "training"]
    for role in measured:
        refuse_same(sets[role], sets["training"], (role, "training"))
    if descriptor is None or isinstance(descriptor, DescriptorConfig):
        descriptor = make_descriptor(descriptor or config.descriptor)
    with ExitStack() as stack:
        features: dict[str, Features] = {}
        for role, images in sets.items():
            with clock.stage(f"describe {role}"):
                features[role] = stack.enter_context(_describe(images, role, descriptor, config, report))
        results: dict[str, ReplicationResult] = {}
        for role in measured:
            with clock.stage(f"search {role}"):
                found = _search(features[role], features["training"], descriptor, config, _of(report, role))
                results[role] = _result(role, found, features, sets, descriptor)
        with clock.stage("background"):
            background = _background(features["training"], descriptor, config, _of(report, "background"))
    result = results["generated"]
    return replace(
        result,
        background=background,
        held_out=results.get("held_out"),
        R_background_percentile=(
            None if background is None else stats.percentile_rank(result.R, background.similarities)
        ),
        unreadable=[u for f in features.values() for u in f.unreadable],
        seconds=clock.seconds(),
    )


def _describe(
    images: ImageSet, role: str, descriptor: Descriptor, config: ReplicationConfig, report: ProgressFn
) -> Features:
    total = len(images)
    features = describe(
        images,
        role,
        descriptor,
        config.decode,
        batch_images=config.batch_images,
        workers=config.workers,
        on_done=lambda done: report(f"describe {role}", done, total),
    )
    if len(features) == 0:
        first = features.unreadable[0]
        raise InputError(
            f"{role}: none of the {total} images in {images.source} can be read, e.g. {first.id}: {first.reason}",
            "give a folder with readable images",
        )
    return features


def _search(
    queries: Features, training: Features, descriptor: Descriptor, config: ReplicationConfig, report: ProgressFn
) -> tuple[np.ndarray, np.ndarray]:
    """(similarity [Q, top], training index [Q, top])."""
    blocks = _reported(training.array(), config.block_rows, report)
    return top_k(query_views(descriptor, queries.array()), blocks, config.top, threads=config.threads)


def _result(
    role: str,
    found: tuple[np.ndarray, np.ndarray],
    features: dict[str, Features],
    sets: dict[str, ImageSet],
    descriptor: Descriptor,
) -> ReplicationResult:
    queries, training = features[role], features["training"]
    similarities = found[0][:, 0]
    figures = stats.summary(similarities)
    interval, reason = stats.interval_of_r(similarities)
    return ReplicationResult(
        R=stats.replication_score(similarities),
        R_ci=interval,
        R_ci_reason=reason,
        mean=figures["mean"],
        percentiles=figures["percentiles"],
        fraction_above=figures["fraction_above"],
        n_generated=len(queries),
        n_training=len(training),
        descriptor=descriptor.name,
        preset=descriptor.preset,
        weights_sha256=descriptor.weights_sha256,
        similarities=similarities,
        generated_ids=tuple(queries.ids),
        neighbours=_neighbours(found, queries.ids, training.ids, sets[role], sets["training"]),
        unreadable=queries.unreadable,
    )


def _neighbours(
    found: tuple[np.ndarray, np.ndarray],
    ids: Sequence[str],
    training_ids: Sequence[str],
    own: ImageSet,
    training: ImageSet,
) -> list[dict[str, Any]]:
    """MATCHES rows: the nearest training images of each image, with what is known of both sides."""
    similarity, index = found
    facts = training.facts_of({training_ids[i] for i in index[index >= 0].tolist()})
    prompts = own.facts_of(ids)
    return [
        {
            "generated": image_id,
            "rank": rank,
            "training": (name := training_ids[index[q, rank]]),
            "similarity": float(similarity[q, rank]),
            "prompt": prompts[image_id]["caption"],
            **facts[name],
            **kept(),
        }
        for q, image_id in enumerate(ids)
        for rank in range(index.shape[1])
        if index[q, rank] >= 0
    ]


def _background(
    training: Features, descriptor: Descriptor, config: ReplicationConfig, report: ProgressFn
) -> Background | None:
    """Nearest *other* training image of a seeded draw of training images; None for fewer than two images."""
    if config.background_images == 0 or len(training) < 2:
        return None
    array = training.array()
    size = min(config.background_images, len(training))
    drawn = np.sort(np.random.default_rng(config.seed).choice(len(training), size, replace=False))
    blocks = _reported(array, config.block_rows, report)
    views = query_views(descriptor, array[drawn])
    similarity = top_k(views, blocks, 1, exclude=drawn, threads=config.threads)[0][:, 0]
    return Background(similarity, **stats.summary(similarity), histogram=stats.histogram(similarity))


def _reported(array: np.ndarray, block_rows: int, report: ProgressFn) -> Iterator[tuple[int, np.ndarray]]:
    for offset, block in array_blocks(array, block_rows):
        yield offset, block
        report("", offset + len(block), len(array))


def _of(report: ProgressFn, role: str) -> ProgressFn:
    stage = role if role == "background" else f"search {role}"
    return lambda _, done, total: report(stage, done, total)


@contextmanager
def terminal_progress(show: Collection[str] = ("describe", "search", "background")) -> Iterator[ProgressFn]:
    """A progress callback that shows one line with rate and ETA per stage (`show`: first words of stage names)."""
    open_lines: dict[str, Progress] = {}
    finished: set[str] = set()  # a stage may report its end twice: after its last full batch, and at its end

    def report(stage: str, done: int, total: int) -> None:
        if stage.split()[0] not in show:
            return
        if stage in finished:
            return
        if stage not in open_lines:
            open_lines[stage] = Progress(stage, total, "images")
        open_lines[stage].update(done)
        if done >= total:
            open_lines[stage].close()
            finished.add(stage)

    try:
        yield report
    finally:
        for line in open_lines.values():
            line.close("stopped")


class _Clock:
    """Seconds per stage and in total."""

    def __init__(self) -> None:
        self._began, self._stages = time.perf_counter(), {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._stages[name] = round(time.perf_counter() - began, 3)

    def seconds(self) -> dict[str, float]:
        return {**self._stages, "total": round(time.perf_counter() - self._began, 3)}
