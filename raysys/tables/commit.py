"""Commit a finished chunk as one Parquet part: check its keys, cast to the schema, publish atomically."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.errors import InputError
from raysys.outcomes import KEPT, Counts
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
    for n in pc.value_counts(table.column("outcome")).to_pylist():
        if n["values"] == KEPT:
            counts.add(KEPT, n=n["counts"])
            continue
        reasons = table.filter(pc.equal(table["outcome"], n["values"])).column("reason")
        for group in pc.value_counts(_reason_groups(reasons)).to_pylist():
            counts.add(n["values"], group["values"], group["counts"])
    return counts


def _reason_groups(reasons: pa.ChunkedArray) -> pa.ChunkedArray:
    """`outcomes.reason_group` of a column. Distinct reasons may be as many as rows, e.g. `duplicate_of:<id>`."""
    return pc.replace_substring_regex(reasons, "(?s):.*", "")


def commit_part(folder: Store, file: str, table: pa.Table, info: dict | None = None) -> Counts:
    """Publish `table` as `file`. The footer holds the counts (and `info`), so that status needs no row data.

    It also holds the number and the CRC-32 of the bytes before it, and every page has a checksum of its own: `verify`
    checks the former, every reader checks the pages that it reads.
    Committing a chunk twice, for example by a leftover worker of a lost cluster, replaces the part by the same rows.
    """
    counts = counts_of(table)
    footer = {"counts": counts.as_dict(), "content": content_hash(table), **(info or {})}
    buffer = io.BytesIO()
    with pq.ParquetWriter(buffer, table.schema, compression="zstd", write_page_checksum=True) as writer:
        writer.write_table(table)
        with buffer.getbuffer() as data:
            footer |= {"data_bytes": len(data), "data_crc32": zlib.crc32(data)}
        writer.add_key_value_metadata({META: json.dumps(footer).encode()})
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


@contextmanager
def open_part(folder: Store, file: str) -> Iterator[pq.ParquetFile]:
    """A part for reading. Whatever is read from it raises InputError if it is damaged."""
    with naming_damage(folder, file):
        if folder.is_local:
            with pq.ParquetFile(folder.path(file), page_checksum_verification=True) as parquet:
                yield parquet
            return
        with (
            folder.open(file) as f,
            pq.ParquetFile(f, pre_buffer=False, page_checksum_verification=True) as parquet,
        ):
            yield parquet


def read_columns(folder: Store, file: str, columns: list[str] | None) -> pa.Table:
    """Columns of a part (None = all)."""
    # Arrow's threads release their objects shortly after the rows are returned. If one of these is a Python file, a
    # process that exits at this moment is aborted, so Python files are read without threads. pq.read_table is not used,
    # because its dataset reader always prefetches in threads.
    with open_part(folder, file) as parquet:
        return parquet.read(columns, use_threads=folder.is_local)


def part_info(folder: Store, file: str) -> dict:
    """The footer written by `commit_part`, plus "num_rows". Raises InputError if the file is damaged."""
    with open_part(folder, file) as parquet:
        return info_of(parquet)


def info_of(parquet: pq.ParquetFile) -> dict:
    """The same for an open part."""
    stored = (parquet.metadata.metadata or {}).get(META)
    return {"num_rows": parquet.metadata.num_rows, **(json.loads(stored) if stored else {})}


@contextmanager
def naming_damage(folder: Store, file: str) -> Iterator[None]:
    """Turn a read error of a damaged part into an InputError that names the path and the fix."""
    try:
        yield
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as exc:  # ArrowInvalid and JSONDecodeError are ValueErrors
        raise InputError(
            f"part {folder.path(file)} is damaged: {exc}",
            "delete that file and run the job that wrote it again: only this chunk is redone",
        ) from exc
