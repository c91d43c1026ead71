"""Job `generate`: prompts → GENERATIONS, seeded per prompt."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from raysys.config import Config
from raysys.engine.config import EngineConfig
from raysys.errors import InputError
from raysys.generation.generate import Generate, GenerateConfig
from raysys.jobs.inputs import KeptRows
from raysys.jobs.options import RunOptions
from raysys.jobs.run_table import TableJob, run_table
from raysys.jobs.stages import RowStage
from raysys.latents.parts import MANIFEST
from raysys.models.loading import model_hash
from raysys.rows import GENERATIONS
from raysys.tables import Chunk, InputPart, open_table
from raysys.tables.plan import TABLE


class JobConfig(Config):
    """Generate images for a table of prompts."""

    prompts: str = Field(
        description="an assembled training set, a table with captions, a .txt (one prompt a line) or a .jsonl file "
        "({prompt_id, prompt} a line)"
    )
    output: str = Field(description="output table of GENERATIONS rows")
    generate: GenerateConfig = Field(description="model, seed, guidance, steps")
    chunk_rows: int = Field(
        64, ge=1, description="prompts per chunk; batches are cut inside a chunk, so they are fixed"
    )
    export: str | None = Field(
        None, description="also write PNG files and metadata.jsonl (diffusers' imagefolder) here"
    )
    engine: EngineConfig = Field(EngineConfig(), description="use of the cluster")


def run(config: JobConfig, options: RunOptions) -> dict[str, Any]:
    """Write the GENERATIONS table. The same prompt id and seed give the same image bytes."""
    if config.export is not None and "://" in config.export:
        raise InputError(f"export {config.export!r} is no local folder", "the table itself may lie on an object store")
    parts, load, source = prompt_source(config.prompts)
    generate = config.generate
    fields = generate.model_dump(mode="json", exclude={"device", "model"}) | {
        "model_hash": model_hash(generate.model),
        "prompts": source,
        "chunk_rows": config.chunk_rows,
    }
    record = run_table(
        TableJob(
            job="generate",
            output=config.output,
            row_type=GENERATIONS,
            fields=fields,
            parts=parts,
            chunk_rows=config.chunk_rows,
            load=load,
            stage=(RowStage, ("generate", Generate, (generate,), partial(_expected, generate))),
            engine=config.engine,
            heavy=True,
        ),
        config,
        options,
    )
    if config.export is not None and not options.dry_run:
        record["exported"] = export_images(config.output, Path(config.export))
    return record


def export_images(table: str, folder: Path) -> int:
    """Write every kept generation as `<gen_id>.png` and one metadata.jsonl; the number of images. Safe to repeat.

    Characters that a file name cannot hold are percent-encoded, so that two ids are never one file. PNG files of an
    earlier export that are no generation of this table are removed: they would be measured as if they were.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lines, names = [], set()
    for rows in open_table(table, GENERATIONS).rows():
        for row in rows.to_pylist():
            name = quote(row["gen_id"], safe=" ") + ".png"
            names.add(name)
            (folder / name).write_bytes(row.pop("image"))
            lines.append(json.dumps({"file_name": name, **row}, ensure_ascii=False))
    metadata = folder / "metadata.jsonl"
    earlier = metadata.read_text(encoding="utf-8").splitlines() if metadata.exists() else []
    for stale in {json.loads(line)["file_name"] for line in earlier} - names:
        (folder / stale).unlink(missing_ok=True)
    metadata.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(lines)


def _expected(config: GenerateConfig, item: dict[str, Any]) -> list[dict[str, Any]]:
    """The rows that one prompt must end as."""
    return [
        {"gen_id": f"{item['prompt_id']}-{i}", "index": i, "seed": config.seed}
        | {name: item[name] for name in ("prompt_id", "prompt")}
        for i in range(config.num_images_per_prompt)
    ]


def prompt_source(path: str) -> tuple[list[InputPart], Any, dict[str, Any]]:
    """(input parts, chunk → [prompt_id, prompt] items, what identifies the prompts) of any kind of prompt source."""
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        return _training_set(folder)
    if folder.is_file():
        return _text_file(folder)
    if (folder / TABLE).is_file() or "://" in path:
        view = open_table(path)
        if "caption" not in view.row_type.schema.names:
            raise InputError(f"prompts: {view.row_type.name} rows of {path} have no caption", "give another table")
        load = TablePrompts(KeptRows.of(view, None, ("row_id", "caption")))
        return view.inputs(), load, {"table": view.lineage}
    raise InputError(f"prompts: {path} is no training set, table or file", "give a folder with prompts, .txt or .jsonl")


@dataclass(frozen=True)
class TablePrompts:
    """Captions of a raysys table as prompts."""

    rows: KeptRows

    def __call__(self, chunk: Chunk) -> pa.Table:
        return self.rows(chunk).select(["row_id", "caption"]).rename_columns(["prompt_id", "prompt"])


def _training_set(folder: Path) -> tuple[list[InputPart], Any, dict[str, Any]]:
    manifest = json.loads((folder / MANIFEST).read_text())
    parts = []
    for file in sorted(folder.glob("*.parquet")):
        digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
        parts.append(InputPart(file.name, str(file.resolve()), pq.read_metadata(file).num_rows, digest))
    return parts, training_set_prompts, {"training_set": manifest["notes"]}


def training_set_prompts(chunk: Chunk) -> pa.Table:
    """The captions of an assembled set, each sample once (copies of a duplicate are one prompt)."""
    columns = ["row_id", "copy", "caption"]
    with pq.ParquetFile(chunk.part.path) as file:
        table = file.read(columns).slice(chunk.start, chunk.stop - chunk.start)
    table = table.filter(pa.compute.equal(table["copy"], 0))
    return table.select(["row_id", "caption"]).rename_columns(["prompt_id", "prompt"])


def _text_file(file: Path) -> tuple[list[InputPart], Any, dict[str, Any]]:
    prompts = read_prompts(str(file))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    part = InputPart(file.name, str(file.resolve()), len(prompts), digest[:16])
    return [part], file_prompts, {"file": digest}


def file_prompts(chunk: Chunk) -> pa.Table:
    return pa.Table.from_pylist(
        list(read_prompts(chunk.part.path)[chunk.start : chunk.stop]),
        schema=pa.schema([("prompt_id", pa.string()), ("prompt", pa.string())]),
    )


@lru_cache(maxsize=2)
def read_prompts(path: str) -> tuple[dict[str, str], ...]:
    """Prompts of a .txt (ids are line numbers) or .jsonl file. InputError names the bad line."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(f"prompts: {path} is not UTF-8: {exc}", "save it as UTF-8") from None
    lines = text.split("\n")  # not splitlines: a prompt may hold other line separators
    if not path.endswith(".jsonl"):
        prompts = [{"prompt_id": f"{i:06d}", "prompt": line.strip()} for i, line in enumerate(lines) if line.strip()]
    else:
        prompts = [_json_prompt(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise InputError(f"prompts: {path} is empty", "write one prompt a line")
    ids = [p["prompt_id"] for p in prompts]
    if len(set(ids)) != len(ids):
        raise InputError(f"prompts: {path} has prompt_ids that occur twice", "make them unique")
    return tuple(prompts)


def _json_prompt(path: str, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
        return {"prompt_id": str(row["prompt_id"]), "prompt": str(row["prompt"])}
    except (ValueError, KeyError, TypeError) as exc:
        raise InputError(
            f"prompts: {path} line {number} is not {{prompt_id, prompt}}: {exc!r}", "correct that line"
        ) from None
