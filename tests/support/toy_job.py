"""A generic table job for the kill tests, run through the real command line: `python tests/support/toy_job.py toy …`.

Each item takes `seconds`; items in `fail` raise until the file `fixed` exists; those in `deadly` kill their worker;
those in `breaking` break the engine in it, in the first part only.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pyarrow as pa
from pydantic import Field

from raysys.cli import main
from raysys.config import Config
from raysys.engine.config import ClusterConfig
from raysys.errors import WorkerBroken
from raysys.jobs import register
from raysys.jobs.options import RunOptions
from raysys.jobs.registry import JobInfo
from raysys.jobs.run_table import run_table
from raysys.outcomes import kept, rejected
from raysys.rows import SAMPLES
from raysys.tables import Chunk, InputPart
from raysys.tables.job import TableJob
from raysys.tables.results import Plan, Summary
from raysys.tables.stage import Stage


class JobConfig(Config):
    """A job that does nothing, slowly."""

    output: str = Field(description="table")
    n_parts: int = Field(4, description="input parts")
    n_items: int = Field(30, description="items per part")
    chunk_rows: int = Field(10, description="rows per chunk")
    seconds: float = Field(0.0, description="seconds per item")
    heavy: bool = Field(False, description="actor pool instead of tasks")
    fail: tuple[int, ...] = Field((), description="items that raise until `fixed` exists")
    deadly: tuple[int, ...] = Field((), description="items that kill their worker")
    breaking: tuple[int, ...] = Field((), description="items of the first part that break their worker's engine")
    load: str = Field("", description="`dies` or `raises`: what happens while a worker builds the stage")
    fixed: str = Field("/nonexistent", description="file that repairs the failing items")
    cluster: ClusterConfig = Field(ClusterConfig(max_error_fraction=0.5), description="use of the cluster")


class Toy(Stage):
    """One row per item; every fifth is rejected."""

    name = "toy"

    def __init__(self, config: JobConfig) -> None:
        self.config = config
        if config.load == "dies":
            os.kill(os.getpid(), signal.SIGKILL)
        if config.load == "raises":
            raise RuntimeError("no room for the weights")

    def __call__(self, items: pa.Table) -> list[dict]:
        return [self.row(item) for item in items.to_pylist()]

    def row(self, item: dict) -> dict:
        config, i = self.config, item["i"]
        time.sleep(config.seconds)
        if i in config.fail and not Path(config.fixed).exists():
            raise ValueError(f"item {i} fails")
        if i in config.breaking and item["part"] == "part0":
            raise WorkerBroken("the engine died")
        if i in config.deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return {"row_id": f"{item['part']}/{i}", "caption": f"c{i}", **(rejected("fifth") if i % 5 == 4 else kept())}

    def expand(self, item: dict) -> list[dict]:
        return [{"row_id": f"{item['part']}/{item['i']}"}]


class HeavyToy(Toy):
    """The same as a stage that loads a model: it gets actors."""

    heavy = True


def load(chunk: Chunk) -> pa.Table:
    return pa.table({"part": [chunk.part.name] * (chunk.stop - chunk.start), "i": list(range(chunk.start, chunk.stop))})


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    parts = [InputPart(f"part{p}", f"/in/{p}", config.n_items, "s") for p in range(config.n_parts)]
    job = TableJob(
        job="toy",
        output=config.output,
        row_type=SAMPLES,
        fields={"fail": list(config.fail)},
        parts=parts,
        chunk_rows=config.chunk_rows,
        load=load,
        stage=HeavyToy if config.heavy else Toy,
        args=(config,),
        cluster=config.cluster,
    )
    return run_table(job, config, options)


def expected_keys(config: JobConfig) -> list[str]:
    return sorted(f"part{p}/{i}" for p in range(config.n_parts) for i in range(config.n_items))


if __name__ == "__main__":
    # Workers import this module by name, so the job's classes must not live in __main__.
    from tests.support import toy_job

    register(JobInfo("toy", "tests.support.toy_job", "Does nothing, slowly.", "toy"))
    assert toy_job
    main(sys.argv[1:])
