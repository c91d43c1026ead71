"""Assemble the training set: a global shuffle into Parquet parts, each with latents of one size (bucket).

    rows (any order) ──scatter by hash──▶ spill files ──sort each by hash──▶ part-00000.parquet … + manifest.json

The order is a pure function of (seed, row_id, copy) and does not depend on the input order: rows are sorted by a keyed
hash. The top bits of the hash select the spill file, so that the concatenated sorted spills are sorted. Memory holds
one buffer of input rows (256 MiB) or one spill (about 1/n_spills of a bucket, at most 2 GiB), never the whole set.
This is a whole step: the job publishes its folder atomically and starts over after a crash.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.errors import InputError
from raysys.models.places import sha256
from raysys.outcomes import KEPT, Counts
from raysys.rows import TRAINING_SET

MANIFEST = "manifest.json"
SCATTER_ROWS, SCATTER_BYTES = 4096, 256 << 20
"""Input buffered before it is written to spills, so that small input tables do not become many tiny record batches."""
MAX_SPILL_BYTES = (2 << 30) - (64 << 20)
"""A spill is sorted in memory, and offsets in Arrow's binary columns have 32 bits."""
ROW_GROUP_ROWS = 256


def assemble(
    rows: Iterable[pa.Table],
    folder: str | Path,
    *,
    seed: int,
    part_rows: int = 4096,
    n_spills: int = 32,
    encoders: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Shuffle kept TRAINING_SET rows into `folder`, which must be missing or empty; return the manifest.

    Rows that are not kept are only counted, in the manifest's `rows`. encoders: copied into the manifest; paths and
    hashes of the models that made latents and text states.
    Raises InputError for a wrong schema, no kept rows, a repeated (row_id, copy), arrays of mixed sizes in a bucket, or
    a spill that is too large.
    """
    if part_rows < 1 or n_spills < 1:
        raise ValueError(f"part_rows = {part_rows} and n_spills = {n_spills} must be ≥ 1")
    folder = Path(folder)
    spills = folder / "_spills"
    spills.mkdir(parents=True)
    counts = _scatter(rows, spills, seed, n_spills)
    if counts.kept == 0:
        what = f"no kept rows to assemble ({counts.as_dict()})"
        raise InputError(what, "check the outcomes of the joined tables with `raysys status`")
    manifest = _write_parts(spills, folder, part_rows)
    manifest |= {"seed": seed, "part_rows": part_rows, "rows": counts.as_dict(), "encoders": dict(encoders or {})}
    shutil.rmtree(spills)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, ensure_ascii=False), encoding="utf-8")
    return manifest


def shuffle_keys(row_ids: Iterable[str], copies: Iterable[int], seed: int) -> np.ndarray:
    """The sort key of each row, uint64 [N]: a platform-independent hash of (seed, row_id, copy)."""
    salt = f"{seed}\x00".encode()
    digests = (
        hashlib.blake2b(salt + f"{row_id}\x00{copy}".encode(), digest_size=8).digest()
        for row_id, copy in zip(row_ids, copies, strict=True)
    )
    return np.frombuffer(b"".join(digests), dtype=">u8").astype(np.uint64)


def _scatter(rows: Iterable[pa.Table], spills: Path, seed: int, n_spills: int) -> Counts:
    """Write each kept row to `<bucket>.<spill>.arrow`; count all rows by outcome."""
    counts = Counts()
    writers: dict[tuple[str, int], pa.RecordBatchWriter] = {}
    try:
        for table in _gather(rows, counts):
            keys = shuffle_keys(table["row_id"].to_pylist(), table["copy"].to_pylist(), seed)
            spill_of = ((keys >> np.uint64(32)) * np.uint64(n_spills)) >> np.uint64(32)
            table = table.append_column("_key", pa.array(keys))
            for bucket in pc.unique(table["bucket"]).to_pylist():
                in_bucket = pc.equal(table["bucket"], bucket).to_numpy(zero_copy_only=False)
                for spill in np.unique(spill_of[in_bucket]):
                    place = (bucket, int(spill))
                    if place not in writers:
                        path = spills / f"{bucket}.{int(spill):05d}.arrow"
                        writers[place] = pa.ipc.new_stream(path, table.schema)
                    writers[place].write_table(table.filter(pa.array(in_bucket & (spill_of == spill))))
    finally:
        for writer in writers.values():
            writer.close()
    return counts


def _gather(rows: Iterable[pa.Table], counts: Counts) -> Iterator[pa.Table]:
    """The kept rows of the input tables, in tables of about SCATTER_ROWS rows."""
    pending: list[pa.Table] = []
    for table in rows:
        if set(table.schema.names) != set(TRAINING_SET.schema.names):
            raise InputError(
                f"a table to assemble has columns {table.schema.names}", f"columns must be {TRAINING_SET.schema.names}"
            )
        table = table.select(TRAINING_SET.schema.names).cast(TRAINING_SET.schema)
        for outcome, reason in zip(table["outcome"].to_pylist(), table["reason"].to_pylist(), strict=True):
            counts.add(outcome, reason)
        pending.append(table.filter(pc.equal(table["outcome"], KEPT)))
        if sum(t.num_rows for t in pending) >= SCATTER_ROWS or sum(t.nbytes for t in pending) >= SCATTER_BYTES:
            yield pa.concat_tables(pending).combine_chunks()
            pending = []
    if sum(t.num_rows for t in pending):
        yield pa.concat_tables(pending).combine_chunks()


def _write_parts(spills: Path, folder: Path, part_rows: int) -> dict[str, Any]:
    """Sort each spill and write each bucket as parts; return the manifest's parts, buckets, licenses and captions."""
    parts: list[dict[str, Any]] = []
    licenses: Counter[str] = Counter()
    buckets: Counter[str] = Counter()
    n_captions = 0
    states: set[tuple[int, str]] = set()
    for bucket in sorted({path.name.split(".")[0] for path in spills.iterdir()}):
        shapes: set[tuple[int, ...]] = set()
        for table in _rechunk(_sorted_spills(spills, bucket), part_rows):
            shapes.update(map(tuple, table["latents_shape"].to_pylist()))
            states.update(_widths_and_types(table))
            n_captions += sum(map(len, table["captions"].to_pylist()))
            licenses.update(x or "unknown" for x in table["license"].to_pylist())
            file = folder / f"part-{len(parts):05d}.parquet"
            pq.write_table(table, file, row_group_size=ROW_GROUP_ROWS, compression="zstd")
            buckets[bucket] += table.num_rows
            parts.append({"name": file.name, "bucket": bucket, "rows": table.num_rows, "sha256": sha256(file)})
        if len(shapes) != 1:
            raise InputError(f"bucket {bucket} holds latents of shapes {sorted(shapes)}", "encode with one VAE")
    if len(states) != 1:
        raise InputError(f"text states have widths and types {sorted(states)}", "encode all captions with one encoder")
    counts = {"buckets": dict(sorted(buckets.items())), "licenses": dict(sorted(licenses.items()))}
    return {"parts": parts, **counts, "captions": n_captions}


def _widths_and_types(table: pa.Table) -> set[tuple[int, str]]:
    """{(D, dtype)} of a table's text states [T, D]; T may differ between captions."""
    columns = table.select(["text_states_shapes", "text_states_dtype"]).to_pylist()
    return {(shape[-1], row["text_states_dtype"]) for row in columns for shape in row["text_states_shapes"]}


def _sorted_spills(spills: Path, bucket: str) -> Iterator[pa.Table]:
    """The spills of a bucket in key order, each sorted by key. Raises InputError for a repeated (row_id, copy)."""
    for path in sorted(spills.glob(f"{bucket}.*.arrow")):
        if (n_bytes := path.stat().st_size) > MAX_SPILL_BYTES:
            raise InputError(
                f"a spill file of bucket {bucket} has {n_bytes} bytes, more than {MAX_SPILL_BYTES}", "raise n_spills"
            )
        with pa.ipc.open_stream(path) as reader:
            table = reader.read_all().sort_by([("_key", "ascending"), ("row_id", "ascending"), ("copy", "ascending")])
        names = list(zip(table["row_id"].to_pylist(), table["copy"].to_pylist(), strict=True))
        for before, after in pairwise(names):
            if before == after:
                raise InputError(
                    f"row {after[0]!r} copy {after[1]} occurs twice", "give each copy of a row its own number"
                )
        yield table.drop_columns(["_key"])


def _rechunk(tables: Iterable[pa.Table], n_rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `n_rows` (the last one shorter)."""
    pending: pa.Table | None = None
    for table in tables:
        pending = table if pending is None else pa.concat_tables([pending, table])
        while pending.num_rows >= n_rows:
            yield pending.slice(0, n_rows)
            pending = pending.slice(n_rows)
    if pending is not None and pending.num_rows:
        yield pending
