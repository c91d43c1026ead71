"""Read tables part by part: the current fingerprint of each producer, with retried rows replacing error rows."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import InputError
from raysys.outcomes import ERROR, KEPT, Counts
from raysys.rows import RowType
from raysys.tables.commit import counts_of, keys_of, part_info, read_columns
from raysys.tables.history import History
from raysys.tables.plan import TABLE, Chunk, InputPart, Output, load_output, stem_of
from raysys.tables.store import Store

T = TypeVar("T")
N_READERS = 16
"""Number of parts read from an object store at the same time."""


@dataclass(frozen=True)
class Part:
    """One committed chunk with its retries."""

    output: Output
    chunk: Chunk
    files: tuple[str, ...]  # the part, then its retries in order

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All rows, with every key once: retried rows replace the error rows in place."""
        key = self.output.row_type.key
        wanted = None if columns is None else list(dict.fromkeys([*columns, *key, "outcome"]))
        table = read_columns(self.output.folder, self.files[0], wanted)
        for file in self.files[1:]:
            newer, replaces = (
                read_columns(self.output.folder, file, wanted),
                part_info(self.output.folder, file).get("replaces"),
            )
            table = _overlay(table, newer, key, replaces)
        return table if columns is None else table.select(list(columns))

    def as_input(self) -> InputPart:
        """This part as the input of a downstream table. Its signature changes if rows in any of its files change."""
        store = self.output.folder
        infos = [part_info(store, file) for file in self.files]
        contents = ";".join(f"{file}:{info['content']}" for file, info in zip(self.files, infos, strict=True))
        signature = hashlib.sha256(f"{self.output.fingerprint};{contents}".encode()).hexdigest()[:16]
        return InputPart(self.name, store.path(self.files[0]), infos[0]["num_rows"], signature, self.origin)

    def counts(self) -> Counts:
        """Counts of fates after retries. Reads only the footer, except for a part that was retried."""
        if len(self.files) == 1:
            return Counts.from_dict(part_info(self.output.folder, self.files[0])["counts"])
        return counts_of(self.read(["outcome", "reason"]))

    @property
    def name(self) -> str:
        """Unique in its table: includes the producer if several producers share chunk names."""
        shared = self.output.row_type.many_producers
        return f"{self.output.producer}/{self.chunk.name}" if shared else self.chunk.name

    @property
    def origin(self) -> str:
        """The SAMPLES part that this part descends from; the part itself if it was made from a raw input."""
        return self.chunk.part.origin or self.chunk.name


def _overlay(table: pa.Table, newer: pa.Table, key: Sequence[str], replaces: Sequence[int] | None) -> pa.Table:
    """`table` with the rows at positions `replaces` (None = those with the same keys) replaced by those of `newer`."""
    if replaces is None:
        position = {k: i for i, k in enumerate(keys_of(table, key))}
        replaces = [position[k] for k in keys_of(newer, key)]
    take = list(range(len(table)))
    for new, old in enumerate(replaces):
        take[old] = len(table) + new
    return pa.concat_tables([table, newer]).take(take)


