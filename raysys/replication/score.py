"""The replication score of generated images against training images, in one process, without tables or Ray.

    generated, training → features → top-k search → s(g) → R, its interval, the background and the matches

The job `replicate` does the same from FEATURES tables; both use `raysys.replication.compare`.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from itertools import combinations

from raysys.outcomes import KEPT
from raysys.replication.compare import DescribedSet, ProgressFn, compare
from raysys.replication.config import ReplicationConfig
from raysys.replication.described import refuse_unreadable
from raysys.replication.inputs import ImageSet, RawImage, open_images, refuse_same
from raysys.replication.listed import Listed, ListedImages, refuse_equal
from raysys.replication.result import ReplicationResult, Unreadable
from raysys.shards.decode import DecodeConfig
from raysys.shards.describe import load_image
from raysys.similarity import Descriptor, DescriptorConfig, make_descriptor
from raysys.similarity.describe import LoadedImage, describe
from raysys.similarity.feature_file import FeatureFile

Source = str | os.PathLike | ImageSet | Sequence[Listed]
"""A folder of images, a raysys table, an opened image set, or a list of paths, Pillow images and arrays."""


def score(
    generated: Source,
    training: Source,
    *,
    held_out: Source | None = None,
    descriptor: DescriptorConfig | Descriptor | None = None,
    config: ReplicationConfig | None = None,
    progress: ProgressFn | None = None,
) -> ReplicationResult:
    """Measure how much `generated` copies from `training`: folders, tables, opened image sets, or lists of paths of
    image files, Pillow images and uint8 arrays [H, W, 3].

    held_out: real images that were not trained on, for two reference levels for R. Those that turn out to be training
    images (equal bytes, or as similar as near-duplicates) are left out and listed.
    descriptor: replaces the config's; a loaded descriptor can be used for several calls.
    progress: called with (stage, done, total); see `raysys.replication.terminal_progress`.

    Unreadable images are listed in the result and not included in the figures. Raises InputError for a wrong path, a
    set without readable images, or sets that overlap (the same folder, or one inside the other).
    """
    config = config or ReplicationConfig()
    began, report = time.perf_counter(), progress or (lambda stage, done, total: None)
    sets = open_sets(generated, training, held_out)
    if descriptor is None or isinstance(descriptor, DescriptorConfig):
        descriptor = make_descriptor(descriptor or config.descriptor)
    with ExitStack() as stack:
        described: dict[str, DescribedSet] = {}
        seconds: dict[str, float] = {}
        for role, images in sets.items():
            clock = time.perf_counter()
            described[role] = _described(images, role, descriptor, config, report, stack)
            seconds[f"describe {role}"] = round(time.perf_counter() - clock, 3)
        clock = time.perf_counter()
        result = compare(
            described["generated"], described["training"], described.get("held_out"), descriptor, config, report
        )
        seconds["compare"] = round(time.perf_counter() - clock, 3)
    return replace(result, seconds=seconds | {"total": round(time.perf_counter() - began, 3)})


def open_sets(generated: Source, training: Source, held_out: Source | None) -> dict[str, ImageSet]:
    """{role: image set}. Raises InputError for a wrong path, or if one set contains another."""
    sets = {"generated": _opened(generated, "generated"), "training": _opened(training, "training")}
    if held_out is not None:
        sets["held_out"] = _opened(held_out, "held_out")
    for role, other in combinations(reversed(sets), 2):
        if isinstance(sets[role], ListedImages) or isinstance(sets[other], ListedImages):
            refuse_equal(sets[role], sets[other], (role, other))
        else:
            refuse_same(sets[role], sets[other], (role, other))
    return sets


def _opened(source: Source, role: str) -> ImageSet:
    return ListedImages(source, role) if isinstance(source, (list, tuple)) else open_images(source, role)


def _described(
    images: ImageSet,
    role: str,
    descriptor: Descriptor,
    config: ReplicationConfig,
    report: ProgressFn,
    stack: ExitStack,
) -> DescribedSet:
    described = DescribedSet(images, stack.enter_context(FeatureFile()))
    total = len(images)
    rows = describe(_decoded(images, config.decode, config.workers), descriptor, config.batch_images)
    for done, row in enumerate(rows, 1):
        if row["outcome"] == KEPT:
            described.features.append(row["image_id"], row["sample_id"], row["features"])
        else:
            fate = (row[name] for name in ("outcome", "reason", "detail"))
            described.unreadable.append(Unreadable(role, row["image_id"], *fate))
        if done == total or done % config.batch_images == 0:
            report(f"describe {role}", done, total)
    refuse_unreadable(described, role)
    return described


def _decoded(images: ImageSet, limits: DecodeConfig, workers: int) -> Iterator[LoadedImage]:
    """The images of a set in order; threads decode the next few in advance (Pillow releases the GIL)."""
    with ThreadPoolExecutor(workers) as pool:
        ahead: deque[Future[LoadedImage]] = deque()
        for image in images.images():
            ahead.append(pool.submit(_load, image, limits))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


def _load(image: RawImage, limits: DecodeConfig) -> LoadedImage:
    if image.data is None:
        return LoadedImage(image.id, None, None, image.fate)
    return load_image(image.id, image.data, limits)
