"""The section about captions: examples, generality scores, captioners."""

from raysys.report.sections.captions.collect import collect, summary
from raysys.report.sections.captions.data import CaptionsReport
from raysys.report.sections.captions.view import scores_in_words, view

__all__ = ["CaptionsReport", "collect", "scores_in_words", "summary", "view"]
