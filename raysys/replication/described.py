"""FEATURES tables → described image sets for the comparison, with memory-mapped features."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from raysys.errors import InputError
from raysys.outcomes import KEPT
from raysys.replication.compare import DescribedSet, compare
from raysys.replication.config import ReplicationConfig
from raysys.replication.inputs import ImageSet
from raysys.replication.result import ReplicationResult, Unreadable
from raysys.replication.terminal import terminal_progress
from raysys.similarity import descriptor_facts
from raysys.similarity.feature_file import FeatureFile
from raysys.tables import TableView

_FATE = ("outcome", "reason", "detail")


def measure(
    sets: Mapping[str, ImageSet], features: Mapping[str, TableView], config: ReplicationConfig
) -> ReplicationResult:
    """The result for the image sets "generated", "training" and optionally "held_out", with progress lines.

    features: for each set, a FEATURES table of one producer; images that are not in the set are ignored.
    """
    with ExitStack() as stack, terminal_progress() as progress:
        described = {role: described_set(sets[role], features[role], role, stack) for role in sets}
        held_out, descriptor = described.get("held_out"), descriptor_facts(config.descriptor)
        return compare(described["generated"], described["training"], held_out, descriptor, config, progress)


def described_set(images: ImageSet, features: TableView, role: str, stack: ExitStack) -> DescribedSet:
    """The images of a set with their rows of a FEATURES table of one producer; `stack` closes the file of features.

    Images that could not be described, or are missing in the table, are listed as unreadable. Raises InputError if no
    image is left.
    """
    wanted = images.ids()
    described = DescribedSet(images, stack.enter_context(FeatureFile()))
    for table in features.rows(["image_id", "sample_id", "features", *_FATE], outcome=None):
        rows = table.to_pylist()
        for row in rows:
            if row["image_id"] not in wanted:
                continue
            wanted.remove(row["image_id"])
            if row["outcome"] == KEPT:
                described.features.append(row["image_id"], row["sample_id"], row["features"])
            else:
                described.unreadable.append(Unreadable(role, row["image_id"], *(row[name] for name in _FATE)))
    missing = [Unreadable(role, name, "error", "not_described", None) for name in sorted(wanted)]
    described.unreadable.extend(missing)
    refuse_unreadable(described, role)
    return described


def refuse_unreadable(described: DescribedSet, role: str) -> None:
    """Raise InputError if no image of a set could be described."""
    if len(described.features) == 0:
        first = described.unreadable[0]
        raise InputError(
            f"{role}: none of the {len(described.images)} images in {described.images.source} can be read, "
            f"e.g. {first.id}: {first.reason}",
            "give a folder with readable images",
        )
