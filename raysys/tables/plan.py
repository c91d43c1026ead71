"""The chunks of a table: fixed when the table is created, extended when inputs are added.

Plans and table records are documents with a `History`, so processes that open one table at the same moment see each
other: the later ones adopt the chunks of the first, or are refused.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from raysys.errors import InputError
from raysys.rows import ROW_TYPES, RowType
from raysys.tables.history import History
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
    """A fixed row range of one input part: the unit of work, of retry and of commit.

    edition: how many times the plan has replaced this input by changed contents. It is part of the file name, so a job
    that still works on the older contents cannot write a part that counts.
    """

    name: str
    part: InputPart
    start: int
    stop: int
    edition: int = 0

    @property
    def stem(self) -> str:
        """The name of the part without its ending; no other contents of the input ever have the same."""
        return f"{self.name}.e{self.edition}" if self.edition else self.name

    @property
    def file(self) -> str:
        return f"{self.stem}.parquet"

    def retry_file(self, n: int) -> str:
        return f"{self.stem}.r{n}.parquet"

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Chunk:
        data = json.loads(text)
        return cls(**{**data, "part": InputPart(**data["part"])})


def fingerprint(fields: Mapping[str, Any]) -> str:
    """A hash (12 hex digits) of all values that change the result."""
    canonical = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def chunks_of(parts: Sequence[InputPart], chunk_rows: int, editions: Mapping[str, int] | None = None) -> list[Chunk]:
    """Split every input part into ranges of `chunk_rows` rows. editions: {part: edition}, those above 0.

    Raises InputError if two parts map to the same name.
    """
    chunks, owner = [], {}
    for part in parts:
        stem = part.name.replace("/", "__")
        if stem in owner:
            raise InputError(f"inputs {owner[stem]!r} and {part.name!r} have the same part name {stem!r}", "rename one")
        owner[stem] = part.name
        edition = (editions or {}).get(part.name, 0)
        for k, start in enumerate(range(0, part.n_items, chunk_rows)):
            chunks.append(Chunk(f"{stem}.{k}", part, start, min(start + chunk_rows, part.n_items), edition))
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

    def fields(self) -> dict[str, Any]:
        """The settings that the fingerprint was made from."""
        return (_plan_of(self.folder).read() or {}).get("fields", {})

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

    `fields` is everything that changes the result; it makes the fingerprint. If several processes open the same new
    table at once, one of them fixes its row type and chunks, and the others proceed as if they had come later.

    Raises InputError when the table holds another row type, when the fields differ from the current ones (listing what
    differs) or when inputs changed or vanished, unless `on_change` is
    recompute = write next to the old result (other fingerprint) or replace the parts of changed inputs, or keep = use
    the existing rows and add none (`is_kept`).
    """
    table = Store(path)
    fields = json.loads(json.dumps(fields))
    digest = fingerprint(fields)
    record = History(table, TABLE)

    def point(info: dict | None) -> dict:
        chosen = _chosen(table, info, row_type, producer, fields, on_change)
        current = {} if info is None else info["current"]
        return {"row_type": row_type.name, "current": {**current, producer: chosen}}

    info = point(record.read())
    output = None
    if info["current"][producer] == digest:
        output = _plan_output(table, row_type, producer, fields, parts, chunk_rows, on_change, dry_run)
        if not dry_run:
            info = record.update(point)
    if (current := info["current"][producer]) != digest:
        output = replace(load_output(path, producer, current), row_type=row_type, is_kept=True)
    return output


def _chosen(
    table: Store, info: dict | None, row_type: RowType, producer: str, fields: dict, on_change: OnChange
) -> str:
    """The fingerprint to use: that of `fields`, or the current one under on_change=keep."""
    digest = fingerprint(fields)
    if info is None:
        return digest
    _check_row_type(table, info["row_type"], row_type)
    current = info["current"].get(producer)
    if current is None or current == digest or on_change == "recompute":
        return digest
    if on_change == "keep":
        return current
    old = load_output(table.url, producer, current).fields()
    differs = "".join(f"\n  - {line}" for line in differences(old, fields))
    raise InputError(
        f"output {table.url} was written by {producer} with other settings:{differs}",
        "--on-change recompute writes a new version next to the old one, --on-change keep uses the old one; "
        "or give another output folder",
    )


def _check_row_type(table: Store, found: str, row_type: RowType) -> None:
    if found != row_type.name:
        raise InputError(
            f"output {table.url} holds {found} rows, but this job writes {row_type.name}", "give another output folder"
        )


def _plan_output(
    table: Store,
    row_type: RowType,
    producer: str,
    fields: dict,
    parts: Sequence[InputPart],
    chunk_rows: int,
    on_change: OnChange,
    dry_run: bool,
) -> Output:
    """The output with these fields, after its plan has been created or extended."""
    digest = fingerprint(fields)
    folder = table.sub(folder_name(producer, digest))
    header = {"producer": producer, "fingerprint": digest, "row_type": row_type.name, "fields": fields}
    replaced: list[str] = []

    def extend(stored: dict | None) -> dict:
        if stored is not None:
            _check_row_type(table, stored["row_type"], row_type)
        if on_change == "keep" and stored is not None and any(_input_changes(stored, parts)):
            return stored
        replaced[:] = _replaced_chunks(stored, parts)
        return _extended(folder, stored, parts, chunk_rows, on_change) | header

    history = _plan_of(folder)
    plan = extend(history.read()) if dry_run else history.update(extend)
    if replaced and not dry_run:
        for name in folder.names(".parquet"):
            if stem_of(name) in replaced:
                folder.remove(name)
    is_kept = any(_input_changes(plan, parts))
    return Output(table, folder, row_type, producer, digest, _chunks(plan), is_kept)


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


