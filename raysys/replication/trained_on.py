"""The images that a model was trained on: all of a table, its representatives, or those of an assembled set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import InputError
from raysys.latents.parts import read_manifest, read_tables
from raysys.replication.inputs import ImageSet, RawImage, open_images
from raysys.replication.result import FACTS
from raysys.rows import SAMPLES
from raysys.tables import TableView, open_table
from raysys.tables.representatives import Representatives


def training_images(path: str, duplicates: TableView | None, training_set: str | None) -> ImageSet:
    """The images that were trained on: those of `training_set` if given, else the representatives according to
    `duplicates` if given, else all of `path`. Raises InputError if the tables do not belong together."""
    images = open_images(path, "training")
    if training_set is not None:
        return TrainedOn(images, training_set)
    if duplicates is None:
        return images
    ids = Representatives(open_table(path, SAMPLES), duplicates).ids()
    if not ids:
        raise InputError(
            f"duplicates: no representative of {duplicates.store.url} is an image of {path}",
            "give the duplicates of these samples",
        )
    return Subset(images, ids)


class Subset:
    """The images of a set whose ids are in `ids`."""

    def __init__(self, images: ImageSet, ids: Collection[str]) -> None:
        self.source, self._images, self._ids = images.source, images, frozenset(ids)

    def __len__(self) -> int:
        return len(self._ids)

    def signature(self) -> str:
        text = "\n".join([self._images.signature(), *sorted(self._ids)])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def ids(self) -> set[str]:
        return set(self._ids)

    def images(self) -> Iterator[RawImage]:
        return (image for image in self._images.images() if image.id in self._ids)

    def bytes_of(self, image_id: str) -> bytes:
        if image_id not in self._ids:
            raise KeyError(image_id)
        return self._images.bytes_of(image_id)

    def facts_of(self, ids: Collection[str]) -> dict[str, dict[str, str | None]]:
        return self._images.facts_of(ids)


class TrainedOn(Subset):
    """The images of an assembled set, without repetitions, with the set's captions and licenses.

    Raises InputError if one of them is not in `images`.
    """

    def __init__(self, images: ImageSet, training_set: str) -> None:
        tables = read_tables(training_set, ["row_id"])
        super().__init__(images, {row_id for table in tables for row_id in table["row_id"].to_pylist()})
        self._training_set = training_set
        if missing := sorted(self._ids - images.ids()):
            raise InputError(
                f"training_set: {len(missing):,} of {len(self):,} images of {training_set} are not in {images.source}, "
                f"e.g. {missing[0]}",
                "give the samples that this set was assembled from",
            )

    def signature(self) -> str:
        manifest = json.dumps(read_manifest(self._training_set), sort_keys=True)
        return hashlib.sha256(f"{super().signature()}{manifest}".encode()).hexdigest()[:16]

    def facts_of(self, ids: Collection[str]) -> dict[str, dict[str, str | None]]:
        wanted = pa.array(sorted(ids), pa.string())
        return {
            row["row_id"]: {name: row[name] for name in FACTS}
            for table in read_tables(self._training_set, ["row_id", *FACTS])
            for row in table.filter(pc.is_in(table["row_id"], wanted)).to_pylist()
        }
