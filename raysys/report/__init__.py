"""Reports of a study or a measurement: self-contained HTML pages, and the tables printed at the end of a command."""

from raysys.report.data import DuplicateCluster, ImageOf, StudyReport, TableOutcome
from raysys.report.duplicates import duplicates_report
from raysys.report.headline import Headline
from raysys.report.page import replication_report, study_report
from raysys.report.terminal import print_replication, print_study

__all__ = [
    "DuplicateCluster",
    "Headline",
    "ImageOf",
    "StudyReport",
    "TableOutcome",
    "duplicates_report",
    "print_replication",
    "print_study",
    "replication_report",
    "study_report",
]
