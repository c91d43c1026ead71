"""Described image sets → the replication result: search, statistics, reference levels. Reads no images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from raysys.outcomes import kept
from raysys.replication import stats
from raysys.replication.config import ReplicationConfig
from raysys.replication.inputs import ImageSet
from raysys.replication.result import Background, LeftOut, ReplicationResult, Unreadable
from raysys.similarity import DescriptorFacts, array_blocks, top_k
from raysys.similarity.feature_file import FeatureFile

ProgressFn = Callable[[str, int, int], None]
"""Called with (stage, done, total)."""


@dataclass(frozen=True)
class DescribedSet:
    """An image set with the features of its readable images, in the order of the set."""

    images: ImageSet
    features: FeatureFile
    unreadable: list[Unreadable] = field(default_factory=list)


@dataclass(frozen=True)
class _Side:
    """One side of a comparison: ids and features in the same order, and the image set for facts about the images."""

    images: ImageSet
    ids: Sequence[str]
    sample_ids: Sequence[str | None]
    array: np.ndarray

    @classmethod
    def of(cls, described: DescribedSet) -> _Side:
        features = described.features
        return cls(described.images, features.ids, features.sample_ids, features.array())

    def only(self, index: np.ndarray) -> _Side:
        ids, sample_ids = ([names[i] for i in index.tolist()] for names in (self.ids, self.sample_ids))
        return _Side(self.images, ids, sample_ids, self.array[index])


def compare(
    generated: DescribedSet,
    training: DescribedSet,
    held_out: DescribedSet | None,
    descriptor: DescriptorFacts,
    config: ReplicationConfig,
    report: ProgressFn = lambda stage, done, total: None,
) -> ReplicationResult:
    """The result of `raysys.replication.score`, from features that were computed with `descriptor`."""
    search = _Search(descriptor, config, report)
    sides = {name: _Side.of(s) for name, s in (("generated", generated), ("training", training))}
    result = search.result("generated", sides["generated"], sides["training"])
    background = search.background(sides["training"])
    levels: dict[str, Any] = {}
    if held_out is not None:
        levels = search.held_out_levels(sides["generated"], sides["training"], _Side.of(held_out))
    return replace(
        result,
        **levels,
        background=background,
        R_background_percentile=(
            None if background is None else stats.percentile_rank(result.R, background.similarities)
        ),
        unreadable=[u for s in (generated, training, held_out) if s is not None for u in s.unreadable],
    )


class _Search:
    """All searches of a measurement, with one descriptor and one configuration."""

    def __init__(self, descriptor: DescriptorFacts, config: ReplicationConfig, report: ProgressFn) -> None:
        self._descriptor, self._config, self._report = descriptor, config, report
        stated = descriptor.thresholds
        own = (t.similarity for t in (stated.copy, stated.near_duplicate) if t is not None)
        self._thresholds = sorted({*stats.THRESHOLDS, *own})

    def result(self, stage: str, queries: _Side, training: _Side) -> ReplicationResult:
        """The result of comparing `queries` with `training`."""
        return self._result(queries, training, self._nearest(f"search {stage}", queries, training))

    def held_out_levels(self, generated: _Side, training: _Side, held_out: _Side) -> dict[str, Any]:
        """The fields held_out, own_held_out and held_out_left_out of the result."""
        found = self._nearest("search held_out", held_out, training)
        left_out = self._left_out(held_out, training, found)
        names = {image["held_out"] for image in left_out.images}
        index = np.array([i for i, name in enumerate(held_out.ids) if name not in names], np.int64)
        if len(index) == 0:
            return {"held_out_left_out": left_out}
        unseen = held_out.only(index)
        return {
            "held_out_left_out": left_out,
            "held_out": self._result(unseen, training, (found[0][index], found[1][index])),
            "own_held_out": self.result("own_held_out", generated, unseen),
        }

    def background(self, training: _Side) -> Background | None:
        """Similarity of randomly drawn training images to their nearest *other* training image; None if disabled or for
        fewer than two images."""
        n, config = len(training.ids), self._config
        if config.background_images == 0 or n < 2:
            return None
        size = min(config.background_images, n)
        drawn = np.sort(np.random.default_rng(config.seed).choice(n, size, replace=False))
        views = self._descriptor.views(training.array[drawn])
        blocks = self._blocks("background", training.array)
        similarity = top_k(views, blocks, 1, exclude=drawn, threads=config.threads)[0][:, 0]
        figures = stats.summary(similarity, self._thresholds)
        return Background(similarity, **figures, histogram=stats.histogram(similarity))

    def _nearest(self, stage: str, queries: _Side, training: _Side) -> tuple[np.ndarray, np.ndarray]:
        """(similarity [Q, top], index in `training` [Q, top])."""
        views = self._descriptor.views(queries.array)
        return top_k(views, self._blocks(stage, training.array), self._config.top, threads=self._config.threads)

    def _blocks(self, stage: str, array: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        for offset, block in array_blocks(array, self._config.block_rows):
            yield offset, block
            self._report(stage, offset + len(block), len(array))

    def _left_out(self, held_out: _Side, training: _Side, found: tuple[np.ndarray, np.ndarray]) -> LeftOut:
        """Held-out images that are also training images: the same bytes, or at least as similar as near-duplicates."""
        stated = self._descriptor.thresholds.near_duplicate
        threshold = self._config.held_out_threshold or (None if stated is None else stated.similarity)
        row_of = {s: name for s, name in zip(training.sample_ids, training.ids, strict=True) if s is not None}
        images = []
        for i, (name, sample_id) in enumerate(zip(held_out.ids, held_out.sample_ids, strict=True)):
            similarity, nearest = float(found[0][i, 0]), training.ids[found[1][i, 0]]
            same = sample_id is not None and sample_id in row_of
            if same or (threshold is not None and found[0][i, 0] >= np.float32(threshold)):
                other = row_of[sample_id] if same else nearest
                images.append({"held_out": name, "sample_id": sample_id, "training": other})
                images[-1] |= {"similarity": similarity, "same_bytes": same}
        return LeftOut(len(held_out.ids), threshold, images)

    def _result(self, queries: _Side, training: _Side, found: tuple[np.ndarray, np.ndarray]) -> ReplicationResult:
        similarities = found[0][:, 0]
        figures = stats.summary(similarities, self._thresholds)
        interval, reason = stats.interval_of_r(similarities)
        return ReplicationResult(
            R=stats.replication_score(similarities),
            R_ci=interval,
            R_ci_reason=reason,
            mean=figures["mean"],
            percentiles=figures["percentiles"],
            fraction_above=figures["fraction_above"],
            n_generated=len(queries.ids),
            n_training=len(training.ids),
            descriptor=self._descriptor.name,
            preset=self._descriptor.preset,
            weights_sha256=self._descriptor.weights_sha256,
            thresholds=self._descriptor.thresholds,
            similarities=similarities,
            generated_ids=tuple(queries.ids),
            neighbors=_neighbors(found, queries, training),
        )


def _neighbors(found: tuple[np.ndarray, np.ndarray], queries: _Side, training: _Side) -> list[dict[str, Any]]:
    """MATCHES rows: the nearest training images of each image, with facts about both."""
    similarity, index = found
    facts = training.images.facts_of({training.ids[i] for i in index[index >= 0].tolist()})
    prompts = queries.images.facts_of(queries.ids)
    return [
        {
            "generated": image_id,
            "generated_sample_id": queries.sample_ids[q],
            "rank": rank,
            "training": training.ids[at],
            "training_sample_id": training.sample_ids[at],
            "similarity": float(similarity[q, rank]),
            "prompt": prompts[image_id]["caption"],
            **facts[training.ids[at]],
            **kept(),
        }
        for q, image_id in enumerate(queries.ids)
        for rank, at in enumerate(index[q].tolist())
        if at >= 0
    ]
