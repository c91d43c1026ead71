"""The kept rows of a table, chunk by chunk: what most row jobs take as their input."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from raysys.outcomes import KEPT
from raysys.tables.join import AlignedTable
from raysys.tables.plan import Chunk, InputPart
from raysys.tables.read import Part, TableView, open_table, version_of


@dataclass(frozen=True)
class KeptRows:
    """Loads the kept rows of a chunk of table `path`; with `duplicates`, only the representatives. Picklable.

    version: changes with the contents of the tables, so that a worker's cached listing is never a stale one.
    """

    path: str
    version: str
    columns: tuple[str, ...] | None = None
    duplicates: str | None = None

    @classmethod
    def of(cls, rows: TableView, duplicates: TableView | None, columns: tuple[str, ...] | None = None) -> KeptRows:
        """Kept rows of a table, by its full path: workers do not run in the driver's folder."""
        place = None if duplicates is None else duplicates.store.url
        return cls(rows.store.url, version_of(rows, duplicates), columns, place)

    def __call__(self, chunk: Chunk) -> pa.Table:
        part = _parts(self.path, self.version)[chunk.part.name]
        columns = None if self.columns is None else [*self.columns, "outcome"]
        table = part.read(columns).slice(chunk.start, chunk.stop - chunk.start)
        table = table.filter(pc.equal(table["outcome"], KEPT))
        if self.duplicates is None:
            return table
        fates = _aligned(self.duplicates, self.version).rows_of(part, ["outcome"])
        keep = [fates.get(row_id, {}).get("outcome") == KEPT for row_id in table["row_id"].to_pylist()]
        return table.filter(pa.array(keep, pa.bool_()))


@lru_cache(maxsize=4)
def _parts(path: str, _version: str) -> dict[str, Part]:
    return {part.name: part for part in open_table(path).parts}


@lru_cache(maxsize=4)
def _aligned(path: str, _version: str) -> AlignedTable:
    return AlignedTable(open_table(path))


def inputs_of(samples: TableView, duplicates: TableView | None) -> list[InputPart]:
    """The parts of `samples` as inputs of a job. With `duplicates` it takes only representatives: the signature of a
    part changes when other rows represent, not when a cluster merely grows."""
    if duplicates is None:
        return samples.inputs()
    aligned = AlignedTable(duplicates)
    inputs = []
    for part, given in zip(samples.parts, samples.inputs(), strict=True):
        kept = sorted(i for i, row in aligned.rows_of(part, ["outcome"]).items() if row["outcome"] == KEPT)
        digest = hashlib.sha256("\n".join([given.signature, *kept]).encode())
        inputs.append(replace(given, signature=digest.hexdigest()[:16]))
    return inputs