def _extended(
    folder: Store, stored: dict | None, parts: Sequence[InputPart], chunk_rows: int, on_change: OnChange
) -> dict[str, Any]:
    """Stored plan + current inputs → new plan. Stored row ranges do not change."""
    if stored is None:
        return _plan(parts, chunk_rows, {})
    gone, changed = _input_changes(stored, parts)
    if (gone or changed) and on_change == "refuse":
        what = [f"{n} is gone" for n in gone] + [f"{n} changed" for n in changed]
        raise InputError(
            f"inputs of {folder.url} have changed since it was created: {'; '.join(what[:5])}"
            + (f" (+{len(what) - 5} more)" if len(what) > 5 else ""),
            "restore them, or give --on-change recompute (redoes only these inputs) or --on-change keep",
        )
    old, new = [p["name"] for p in stored["inputs"]], {p.name: p for p in parts}
    order = [new[n] for n in old if n in new] + [p for n, p in new.items() if n not in set(old)]
    editions = stored.get("editions", {})  # of inputs that are gone too: they may come back with other contents
    editions = editions | {n: editions.get(n, 0) + 1 for n in (*gone, *changed)}
    return _plan(order, stored["chunk_rows"], editions)


def _replaced_chunks(stored: dict | None, parts: Sequence[InputPart]) -> list[str]:
    """The stems of the planned chunks whose input is gone or has changed."""
    stale = set() if stored is None else {n for names in _input_changes(stored, parts) for n in names}
    return [c.stem for c in _chunks(stored) if c.part.name in stale] if stale else []


def _input_changes(stored: dict, parts: Sequence[InputPart]) -> tuple[list[str], list[str]]:
    """(names of planned inputs that are gone, names of inputs whose contents have changed)."""
    old = {p["name"]: (p["signature"], p["n_items"]) for p in stored["inputs"]}
    new = {p.name: (p.signature, p.n_items) for p in parts}
    return [n for n in old if n not in new], [n for n in new if n in old and new[n] != old[n]]


def stem_of(file: str) -> str:
    """The stem of the chunk that a part or a retry of it belongs to: "a.tar.0.e1.r2.parquet" → "a.tar.0.e1"."""
    return _without(file.removesuffix(".parquet"), "r")


def chunk_name_of(file: str) -> str:
    """The name of the chunk, in whatever edition: "a.tar.0.e1.r2.parquet" → "a.tar.0"."""
    return _without(stem_of(file), "e")


def _without(stem: str, letter: str) -> str:
    head, dot, tail = stem.rpartition(".")
    return head if dot and tail[:1] == letter and tail[1:].isdigit() else stem


def _plan(parts: Sequence[InputPart], chunk_rows: int, editions: Mapping[str, int]) -> dict[str, Any]:
    chunks_of(parts, chunk_rows)  # raises for clashing names before anything is written
    plan: dict[str, Any] = {"chunk_rows": chunk_rows, "inputs": [asdict(p) for p in parts]}
    return {**plan, "editions": dict(editions)} if editions else plan


def _chunks(plan: Mapping[str, Any]) -> tuple[Chunk, ...]:
    parts = [InputPart(**p) for p in plan["inputs"]]
    return tuple(chunks_of(parts, plan["chunk_rows"], plan.get("editions")))


def _check_plan(folder: Store, plan: Mapping[str, Any]) -> None:
    """Raise InputError if the planned chunks would overlap or leave rows out. No raysys writes such a plan."""
    names = [p["name"] for p in plan["inputs"]]
    wrong = [f"input {name!r} is planned {n} times" for name, n in Counter(names).items() if n > 1]
    wrong += [f"input {p['name']!r} has {p['n_items']} items" for p in plan["inputs"] if p["n_items"] < 0]
    wrong += [f"chunk_rows is {plan['chunk_rows']}"] if plan["chunk_rows"] < 1 else []
    if wrong:
        raise InputError(f"the plan of {folder.url} is damaged: {wrong[0]}", "restore it, or delete this folder")


def _plan_of(folder: Store) -> History:
    return History(folder, PLAN)


def reopen_output(
    path: str, producer: str, digest: str, fields: Mapping[str, Any], parts: Sequence[InputPart]
) -> Output:
    """An existing output, for a retry of some of its rows with the same settings and inputs.

    Raises InputError if `fields` or the contents of an input part differ. Added inputs do not matter.
    """
    output = load_output(path, producer, digest)
    stored = _plan_of(output.folder).read()
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
    current = (History(table, TABLE).read() or {"current": {}})["current"].get(producer)
    plan = None if current is None else _plan_of(table.sub(folder_name(producer, current))).read()
    return [] if plan is None else [InputPart(**p) for p in plan["inputs"]]


def load_output(path: str, producer: str, digest: str) -> Output:
    """An existing output, as described by its plan. Raises InputError if it has no plan."""
    table = Store(path)
    folder = table.sub(folder_name(producer, digest))
    plan = _plan_of(folder).read()
    if plan is None:
        raise InputError(f"{folder.url} has no {PLAN}", "run the job that writes it again")
    _check_plan(folder, plan)
    return Output(table, folder, ROW_TYPES[plan["row_type"]], producer, digest, _chunks(plan))
