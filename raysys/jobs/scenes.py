"""Job `scenes`: draw the embedded image domain as WebDataset tars with planted duplicates, licenses and damage."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raysys.config import Config, Place
from raysys.jobs.options import RunOptions
from raysys.jobs.outputs import refuse_limit, refuse_lost_path
from raysys.scenes.demo_shards import ScenesConfig, write_demo_shards


class JobConfig(Config):
    """Draw seeded scenes."""

    output: Place = Field(description="folder for train/, held_out/, fusion/ and truth.json")
    scenes: ScenesConfig = Field(ScenesConfig(), description="how many, and what is planted")


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write the shards; the same config gives the same bytes."""
    refuse_limit("scenes", options)
    refuse_lost_path(config.output)
    if options.dry_run:
        print(f"scenes would draw into {config.output} (nothing was written):\n  {config.scenes}")
        return {}
    truth = write_demo_shards(config.output, config.scenes)
    return {"output": config.output, "counts": truth["counts"]}
