"""The kept rows of a table by chunk: the input of most row jobs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from raysys.outcomes import KEPT
from raysys.tables.plan import Chunk
from raysys.tables.read import Part, TableView, open_table, version_of


@dataclass(frozen=True)
class KeptRows:
    """Loads the kept rows of a chunk of table `path`. Picklable.

    version: changes with the contents of the table, so that workers never use a stale cached listing.
    """

    path: str
    version: str
    columns: tuple[str, ...] | None = None

    @classmethod
    def of(cls, rows: TableView, columns: tuple[str, ...] | None = None) -> KeptRows:
        """Kept rows of a table. Its path is made absolute, because workers do not run in the driver's folder."""
        return cls(rows.store.url, version_of(rows), columns)

    def __call__(self, chunk: Chunk) -> pa.Table:
        part = _parts(self.path, self.version)[chunk.part.name]
        columns = None if self.columns is None else [*self.columns, "outcome"]
        table = part.read(columns).slice(chunk.start, chunk.stop - chunk.start)
        return table.filter(pc.equal(table["outcome"], KEPT))


@lru_cache(maxsize=4)
def _parts(path: str, _version: str) -> dict[str, Part]:
    return {part.name: part for part in open_table(path).parts}
