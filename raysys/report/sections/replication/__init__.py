"""The section of the evaluation `replication`: R of every model with its interval, and the nearest pairs as images."""

from raysys.report.sections.replication.collect import Measured, ReplicationData, collect, measured, summary, table
from raysys.report.sections.replication.headline import limits, replication_headline, study_headline
from raysys.report.sections.replication.view import view, view_of_one

headline = study_headline
"""The headline of a study; `replication_headline` is for a single measurement."""

__all__ = [
    "Measured",
    "ReplicationData",
    "collect",
    "headline",
    "limits",
    "measured",
    "replication_headline",
    "study_headline",
    "summary",
    "table",
    "view",
    "view_of_one",
]
