"""Job `ingest`: shards → SAMPLES, one row per input item, whether it is kept, rejected or an error."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import pyarrow as pa
from pydantic import Field

from raysys.config import OPERATIONAL, Config, Place
from raysys.engine.config import ClusterConfig
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import run_table
from raysys.rows import SAMPLES
from raysys.shards.folder import stored_items, write_items
from raysys.shards.ingest import IngestConfig, advice, core_seconds, ingest_rows
from raysys.shards.inputs import InputFile, list_inputs
from raysys.tables import Chunk, InputPart, Store
from raysys.tables.job import TableJob
from raysys.tables.plan import planned_inputs
from raysys.tables.results import Plan, Summary
from raysys.tables.stage import Stage


class JobConfig(Config):
    """Read shards, Parquet or a folder; check every image, caption and license."""

    input: Place | Annotated[tuple[Place, ...], Field(min_length=1)] = Field(
        description="path, URL or pattern (data/*.tar, {00000..00099}.tar), or a list of them: WebDataset tars, "
        "Parquet or saved Hugging Face datasets with images or image paths, image folders, CSV or JSONL indexes. In a "
        "tar, a key ends at the first dot of the file name (a.b.jpg belongs to sample a), as in webdataset"
    )
    output: Place = Field(description="output table of SAMPLES rows")
    ingest: IngestConfig = Field(IngestConfig(), description="columns, filters and licenses")
    chunk_rows: Annotated[int, OPERATIONAL] = Field(
        10_000, ge=1, description="rows per chunk; a chunk is redone if its worker is killed"
    )
    cluster: ClusterConfig = Field(ClusterConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> Plan | Summary:
    """Write the SAMPLES table of `config.input`."""
    rules = config.ingest.model_copy(update={"columns": config.ingest.columns.absolute()})
    table = Store(config.output)
    # Counting reads the headers of every tar, so a resumed run counts only new and changed files.
    files = list_inputs(
        config.input,
        planned_inputs(config.output, "ingest"),
        rules.columns,
        items_of=lambda signature: stored_items(table.path(_items_file(signature))),
        recount=options.on_change == "recompute",
    )
    lists = {_items_file(f.signature): write_items(f.items) for f in files if f.items is not None}
    # Workers read the items of a folder from the table: the listing of a large folder is megabytes.
    read = tuple(f if f.items is None else replace(f, items=table.path(_items_file(f.signature))) for f in files)
    result = run_table(
        TableJob(
            job="ingest",
            output=config.output,
            row_type=SAMPLES,
            fields=config.identity(),
            parts=[InputPart(f.name, f.path, f.n_items, f.signature) for f in files],
            chunk_rows=config.chunk_rows,
            load=positions,
            stage=Ingest,
            args=(read, rules),
            cluster=config.cluster,
            files=lists,
            core_seconds=core_seconds(files),
        ),
        config,
        options,
    )
    return result if isinstance(result, Plan) else replace(result, notes=_advice(result))


def _advice(summary: Summary) -> tuple[str, ...]:
    rows = summary.steps["ingest"].rows if "ingest" in summary.steps else {"kept": 1}
    return () if rows["kept"] else advice(rows["rejected"])


def _items_file(signature: str) -> str:
    """Where the table keeps the items of a part of an image folder."""
    return f"_inputs/{signature}.parquet"


def positions(chunk: Chunk) -> pa.Table:
    """The items of a chunk as positions in a shard. The stage reads the images itself, so no image is transferred."""
    n = chunk.stop - chunk.start
    return pa.table({"file": [chunk.part.name] * n, "index": pa.array(range(chunk.start, chunk.stop), pa.int64())})


class Ingest(Stage):
    """`ingest_rows` for consecutive positions of one file."""

    name, keyed = "ingest", False

    def __init__(self, files: tuple[InputFile, ...], config: IngestConfig) -> None:
        self._files = {f.name: f for f in files}
        self._config = config

    def __call__(self, items: pa.Table) -> list[dict[str, Any]]:
        file = self._files[items["file"][0].as_py()]
        start, stop = items["index"][0].as_py(), items["index"][-1].as_py() + 1
        return list(ingest_rows(file, start, stop, self._config))

    def expand(self, item: dict[str, Any]) -> list[dict[str, Any]]:
        """The row of a failed item, named by its position: the key of a sample must be read from the shard."""
        return [{"row_id": f"{item['file']}/#{item['index']}", "shard": self._files[item["file"]].path}]
