"""Job `replicate`: features of GENERATIONS × features of training SAMPLES → R and MATCHES."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, model_validator

from raysys.config import OPERATIONAL, Config, Place
from raysys.engine.config import ClusterConfig
from raysys.jobs import describe
from raysys.jobs.inputs import complete
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import FolderJob, refuse_limit, run_folder
from raysys.replication.config import FeatureTables, ReplicationConfig
from raysys.replication.described import measure
from raysys.replication.inputs import ImageSet
from raysys.replication.saved import write_result
from raysys.replication.score import open_sets
from raysys.replication.trained_on import training_images
from raysys.rows import DUPLICATES
from raysys.shards.describe import stated
from raysys.similarity import descriptor_facts
from raysys.tables import TableView
from raysys.tables.results import FolderPlan, Plan, Summary


class JobConfig(Config):
    """Measure how closely generations replicate training images."""

    generated: Place = Field(description="folder of images or table of GENERATIONS rows")
    training: Place = Field(description="folder of images or table of SAMPLES rows")
    duplicates: Place | None = Field(
        None, description="table of DUPLICATES rows: only representatives count as training images"
    )
    training_set: Place | None = Field(
        None, description="assembled set, instead of duplicates: only its images and captions count as training data"
    )
    held_out: Place | None = Field(None, description="real images that were not trained on, as a reference level for R")
    features: Annotated[FeatureTables, OPERATIONAL] = Field(
        FeatureTables(), description="tables of FEATURES rows; missing rows are computed first"
    )
    output: Place = Field(description="folder for replication.json and the table of MATCHES rows")
    replication: ReplicationConfig = Field(ReplicationConfig(), description="descriptor, number of matches kept")
    chunk_rows: Annotated[int, OPERATIONAL] = Field(
        512, ge=1, description="images per chunk of features; a chunk is redone if its worker is killed"
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="use of the cluster")

    @model_validator(mode="after")
    def _one_choice_of_images(self) -> JobConfig:
        if self.duplicates is not None and self.training_set is not None:
            raise ValueError("duplicates and training_set both select the training images: give one of them")
        return self


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write `<output>/replication.json` and `<output>/matches`; the summary holds the results."""
    refuse_limit("replicate", options)
    duplicates = complete(config.duplicates, DUPLICATES) if config.duplicates is not None else None
    training = training_images(config.training, duplicates, config.training_set)
    sets = open_sets(config.generated, training, config.held_out)
    to_describe = describe_configs(config)
    described = describe.describe_missing({f"features of {role}": c for role, c in to_describe.items()}, options)
    if options.dry_run and described:
        measured = FolderPlan("replicate", config.output, "waits for the features", True, _facts(sets))
        return Plan({**described, "replication": measured})
    features = {role: describe.features(one) for role, one in to_describe.items()}

    def write(folder: Path) -> dict[str, Any]:
        result = measure(sets, features, config.replication)
        write_result(str(folder), result)
        return result.summary()

    job = FolderJob("replicate", config.output, _fields(config, sets, features), write, lambda: _facts(sets))
    made = run_folder(job, config, options)
    return type(made)({**described, "replication": made.steps["replicate"]})


def _facts(sets: dict[str, ImageSet]) -> dict[str, int]:
    return {f"{role} images": len(images) for role, images in sets.items()}


def describe_configs(config: JobConfig) -> dict[str, describe.JobConfig]:
    """{role: the job that describes its images}; roles are generated, training and held_out."""
    shared = {"chunk_rows": config.chunk_rows, "cluster": config.cluster}
    shared |= {"descriptor": config.replication.descriptor, "decode": config.replication.decode}
    images = {"generated": config.generated, "training": config.training, "held_out": config.held_out}
    return {
        role: describe.JobConfig(
            images=path, output=getattr(config.features, role) or f"{config.output}-features/{role}", **shared
        )
        for role, path in images.items()
        if path is not None
    }


def _fields(config: JobConfig, sets: dict[str, ImageSet], features: dict[str, TableView]) -> dict[str, Any]:
    """Everything that changes the result; image sets are identified by their contents."""
    return {
        **{role: images.signature() for role, images in sets.items()},
        "features": {role: view.identity for role, view in features.items()},
        **stated(descriptor_facts(config.replication.descriptor)),
        "replication": config.replication.identity(),
    }
