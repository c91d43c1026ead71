"""What a run or a measurement found: self-contained HTML pages and the tables at the end of a command."""

from raysys.report.data import (
    CaptionsReport,
    DuplicateCluster,
    ImageOf,
    ModelReplication,
    PipelineReport,
    TableOutcome,
)
from raysys.report.headline import Headline, pipeline_headline, replication_headline
from raysys.report.page import demo_report, replication_report
from raysys.report.terminal import print_pipeline, print_replication

__all__ = [
    "CaptionsReport",
    "DuplicateCluster",
    "Headline",
    "ImageOf",
    "ModelReplication",
    "PipelineReport",
    "TableOutcome",
    "demo_report",
    "pipeline_headline",
    "print_pipeline",
    "print_replication",
    "replication_headline",
    "replication_report",
]
