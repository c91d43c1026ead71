"""The chunks of a table: fixed when the table is created, stored in `_plan.json`, extended when inputs are added."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from raysys.errors import InputError
from raysys.rows import ROW_TYPES, RowType
from raysys.tables.store import Store

OnChange = Literal["refuse", "recompute", "keep"]

PLAN = "_plan.json"
TABLE = "_table.json"


@dataclass(frozen=True)
class InputPart:
    """One input file or upstream part. `signature` changes if its contents change.

    origin: the SAMPLES part that this part descends from, directly or indirectly; "" for a raw input file.
    """

    name: str
    path: str
    n_items: int
    signature: str
    origin: str = ""


@dataclass(frozen=True)
class Chunk:
    """A fixed row range of one input part: the unit of work, of retry and of commit."""

    name: str
    part: InputPart
    start: int
    stop: int

    @property
    def file(self) -> str:
        return f"{self.name}.parquet"

    def retry_file(self, n: int) -> str:
        return f"{self.name}.r{n}.parquet"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Chunk:
        data = json.loads(text)
        return cls(data["name"], InputPart(**data["part"]), data["start"], data["stop"])


def fingerprint(fields: Mapping[str, Any]) -> str:
    """A hash (12 hex digits) of all values that change the result."""
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def chunks_of(parts: Sequence[InputPart], chunk_rows: int) -> list[Chunk]:
    """Split every input part into ranges of `chunk_rows` rows. Raises InputError if two parts map to the same name."""
    chunks, owner = [], {}
    for part in parts:
        stem = part.name.replace("/", "__")
        if (other := owner.setdefault(stem, part.name)) != part.name:
            raise InputError(f"inputs {other!r} and {part.name!r} have the same part name {stem!r}", "rename one")
        for k, start in enumerate(range(0, part.n_items, chunk_rows)):
            chunks.append(Chunk(f"{stem}.{k}", part, start, min(start + chunk_rows, part.n_items)))
    return chunks


@dataclass(frozen=True)
class Output:
    """A table being written by one producer: its folder, row type and chunks."""

    table: Store
    folder: Store
    row_type: RowType
    producer: str
    fingerprint: str
    chunks: tuple[Chunk, ...]
    is_kept: bool = False
    """Settings or inputs differ and on_change=keep: existing rows are used unchanged, and none may be added."""

    def done(self) -> set[str]:
        """Names of the chunks whose part is committed."""
        files = set(self.folder.names(".parquet"))
        return {c.name for c in self.chunks if c.file in files}

    def pending(self) -> list[Chunk]:
        """The chunks without a committed part, in order."""
        done = self.done()
        return [c for c in self.chunks if c.name not in done]


def folder_name(producer: str, digest: str) -> str:
    return f"{producer}-{digest}"


def open_output(
    path: str,
    row_type: RowType,
    producer: str,
    fields: Mapping[str, Any],
    parts: Sequence[InputPart],
    chunk_rows: int,
    on_change: OnChange = "refuse",
    dry_run: bool = False,
) -> Output:
    """Create, resume or extend the output of `producer` at `path`. With `dry_run`, nothing is written.

    `fields` is everything that changes the result; it makes the fingerprint. Raises InputError when the table holds
    another row type, when the fields differ from the current ones (listing what differs) or when inputs changed or
    vanished, unless `on_change` is
    recompute = write next to the old result (other fingerprint) or replace the parts of changed inputs, or keep = use
    the existing rows and add none (`is_kept`).
    """
    table = Store(path)
    fields = json.loads(json.dumps(fields))
    digest = fingerprint(fields)
    current = _check_table(table, row_type, producer, fields, digest, on_change)
    if current != digest:
        digest, stored = current, table.sub(folder_name(producer, current)).read_json(PLAN)
        assert stored is not None, "a current fingerprint always has a plan"
        return Output(
            table, table.sub(folder_name(producer, digest)), row_type, producer, digest, _chunks(stored), True
        )
    folder = table.sub(folder_name(producer, digest))
    stored = folder.read_json(PLAN)
    if on_change == "keep" and stored is not None and any(_input_changes(stored, parts)):
        return Output(table, folder, row_type, producer, digest, _chunks(stored), True)
    plan, stale = _merge_plan(folder, stored, parts, chunk_rows, on_change)
    plan |= {"producer": producer, "fingerprint": digest, "row_type": row_type.name, "fields": fields}
    if not dry_run:
        for name in stale:
            folder.remove(name)
        if plan != folder.read_json(PLAN):
            folder.write_json(PLAN, plan)
        _point(table, row_type, producer, digest)
    return Output(table, folder, row_type, producer, digest, _chunks(plan))


def _check_table(table: Store, row_type: RowType, producer: str, fields: dict, digest: str, on_change: str) -> str:
    """The fingerprint to use: `digest`, or the current one under on_change=keep."""
    info = table.read_json(TABLE)
    if info is None:
        return digest
    if info["row_type"] != row_type.name:
        raise InputError(
            f"output {table.url} holds {info['row_type']} rows, but this job writes {row_type.name}",
            "give another output folder",
        )
    current = info["current"].get(producer)
    if current is None or current == digest or on_change == "recompute":
        return digest
    if on_change == "keep":
        return current
    old = (table.sub(folder_name(producer, current)).read_json(PLAN) or {}).get("fields", {})
    differs = "".join(f"\n  - {line}" for line in differences(old, fields))
    raise InputError(
        f"output {table.url} was written by {producer} with other settings:{differs}",
        "--on-change recompute writes a new version next to the old one, --on-change keep uses the old one; "
        "or give another output folder",
    )


def differences(old: Any, new: Any, key: str = "") -> list[str]:
    """The differences of two nested mappings as text, e.g. ["seed: 0 → 1"]."""
    if isinstance(old, dict) and isinstance(new, dict):
        lines = []
        for k in sorted(set(old) | set(new)):
            lines += differences(old.get(k), new.get(k), f"{key}.{k}" if key else k)
        return lines
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [line for i, (a, b) in enumerate(zip(old, new, strict=True)) for line in differences(a, b, f"{key}.{i}")]
    return [] if old == new else [f"{key}: {old!r} → {new!r}"]


def _merge_plan(
    folder: Store, stored: dict | None, parts: Sequence[InputPart], chunk_rows: int, on_change: str
) -> tuple[dict[str, Any], list[str]]:
    """Stored plan + current inputs → (new plan, stale files of changed inputs). Stored row ranges do not change."""
    if stored is None:
        return _plan(parts, chunk_rows), []
    chunk_rows = stored["chunk_rows"]
    old = {p["name"]: InputPart(**p) for p in stored["inputs"]}
    new = {p.name: p for p in parts}
    gone, changed = _input_changes(stored, parts)
    if (gone or changed) and on_change == "refuse":
        what = [f"{n} is gone" for n in gone] + [f"{n} changed" for n in changed]
        raise InputError(
            f"inputs of {folder.url} have changed since it was created: {'; '.join(what[:5])}"
            + (f" (+{len(what) - 5} more)" if len(what) > 5 else ""),
            "restore them, or give --on-change recompute (redoes only these inputs) or --on-change keep",
        )
    stale_parts = [old[n] for n in (*gone, *changed)]
    prefixes = {c.name for c in chunks_of(stale_parts, chunk_rows)}
    stale = [n for n in folder.names(".parquet") if chunk_name_of(n) in prefixes]
    order = [new[n] for n in old if n in new] + [p for n, p in new.items() if n not in old]
    return _plan(order, chunk_rows), stale


def _input_changes(stored: dict, parts: Sequence[InputPart]) -> tuple[list[str], list[str]]:
    """(names of planned inputs that are gone, names of inputs whose contents have changed)."""
    old = {p["name"]: p["signature"] for p in stored["inputs"]}
    new = {p.name: p.signature for p in parts}
    return [n for n in old if n not in new], [n for n in new if n in old and new[n] != old[n]]


def chunk_name_of(file: str) -> str:
    """ "a.tar.0.r2.parquet" → "a.tar.0"."""
    stem = file.removesuffix(".parquet")
    head, dot, tail = stem.rpartition(".")
    return head if dot and tail[:1] == "r" and tail[1:].isdigit() else stem


def _plan(parts: Sequence[InputPart], chunk_rows: int) -> dict[str, Any]:
    chunks_of(parts, chunk_rows)  # raises for clashing names before anything is written
    return {"chunk_rows": chunk_rows, "inputs": [asdict(p) for p in parts]}


def _chunks(plan: Mapping[str, Any]) -> tuple[Chunk, ...]:
    return tuple(chunks_of([InputPart(**p) for p in plan["inputs"]], plan["chunk_rows"]))


def _point(table: Store, row_type: RowType, producer: str, digest: str) -> None:
    info = table.read_json(TABLE) or {"row_type": row_type.name, "current": {}}
    if info["current"].get(producer) != digest:
        info["current"][producer] = digest
        table.write_json(TABLE, info)


def reopen_output(
    path: str, producer: str, digest: str, fields: Mapping[str, Any], parts: Sequence[InputPart]
) -> Output:
    """An existing output, for a retry of some of its rows with the same settings and inputs.

    Raises InputError if `fields` or the contents of an input part differ. Added inputs do not matter.
    """
    output = load_output(path, producer, digest)
    stored = output.folder.read_json(PLAN)
    _, changed = _input_changes(stored, parts)
    lines = differences(stored["fields"], json.loads(json.dumps(fields))) + [f"input {name}" for name in changed]
    if lines:
        differs = "".join(f"\n  - {line}" for line in lines)
        raise InputError(
            f"rows of {output.folder.url} cannot be retried, because settings or inputs have changed:{differs}",
            "undo the change, or run the job itself with --on-change recompute",
        )
    return output


def planned_inputs(path: str, producer: str) -> list[InputPart]:
    """The inputs of the current output of `producer` as they were when it was planned; [] without such an output."""
    table = Store(path)
    current = (table.read_json(TABLE) or {"current": {}})["current"].get(producer)
    plan = None if current is None else table.sub(folder_name(producer, current)).read_json(PLAN)
    return [] if plan is None else [InputPart(**p) for p in plan["inputs"]]


def load_output(path: str, producer: str, digest: str) -> Output:
    """An existing output, as described by its plan. Raises InputError if it has no plan."""
    table = Store(path)
    folder = table.sub(folder_name(producer, digest))
    plan = folder.read_json(PLAN)
    if plan is None:
        raise InputError(f"{folder.url} has no {PLAN}", "run the job that writes it again")
    return Output(table, folder, ROW_TYPES[plan["row_type"]], producer, digest, _chunks(plan))
