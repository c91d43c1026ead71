"""Prompts from an assembled training set, a table with captions, or a .txt or .jsonl file."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysys.errors import InputError
from raysys.latents.parts import MANIFEST, read_manifest, set_identity
from raysys.tables import Chunk, InputPart, open_table
from raysys.tables.kept_rows import KeptRows
from raysys.tables.plan import TABLE


def prompt_source(path: str) -> tuple[list[InputPart], Any, dict[str, Any]]:
    """(input parts, loader of a chunk's [prompt_id, prompt] items, fields that identify the prompts) of any source.

    Raises InputError if there are no prompts at `path`.
    """
    folder = Path(path)
    if (folder / MANIFEST).is_file():
        return _training_set(folder)
    if folder.is_file():
        return _text_file(folder)
    if (folder / TABLE).is_file() or "://" in path:
        view = open_table(path)
        if "caption" not in view.row_type.schema.names:
            raise InputError(f"prompts: {view.row_type.name} rows of {path} have no captions", "give another table")
        load = TablePrompts(KeptRows.of(view, ("row_id", "caption")))
        return view.inputs(), load, {"table": view.lineage}
    raise InputError(
        f"prompts: {path} is not a training set, table or file", "give one of these; files end in .txt or .jsonl"
    )


@dataclass(frozen=True)
class TablePrompts:
    """Loads the captions of a raysys table as prompts."""

    rows: KeptRows

    def __call__(self, chunk: Chunk) -> pa.Table:
        return self.rows(chunk).select(["row_id", "caption"]).rename_columns(["prompt_id", "prompt"])


def _training_set(folder: Path) -> tuple[list[InputPart], Any, dict[str, Any]]:
    parts = [
        InputPart(part["name"], str((folder / part["name"]).resolve()), part["rows"], part["sha256"][:16])
        for part in read_manifest(folder)["parts"]
    ]
    return parts, training_set_prompts, {"training_set": set_identity(folder)}


def training_set_prompts(chunk: Chunk) -> pa.Table:
    """The captions of an assembled set, each sample once: repeated duplicates give one prompt, and of several captions
    the first is used."""
    columns = ["row_id", "copy", "captions"]
    with pq.ParquetFile(chunk.part.path) as file:
        table = file.read(columns).slice(chunk.start, chunk.stop - chunk.start)
    table = table.filter(pa.compute.equal(table["copy"], 0))
    return pa.table({"prompt_id": table["row_id"], "prompt": pa.compute.list_element(table["captions"], 0)})


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
    """Read the prompts of a .txt file (ids are line numbers) or a .jsonl file. Raises InputError naming a bad line."""
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as exc:
        raise InputError(f"prompts: {path} is not UTF-8: {exc}", "save it as UTF-8") from None
    lines = text.split("\n")  # not splitlines(): prompts may contain other line separators
    if not path.endswith(".jsonl"):
        prompts = [{"prompt_id": f"{i:06d}", "prompt": line.strip()} for i, line in enumerate(lines) if line.strip()]
    else:
        prompts = [_json_prompt(path, i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not prompts:
        raise InputError(f"prompts: {path} is empty", "write one prompt per line")
    ids = [p["prompt_id"] for p in prompts]
    if len(set(ids)) != len(ids):
        raise InputError(f"prompts: {path} has duplicate prompt_ids", "make them unique")
    return tuple(prompts)


def _json_prompt(path: str, number: int, line: str) -> dict[str, str]:
    try:
        row = json.loads(line)
        return {"prompt_id": str(row["prompt_id"]), "prompt": str(row["prompt"])}
    except (ValueError, KeyError, TypeError) as exc:
        raise InputError(
            f"prompts: {path} line {number} is not {{prompt_id, prompt}}: {exc!r}", "correct this line"
        ) from None