@dataclass(frozen=True)
class TableView:
    """A table as readers see it: the current output of each producer."""

    store: Store
    outputs: tuple[Output, ...]

    @property
    def row_type(self) -> RowType:
        return self.outputs[0].row_type

    @cached_property
    def parts(self) -> list[Part]:
        """Committed parts in plan order."""
        return [p for output in self.outputs for p in parts_of(output)]

    @property
    def n_pending(self) -> int:
        return sum(len(o.chunks) for o in self.outputs) - len(self.parts)

    @property
    def identity(self) -> str:
        """Identifies these results, e.g. "ingest-0123456789ab"; several producers are joined by "+"."""
        return "+".join(f"{o.producer}-{o.fingerprint}" for o in self.outputs)

    @property
    def lineage(self) -> str | None:
        """The part of `identity` that goes into the fingerprint of a row table made from this one.

        None if several producers may write this table: an additional producer adds input parts and does not change the
        finished ones. The version of the producer that made a part is included in the part's signature.
        """
        return None if self.row_type.many_producers else self.identity

    def of(self, producer: str) -> TableView:
        """The rows of one producer only."""
        return TableView(self.store, tuple(o for o in self.outputs if o.producer == producer))

    def rows(self, columns: Sequence[str] | None = None, outcome: str | None = KEPT) -> Iterator[pa.Table]:
        """One Arrow table per part; only rows with `outcome` (None = all)."""
        wanted = None if columns is None else list(dict.fromkeys([*columns, "outcome"]))
        for table in for_parts(lambda part: part.read(wanted), self.parts):
            if outcome is not None:
                table = table.filter(pc.equal(table["outcome"], outcome))
            yield table if columns is None else table.select(list(columns))

    def counts(self) -> Counts:
        """Counts of fates after retries. Reads only footers, except for parts that were retried."""
        total = Counts()
        for counts in for_parts(Part.counts, self.parts):
            total.merge(counts)
        return total

    def inputs(self) -> list[InputPart]:
        """The parts as inputs of a downstream table. Reads one footer per file and caches the result."""
        return self._inputs

    @cached_property
    def _inputs(self) -> list[InputPart]:
        return list(for_parts(Part.as_input, self.parts))


def for_parts(function: Callable[[Part], T], parts: Sequence[Part], n_local: int = 1) -> Iterator[T]:
    """`function` of each part, in order, for up to N_READERS parts at once on object stores, to hide their latency.

    n_local: the same for parts on a local disk.
    """
    n_readers = n_local if all(part.output.folder.is_local for part in parts) else N_READERS
    if n_readers == 1:
        yield from map(function, parts)
        return
    with ThreadPoolExecutor(n_readers) as pool:
        asked: deque[Future[T]] = deque()
        for part in parts:
            asked.append(pool.submit(function, part))
            if len(asked) == 2 * n_readers:
                yield asked.popleft().result()
        while asked:
            yield asked.popleft().result()


def parts_of(output: Output) -> list[Part]:
    """The committed parts of one output, with their retries."""
    files: dict[str, list[str]] = {}
    for name in output.folder.names(".parquet"):
        files.setdefault(stem_of(name), []).append(name)
    parts = []
    for chunk in output.chunks:
        found = files.get(chunk.stem, [])
        if chunk.file in found:
            retries = sorted((f for f in found if f != chunk.file), key=_retry_number)
            parts.append(Part(output, chunk, (chunk.file, *retries)))
    return parts


def _retry_number(file: str) -> int:
    return int(file.removesuffix(".parquet").rpartition(".r")[2])


def open_table(path: str, row_type: RowType | None = None) -> TableView:
    """The table at `path`. Raises InputError if there is none or if its rows are not of `row_type`."""
    store = Store(path)
    info = History(store, TABLE).read()
    if info is None:
        raise InputError(f"{store.url} is not a raysys table (no {TABLE})", "run the job that writes it first")
    if row_type is not None and info["row_type"] != row_type.name:
        raise InputError(
            f"{store.url} holds {info['row_type']} rows, expected {row_type.name} rows", "give the right table"
        )
    outputs = tuple(load_output(store.url, producer, digest) for producer, digest in info["current"].items())
    return TableView(store, outputs)


def version_of(*views: TableView | None) -> str:
    """A short hash of the contents of tables: every part with its retries."""
    signatures = [p.signature for view in views if view is not None for p in view.inputs()]
    return hashlib.sha256("".join(signatures).encode()).hexdigest()[:16]


def error_rows(part: Part) -> dict[int, tuple]:
    """{position in the part: key} of the rows that are still errors after retries."""
    key = part.output.row_type.key
    table = part.read([*key, "outcome"])
    pairs = zip(keys_of(table, key), table["outcome"].to_pylist(), strict=True)
    return {i: k for i, (k, outcome) in enumerate(pairs) if outcome == ERROR}
