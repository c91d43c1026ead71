"""The join SAMPLES ⋈ DUPLICATES: which images remain after dedup, under the strictest license of their cluster.

Without a DUPLICATES table, every kept sample remains, under its own license.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from raysys.outcomes import KEPT
from raysys.rows import DUPLICATES
from raysys.tables.join import AlignedTable
from raysys.tables.plan import Chunk, InputPart
from raysys.tables.read import Part, TableView, open_table, version_of

LEFT_OUT = "left_out"
"""Column of the join: why a kept sample is not used, e.g. `duplicate_of:<row_id>`; null for a representative."""
NOT_DEDUPLICATED = "not_deduplicated"
"""Reason for a sample that is missing in the DUPLICATES table, because it was added after dedup."""
_FROM_CLUSTER = ("cluster_size", "sources")


class Representatives:
    """The join of a SAMPLES and a DUPLICATES table, part by part, without a shuffle."""

    def __init__(self, samples: TableView, duplicates: TableView | None) -> None:
        self.samples, self.duplicates = samples, duplicates
        self._clusters = None if duplicates is None else AlignedTable(duplicates)

    @cached_property
    def part_named(self) -> dict[str, Part]:
        return {part.name: part for part in self.samples.parts}

    @property
    def identity(self) -> dict[str, str | None]:
        """Identifies the joined tables in the fields of outputs made from them."""
        return {
            "samples": self.samples.identity,
            "duplicates": None if self.duplicates is None else self.duplicates.identity,
        }

    def rows_of(self, part: Part, columns: Sequence[str]) -> pa.Table:
        """The representatives of a SAMPLES part.

        columns: columns of SAMPLES, and `cluster_size` (1 without DUPLICATES) and `sources` of the cluster. `license`
        is the strictest of the cluster; if that is not the sample's own, `license_evidence` says so.
        """
        table = self.with_left_out(part, columns)
        return table.filter(pc.is_null(table[LEFT_OUT])).select(list(columns))

    def with_left_out(self, part: Part, columns: Sequence[str], start: int = 0, stop: int | None = None) -> pa.Table:
        """As `rows_of`, but for every kept sample in rows [start, stop) of the part, with the column `left_out`."""
        own = [c for c in columns if c not in _FROM_CLUSTER]
        table = part.read(list(dict.fromkeys([*own, "row_id", "outcome"])))
        table = table.slice(start, None if stop is None else stop - start)
        table = table.filter(pc.equal(table["outcome"], KEPT))
        clusters = self._clusters_of(part, columns)
        found = [clusters.get(row_id) for row_id in table["row_id"].to_pylist()]
        if self._clusters is None:
            found = [{"outcome": KEPT, "cluster_size": 1, "sources": []}] * table.num_rows
        else:
            table = _strictest_licenses(table, found)
        for name in (n for n in _FROM_CLUSTER if n in columns):
            field = DUPLICATES.schema.field(name)
            table = table.append_column(field, pa.array([c and c[name] for c in found], field.type))
        table = table.append_column(LEFT_OUT, pa.array([_left_out(c) for c in found], pa.string()))
        return table.select([*columns, LEFT_OUT])

    def parts(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """`rows_of` for each SAMPLES part, in order."""
        return (self.rows_of(part, columns) for part in self.samples.parts)

    def ids(self) -> set[str]:
        """The row_ids of all representatives."""
        return {row_id for table in self.parts(["row_id"]) for row_id in table["row_id"].to_pylist()}

    def inputs(self, columns: Sequence[str] = ()) -> list[InputPart]:
        """The SAMPLES parts as inputs of a job that reads only representatives.

        A part's signature changes if its set of representatives changes, or one of `license`, `cluster_size` and
        `sources` that is in `columns`. A cluster that only grows does not change it otherwise.
        """
        given = self.samples.inputs()
        if self._clusters is None:
            return given
        used = ["row_id", *(c for c in columns if c in ("license", "cluster_size", "sources"))]
        parts = zip(self.samples.parts, given, strict=True)
        return [replace(one, signature=_digest(one.signature, self.rows_of(part, used))) for part, one in parts]

    def _clusters_of(self, part: Part, columns: Sequence[str]) -> dict[str, dict[str, Any]]:
        if self._clusters is None:
            return {}
        wanted = ["license", "cluster_size", *(["sources"] if "sources" in columns else [])]
        return self._clusters.rows_of(part, wanted)


@dataclass(frozen=True)
class RepresentativeRows:
    """Loads the representatives of a chunk of SAMPLES, as the input of row jobs. Picklable.

    version: changes with the contents of the tables, so that a worker never uses a stale cached listing.
    """

    samples: str
    duplicates: str | None
    version: str
    columns: tuple[str, ...]

    @classmethod
    def of(cls, join: Representatives, columns: Sequence[str]) -> RepresentativeRows:
        """By the full paths of the tables: workers do not run in the driver's folder."""
        duplicates = None if join.duplicates is None else join.duplicates.store.url
        version = version_of(join.samples, join.duplicates)
        return cls(join.samples.store.url, duplicates, version, tuple(columns))

    def __call__(self, chunk: Chunk) -> pa.Table:
        join = _join(self.samples, self.duplicates, self.version)
        part = join.part_named[chunk.part.name]
        table = join.with_left_out(part, self.columns, chunk.start, chunk.stop)
        return table.filter(pc.is_null(table[LEFT_OUT])).select(list(self.columns))


@lru_cache(maxsize=4)
def _join(samples: str, duplicates: str | None, _version: str) -> Representatives:
    return Representatives(open_table(samples), None if duplicates is None else open_table(duplicates))


def _strictest_licenses(table: pa.Table, clusters: Sequence[dict[str, Any] | None]) -> pa.Table:
    """Replace `license` and `license_evidence`, if the table has them, by those of the clusters."""
    if "license" not in table.column_names:
        return table
    own = table["license"].to_pylist()
    strictest = [given if c is None else c["license"] for given, c in zip(own, clusters, strict=True)]
    if "license_evidence" in table.column_names:
        evidence = [
            f"the strictest of {c['cluster_size']} copies; this one: {said}" if c and given != license else said
            for said, given, license, c in zip(
                table["license_evidence"].to_pylist(), own, strictest, clusters, strict=True
            )
        ]
        table = _with(table, "license_evidence", evidence)
    return _with(table, "license", strictest)


def _with(table: pa.Table, name: str, values: list[str | None]) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, pa.string()))


def _left_out(cluster: dict[str, Any] | None) -> str | None:
    if cluster is None:
        return NOT_DEDUPLICATED
    return None if cluster["outcome"] == KEPT else cluster["reason"]


def _digest(signature: str, rows: pa.Table) -> str:
    lines = sorted(str(row) for row in rows.to_pylist())
    return hashlib.sha256("\n".join([signature, *lines]).encode()).hexdigest()[:16]
