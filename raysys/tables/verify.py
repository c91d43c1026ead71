"""What a table holds and whether it is complete: status (reads footers only) and verify (reads everything)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raysys.errors import InputError
from raysys.outcomes import OUTCOMES, Counts
from raysys.tables.commit import counts_of, keys_of
from raysys.tables.plan import Output, stem_of
from raysys.tables.read import Part, open_table, parts_of
from raysys.tables.store import iter_temporaries


@dataclass(frozen=True)
class OutputStatus:
    """Progress and fates of one producer's output."""

    producer: str
    fingerprint: str
    folder: str
    n_chunks: int
    n_done: int
    n_items_planned: int
    n_bytes: int
    n_retries: int
    counts: Counts


def status(path: str) -> list[OutputStatus]:
    """One entry per producer; reads footers only."""
    view = open_table(path)
    result = []
    for output in view.outputs:
        parts = parts_of(output)
        result.append(
            OutputStatus(
                producer=output.producer,
                fingerprint=output.fingerprint,
                folder=output.folder.url,
                n_chunks=len(output.chunks),
                n_done=len(parts),
                n_items_planned=sum(c.stop - c.start for c in output.chunks),
                n_bytes=sum(output.folder.sizes(".parquet").values()),
                n_retries=sum(len(p.files) - 1 for p in parts),
                counts=type(view)(view.store, (output,)).counts(),
            )
        )
    return result


@dataclass
class Verification:
    """The problems found in a table; `ok` if there are none."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)

    @property
    def ok(self) -> bool:
        return not self.problems


def verify(path: str) -> Verification:
    """Read the whole table and check that every chunk is present and readable, the schema is right, every key occurs
    once, and counts are conserved. Needs 8 bytes of memory per row (key hashes) for the check across parts.
    """
    view = open_table(path)
    result = Verification()
    hashes: list[np.ndarray] = []
    for output in view.outputs:
        parts = parts_of(output)
        if missing := len(output.chunks) - len(parts):
            result.problems.append(f"{output.producer}: {missing} of {len(output.chunks)} chunks are pending")
        _foreign_files(output, result)
        for part in parts:
            _verify_part(part, result, hashes)
    if hashes:
        everything = np.concatenate(hashes)
        if twice := len(everything) - len(np.unique(everything)):
            result.problems.append(f"{twice} keys occur in more than one part")
    return result


def _foreign_files(output: Output, result: Verification) -> None:
    names = {c.stem for c in output.chunks}
    foreign = [n for n in output.folder.names(".parquet") if stem_of(n) not in names]
    if foreign:
        result.problems.append(f"{output.producer}: {len(foreign)} parts belong to no chunk, e.g. {foreign[0]}")
    if temporaries := sum(1 for _ in iter_temporaries(output.folder)):
        result.notes.append(f"{output.producer}: {temporaries} temporary files of killed writers (harmless)")


def _verify_part(part: Part, result: Verification, hashes: list[np.ndarray]) -> None:
    where, row_type = part.files[0], part.output.row_type
    try:
        table = part.read()
    except (InputError, pa.ArrowException, KeyError) as exc:
        result.problems.append(f"{where}: {exc}")
        return
    if table.schema.remove_metadata() != row_type.schema:
        result.problems.append(f"{where}: the schema is not that of {row_type.name}")
        return
    keys = keys_of(table, row_type.key)
    if len(set(keys)) != len(keys):
        result.problems.append(f"{where}: {len(keys) - len(set(keys))} keys occur twice")
    if strange := set(table["outcome"].to_pylist()) - set(OUTCOMES):
        result.problems.append(f"{where}: outcomes {sorted(map(str, strange))} are not in {OUTCOMES}")
        return
    counts = counts_of(table)
    if counts.total != len(keys):
        result.problems.append(f"{where}: {len(keys)} rows but {counts.total} fates")
    result.counts.merge(counts)
    hashes.append(np.array([hash(k) for k in keys], dtype=np.int64))
