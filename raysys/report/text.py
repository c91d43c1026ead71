"""Formatting of numbers and words, shared by the HTML pages, the plots and the terminal."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from raysys.replication import ReplicationResult
from raysys.replication.stats import THRESHOLDS

MINUS = "\N{MINUS SIGN}"
NOT_KNOWN = "–"
SETTINGS = ("Generated images |G|", "Training images |X|", "Descriptor", "Preset", "Weights (sha256)")
"""The figures that must be equal for two values of R to be comparable."""
_KANA = re.compile("[\N{HIRAGANA LETTER SMALL A}-\N{KATAKANA LETTER VO}]")


def number(value: float | None, digits: int = 3) -> str:
    """0.842, −0.1; an en dash for None and NaN. Three digits by default, as in the literature on R."""
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    return f"{value:.{digits}f}".replace("-", MINUS)


def interval(ci: tuple[float, float] | None) -> str:
    """A confidence interval as `0.79 to 0.88`, because a dash between numbers looks like a minus."""
    return NOT_KNOWN if ci is None else f"{number(ci[0])} to {number(ci[1])}"


def change(before: float, after: float) -> str | None:
    """−27 % or +3 %; None if `before` is not positive. A change is never rounded to 0."""
    if not before > 0:
        return None
    percent = 100 * (after - before) / before
    text = f"{percent:+.0f}" if abs(percent) >= 1 or percent == 0 else f"{percent:+.1g}"
    return text.replace("-", MINUS) + " %"


def join_words(words: Sequence[str]) -> str:
    """a; a and b; a, b and c"""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def percent(fraction: float | None) -> str:
    """A fraction 0 … 1 as `12.5 %`."""
    return NOT_KNOWN if fraction is None else f"{100 * fraction:.1f} %"


def duration(seconds: float | None) -> str:
    """4.2 s below ten seconds, 38 s, 3 min 08 s, 2 h 05 min."""
    if seconds is None:
        return NOT_KNOWN
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def plain(reason: str) -> str:
    """A reason id as words: `too_large` → `too large`."""
    return reason.replace("_", " ")


def lang_of(text: str | None) -> str | None:
    """`ja` for text with kana, so that browsers use Japanese glyphs for Han characters; else None."""
    return "ja" if text and _KANA.search(text) else None


def shorten(text: str, n_chars: int) -> str:
    """At most `n_chars` characters, cut in the middle: the ends of a path or hash are the most informative."""
    if len(text) <= n_chars:
        return text
    head = (n_chars - 1) // 2
    return f"{text[:head]}…{text[len(text) - (n_chars - 1 - head) :]}"


def figures(result: ReplicationResult) -> dict[str, str]:
    """R and the figures that are always reported with it, in reading order."""
    rows = {
        "R (95th percentile)": number(result.R),
        "95 % interval of R": interval(result.R_ci),
        "Mean similarity": number(result.mean),
    }
    percentiles = {_ordinal(name): value for name, value in result.percentiles.items()}
    # The 95th percentile is R itself, which is already included.
    rows |= {f"{name} percentile": number(value) for name, value in percentiles.items() if name != "95th"}
    rows |= {f"Share above {t:g}": percent(result.fraction_above[str(t)]) for t in THRESHOLDS}
    if (copies := result.copies) is not None:
        rows[f"Copies according to {result.descriptor} (above {copies['threshold']:g})"] = percent(copies["fraction"])
        if copies["by_chance"] is not None:
            rows["Expected for unrelated images"] = percent(copies["by_chance"])
    rows |= _held_out_figures(result)
    if result.R_background_percentile is not None:
        rows["R in the background distribution"] = f"{number(result.R_background_percentile, 1)} %"
    settings = (
        f"{result.n_generated:,}",
        f"{result.n_training:,}",
        result.descriptor,
        result.preset,
        shorten(result.weights_sha256, 17),
    )
    return rows | dict(zip(SETTINGS, settings, strict=True))


def _held_out_figures(result: ReplicationResult) -> dict[str, str]:
    levels = {
        "R of real held-out images": result.held_out,
        "R against held-out images": result.own_held_out,
    }
    rows = {
        name: f"{number(level.R)} ({interval(level.R_ci)}; {level.n_generated:,} against {level.n_training:,})"
        for name, level in levels.items()
        if level is not None
    }
    if (left_out := result.held_out_left_out) is not None:
        rule = "equal bytes" if left_out.threshold is None else f"equal bytes or similarity {left_out.threshold:g}"
        rows["Held-out images left out"] = f"{left_out.n:,} of {left_out.n_held_out:,} ({rule})"
    return rows


def compare_figures(results: Sequence[ReplicationResult]) -> tuple[dict[str, list[str]], dict[str, str]]:
    """The figures of several results: ({figure: one value per result}, {setting that all share: value})."""
    columns = [figures(result) for result in results]
    # In the order of the first result; only some results have every figure (such as the background).
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = {name: [column.get(name, NOT_KNOWN) for column in columns] for name in names}
    shared = {name: values[0] for name, values in rows.items() if name in SETTINGS and len(set(values)) == 1}
    return {name: values for name, values in rows.items() if name not in shared}, shared


def _ordinal(name: Any) -> str:
    digits = str(name).lstrip("p")
    return f"{digits}th" if digits.isdigit() else digits


def sorted_reasons(reasons: Mapping[str, int]) -> list[tuple[str, int]]:
    """Most frequent first, then by name."""
    return sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
