"""Job `scenes`: draw synthetic images as WebDataset tars with planted duplicates, bad licenses and damaged files."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from raysys.config import Config, Place
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import refuse_limit, refuse_lost_path
from raysys.scenes.demo_shards import TRUTH, ScenesConfig, write_demo_shards
from raysys.tables.results import FolderPlan, FolderSummary, Plan, Summary


class JobConfig(Config):
    """Draw seeded scenes."""

    output: Place = Field(description="folder for train/, held_out/, fusion/ and truth.json")
    scenes: ScenesConfig = Field(ScenesConfig(), description="number of scenes; what is planted among them")


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write the shards; the same config gives the same bytes."""
    refuse_limit("scenes", options)
    refuse_lost_path(config.output, options)
    if options.dry_run:
        # Drawing again takes less time than checking the existing files, and gives the same bytes.
        state = "drawn again" if Path(config.output, TRUTH).is_file() else "new"
        return Plan({"scenes": FolderPlan("scenes", config.output, state, True, config.scenes.model_dump(mode="json"))})
    truth = write_demo_shards(config.output, config.scenes)
    counts = truth["counts"]
    values = {"samples": sum(split["in"] for split in counts.values()), "counts": counts}
    return Summary({"scenes": FolderSummary("scenes", config.output, values)})
