"""Job `replicate`: GENERATIONS × training SAMPLES → R and MATCHES rows; `raysys replication` is its short form."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from raysys.config import Config, dump
from raysys.errors import InputError
from raysys.jobs.inputs import complete
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import refuse_limit, refuse_lost_path
from raysys.latents.parts import read_tables
from raysys.outcomes import KEPT
from raysys.replication import ReplicationConfig, ReplicationResult, score
from raysys.replication.inputs import FACTS, ImageSet, RawImage, open_images
from raysys.replication.saved import save_result
from raysys.replication.score import terminal_progress
from raysys.rows import DUPLICATES, MATCHES
from raysys.tables import InputPart, Store, commit_part, open_output
from raysys.tables.plan import fingerprint


class JobConfig(Config):
    """Measure how much generations repeat of the training images."""

    generated: str = Field(description="folder of images or table of GENERATIONS rows")
    training: str = Field(description="folder of images or table of SAMPLES rows")
    duplicates: str | None = Field(
        None, description="table of DUPLICATES rows: only representatives count as training images"
    )
    training_set: str | None = Field(
        None, description="assembled set, in the place of duplicates: only its images count, with its captions"
    )
    held_out: str | None = Field(None, description="real images that were not trained on: the level of chance")
    output: str = Field(description="folder for replication.json and the table of MATCHES rows")
    replication: ReplicationConfig = Field(ReplicationConfig(), description="descriptor, number of matches kept")

    @model_validator(mode="after")
    def _one_choice_of_images(self) -> JobConfig:
        if self.duplicates is not None and self.training_set is not None:
            raise ValueError("duplicates and training_set both say which images count: give one of them")
        return self


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write `<output>/replication.json` and `<output>/matches`; the JSON without its matches is returned."""
    refuse_limit("replicate", options)
    refuse_lost_path(config.output)
    training = training_images(config.training, config.duplicates, config.training_set)
    if options.dry_run:
        generated = open_images(config.generated, "generated")
        print(f"replicate would compare {len(generated):,} generated with {len(training):,} training images")
        return {}
    result = measure(config, training)
    store = Store(config.output)
    save_result(store, result)
    store.write("config.yaml", dump(config).encode())
    _write_matches(config, result)
    return {k: v for k, v in result.to_dict().items() if k not in ("matches", "background", "unreadable")}


def measure(config: JobConfig, training: ImageSet) -> ReplicationResult:
    """The score, with progress lines."""
    with terminal_progress() as progress:
        return score(config.generated, training, held_out=config.held_out, config=config.replication, progress=progress)


def training_images(path: str, duplicates: str | None, training_set: str | None = None) -> ImageSet:
    """The images that were trained on: all of `path`, the representatives that `duplicates` kept, or those of an
    assembled set."""
    images = open_images(path, "training")
    if training_set is not None:
        return TrainedOn(images, training_set)
    if duplicates is None:
        return images
    ids = {
        row_id
        for table in complete(duplicates, DUPLICATES).rows(["row_id"], outcome=KEPT)
        for row_id in table["row_id"].to_pylist()
    }
    subset = Subset(images, ids & images.ids())
    if len(subset) == 0:
        raise InputError(
            f"duplicates: no representative of {duplicates} is an image of {path}",
            "give the duplicates of these samples",
        )
    return subset


class Subset:
    """The images of a set whose ids are in `ids`."""

    def __init__(self, images: ImageSet, ids: Collection[str]) -> None:
        self.source, self._images, self._ids = images.source, images, frozenset(ids)

    def __len__(self) -> int:
        return len(self._ids)

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
    """The images of an assembled set, each once however many copies it has, with the captions and licences there.

    Raises InputError when one of them is no image of `images`.
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

    def facts_of(self, ids: Collection[str]) -> dict[str, dict[str, str | None]]:
        wanted = pa.array(sorted(ids), pa.string())
        return {
            row["row_id"]: {name: row[name] for name in FACTS}
            for table in read_tables(self._training_set, ["row_id", *FACTS])
            for row in table.filter(pc.is_in(table["row_id"], wanted)).to_pylist()
        }


def _write_matches(config: JobConfig, result: ReplicationResult) -> None:
    rows = MATCHES.table(result.neighbours)
    fields = {"config": config.model_dump(mode="json"), "R": result.R}
    part = InputPart("matches", config.generated, len(rows), fingerprint(fields))
    output = open_output(
        f"{config.output}/matches", MATCHES, "replicate", fields, [part], max(len(rows), 1), "recompute"
    )
    commit_part(output.folder, output.chunks[0].file, rows)
