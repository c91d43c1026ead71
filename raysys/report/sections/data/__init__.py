"""The section about the data: fates of all rows, licenses, duplicates."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from raysys.outcomes import KEPT, Counts
from raysys.report.data import DuplicateCluster, ImageOf, TableOutcome
from raysys.report.folder import RunFolder
from raysys.report.gallery import duplicate_clusters
from raysys.rows import DUPLICATES, SAMPLES
from raysys.tables import Store, open_table
from raysys.tables.plan import TABLE


@dataclass(frozen=True)
class DataFates:
    """tables: in data-flow order. duplicates: clusters of two or more images."""

    tables: Sequence[TableOutcome]
    training_image: ImageOf
    duplicates: Sequence[DuplicateCluster] = ()
    rows: Counts = field(default_factory=Counts)
    """Fates of all training input rows: those of ingest, updated by the rejections of dedup."""


def collect(run: RunFolder) -> DataFates:
    there = [place for place in run.record["tables"] if Store(run.path(place)).exists(TABLE)]
    tables = {place: _table(place, run.path(place)) for place in there}
    duplicates = run.record["duplicates"]
    ingest, dedup = tables[run.record["samples"]["train"]].counts, tables[duplicates].counts
    rows = Counts(dedup.kept, ingest.rejected + dedup.rejected, ingest.error + dedup.error)
    return DataFates(list(tables.values()), run.training_images().bytes_of, _clusters(run.path(duplicates)), rows)


def summary(data: DataFates) -> dict[str, Any]:
    return {"rows": data.rows.as_dict(), "tables": {table.name: table.counts.as_dict() for table in data.tables}}


def view(data: DataFates) -> dict[str, Any]:
    return {
        "tables": data.tables,
        "duplicates": data.duplicates,
        "clusters": duplicate_clusters(data.duplicates, data.training_image),
    }


def _table(name: str, path: str) -> TableOutcome:
    table = open_table(path)
    seconds = [output.folder.read_json("_run/summary.json") for output in table.outputs]
    licenses: Counter[str] = Counter()
    if table.row_type.name == SAMPLES.name:
        for rows in table.rows(["license"], outcome=None):
            licenses.update(x or "unknown" for x in rows["license"].to_pylist())
    return TableOutcome(name, table.counts(), sum(s["seconds"] for s in seconds if s) or None, dict(licenses))


def _clusters(path: str) -> list[DuplicateCluster]:
    """Clusters of two or more images, with the representative first."""
    members: dict[str, list[dict[str, Any]]] = {}
    columns = ["row_id", "cluster_id", "cluster_size", "kind", "license", "outcome"]
    for table in open_table(path, DUPLICATES).rows(columns, outcome=None):
        for row in table.to_pylist():
            if (row["cluster_size"] or 1) > 1:
                members.setdefault(row["cluster_id"], []).append(row)
    clusters = []
    for rows in members.values():
        rows.sort(key=lambda row: row["outcome"] != KEPT)
        kind = "near" if any(row["kind"] == "near" for row in rows) else "exact"
        ids = [row["row_id"] for row in rows]
        clusters.append(DuplicateCluster(ids, rows[0]["cluster_size"], kind, rows[0]["license"]))
    return clusters
