"""Commit a finished chunk as one Parquet part: check its keys, cast to the schema, publish atomically."""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysys.errors import InputError
from raysys.outcomes import Counts
from raysys.rows import RowType
from raysys.tables.store import Store

META = b"raysys"


class PartialChunkError(RuntimeError):
    """A chunk's rows are not exactly those that its input requires. Nothing of the chunk is written."""


Keys = Sequence[tuple]


def keys_of(table: pa.Table, columns: Sequence[str]) -> list[tuple]:
    """The key tuples of a table, in row order."""
    return list(zip(*(table.column(c).to_pylist() for c in columns), strict=True))


def check_keys(found: Keys, expected: Keys | None, n_expected: int | None, where: str) -> None:
    """Raise PartialChunkError unless the keys are unique and equal to `expected` (or `n_expected` in number)."""
    twice = [k for k, n in Counter(found).items() if n > 1]
    if twice:
        raise PartialChunkError(f"{where}: {len(twice)} keys occur more than once, first {twice[0]}")
    if n_expected is not None and len(found) != n_expected:
        raise PartialChunkError(f"{where}: {len(found)} rows, {n_expected} expected")
    if expected is not None and set(found) != set(expected):
        missing, extra = set(expected) - set(found), set(found) - set(expected)
        example = next(iter(missing or extra))
        raise PartialChunkError(f"{where}: {len(missing)} keys missing, {len(extra)} unknown, for example {example}")


def to_table(rows: Sequence[dict] | pa.Table, row_type: RowType) -> pa.Table:
    """Rows as an Arrow table with exactly the row type's schema (Arrow types may be lost in transit)."""
    if isinstance(rows, pa.Table):
        return rows.select(row_type.schema.names).cast(row_type.schema)
    return row_type.table(rows)


def counts_of(table: pa.Table) -> Counts:
    """The number of rows per fate."""
    counts = Counts()
    pairs = Counter(zip(table.column("outcome").to_pylist(), table.column("reason").to_pylist(), strict=True))
    for (outcome, reason), n in pairs.items():
        counts.add(outcome, reason, n)
    return counts


def commit_part(folder: Store, file: str, table: pa.Table, info: dict | None = None) -> Counts:
    """Publish `table` as `file`. The footer holds the counts (and `info`), so that status needs no row data.

    Committing a chunk twice, for example by a leftover worker of a lost cluster, replaces the part by the same rows.
    """
    counts = counts_of(table)
    footer = {"counts": counts.as_dict(), "content": content_hash(table), **(info or {})}
    meta = {**(table.schema.metadata or {}), META: json.dumps(footer).encode()}
    buffer = io.BytesIO()
    pq.write_table(table.replace_schema_metadata(meta), buffer, compression="zstd")
    folder.write(file, buffer.getvalue())
    return counts


def content_hash(table: pa.Table) -> str:
    """Hex digest of the rows, independent of compression; tells downstream tables whether a part has changed."""
    digest = hashlib.sha256()
    with pa.ipc.new_stream(_Hashing(digest), table.schema.remove_metadata()) as writer:
        for batch in table.combine_chunks().to_batches():
            writer.write_batch(batch)
    return digest.hexdigest()[:16]


class _Hashing(io.RawIOBase):
    """A write-only stream that hashes its data."""

    def __init__(self, digest: Any) -> None:
        self._digest = digest

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._digest.update(data)
        return memoryview(data).nbytes


def part_info(folder: Store, file: str) -> dict:
    """The footer written by `commit_part`, plus "num_rows". Raises InputError if the file is damaged."""
    with naming_damage(folder, file), folder.open(file) as f:
        metadata = pq.read_metadata(f)
    stored = (metadata.metadata or {}).get(META)
    return {"num_rows": metadata.num_rows, **(json.loads(stored) if stored else {})}


@contextmanager
def naming_damage(folder: Store, file: str) -> Iterator[None]:
    """Turn a read error of a damaged part into an InputError that names the path and the fix."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (pa.ArrowInvalid, OSError) as exc:
        raise InputError(
            f"part {folder.path(file)} is damaged: {exc}",
            "delete that file and run the job that wrote it again: only this chunk is redone",
        ) from exc
