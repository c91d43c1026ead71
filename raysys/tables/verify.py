"""What a table holds and whether it is complete: status (reads footers only) and verify (reads everything)."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np

from raysys.outcomes import Counts
from raysys.tables.check import PartCheck, check_part, keys_with
from raysys.tables.keys import KeyHashes
from raysys.tables.plan import Output, chunk_name_of, stem_of
from raysys.tables.read import Part, TableView, for_parts, open_table, parts_of
from raysys.tables.store import iter_temporaries

N_THREADS = min(4, os.cpu_count() or 1)
"""Parts on a local disk that are verified at the same time."""
MAX_COMPARED = 1000
"""Repeated key hashes whose keys are compared. Of more, hardly one could be a coincidence."""


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
    """Read the whole table and check that it is what its plan requires.

    Every chunk has a part; the parts' data is unchanged since it was written (checksum of every byte before the
    footer); schema, number of rows and counts are those of the footer, and every row has a fate; every part holds the
    rows of its chunk, and no row of an input is in two parts; every key occurs once in the table. Only keys and fates
    are decoded. Needs 8 bytes of memory per row.
    """
    view = open_table(path)
    result = Verification()
    seen = KeyHashes(sum(chunk.stop - chunk.start for output in view.outputs for chunk in output.chunks))
    for output in view.outputs:
        _verify_output(output, result, seen)
    repeated = seen.repeated()
    if len(repeated):
        result.problems += _repeated_keys(view, repeated)
    return result


def _verify_output(output: Output, result: Verification, seen: KeyHashes) -> None:
    parts = parts_of(output)
    if missing := len(output.chunks) - len(parts):
        result.problems.append(f"{output.producer}: {missing} of {len(output.chunks)} chunks are pending")
    _other_files(output, result)
    checks = []
    for check in for_parts(check_part, parts, N_THREADS):
        result.problems += check.problems
        result.counts.merge(check.counts)
        seen.add(check.hashes)
        checks.append(check.without_hashes())
    result.problems += [f"{output.producer}: {line}" for line in _range_problems(parts, checks)]
    if unprotected := sum(not check.has_checksum for check in checks):
        result.notes.append(f"{output.producer}: {unprotected} parts of an older raysys have no checksum")


def _other_files(output: Output, result: Verification) -> None:
    stems, names = {c.stem for c in output.chunks}, {c.name for c in output.chunks}
    others = [n for n in output.folder.names(".parquet") if stem_of(n) not in stems]
    replaced = [n for n in others if chunk_name_of(n) in names]
    if foreign := sorted(set(others) - set(replaced)):
        result.problems.append(f"{output.producer}: {len(foreign)} parts belong to no chunk, e.g. {foreign[0]}")
    if replaced:
        result.notes.append(f"{output.producer}: {len(replaced)} parts of inputs that were replaced since (harmless)")
    if temporaries := sum(1 for _ in iter_temporaries(output.folder)):
        result.notes.append(f"{output.producer}: {temporaries} temporary files of killed writers (harmless)")


def _range_problems(parts: Sequence[Part], checks: Sequence[PartCheck]) -> list[str]:
    """Parts that hold other rows of their input than their chunk, or the same rows as another part."""
    ranges = [
        (part.chunk.part.name, *check.rows, part) for part, check in zip(parts, checks, strict=True) if check.rows
    ]
    problems = []
    moved = [r for r in ranges if r[1:3] != (r[3].chunk.start, r[3].chunk.stop)]
    if moved:
        name, start, stop, part = moved[0]
        problems.append(
            f"{len(moved)} parts hold other rows of their input than the plan requires, e.g. {part.files[0]}: "
            f"rows {start} to {stop} of {name} instead of {part.chunk.start} to {part.chunk.stop}"
        )
    ranges.sort(key=lambda r: r[:3])
    pairs = [(a, b) for a, b in pairwise(ranges) if a[0] == b[0] and b[1] < a[2]]
    if pairs:
        a, b = pairs[0]
        problems.append(
            f"{len(pairs)} parts hold rows of their input that another part holds too, e.g. rows {b[1]} to "
            f"{min(a[2], b[2])} of {a[0]} are in {a[3].files[0]} and {b[3].files[0]}"
        )
    return problems


def _repeated_keys(view: TableView, repeated: np.ndarray) -> list[str]:
    """The problem of keys that occur in more than one part; none if different keys have the same hash."""
    compared = np.unique(repeated)[:MAX_COMPARED]
    places: dict[tuple, list[str]] = {}
    for part, keys in zip(view.parts, for_parts(lambda p: keys_with(p, compared), view.parts, N_THREADS), strict=True):
        for key in keys:
            places.setdefault(key, []).append(part.files[0])
    n_times = Counter({key: len(files) - 1 for key, files in places.items()})
    n_extra = n_times.total() if len(repeated) <= MAX_COMPARED else len(repeated)
    if not n_extra:
        return []
    key, files = next((key, files) for key, files in places.items() if len(files) > 1)
    shown = "/".join(str(value) for value in key)
    return [f"{n_extra} keys occur in more than one part, e.g. {shown} in {files[0]} and {files[1]}"]
