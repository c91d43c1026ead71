"""Checks of captions: each gives a reason, and every threshold is configuration."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from raysys.captions.cleaning import LEAD_INS, TRAILERS, clean
from raysys.captions.phrases import PREAMBLES, REFUSALS
from raysys.config import Config
from raysys.language.languages import other_language, script_of, script_share


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"{pattern!r} is not a regular expression: {exc}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


class ChecksConfig(Config):
    """What a caption must be. One that is not is asked for again, then rejected with the reason."""

    max_resamples: int = Field(3, ge=0, description="times a caption that fails is asked for again")
    resample_temperature: float = Field(
        0.7, ge=0, description="temperature of those tries, unless the first was higher: greedy would repeat itself"
    )
    min_chars: int = Field(2, ge=1, description="shorter texts are `empty`")
    max_repeats: int = Field(3, ge=2, description="a phrase this many times in a row is a `repetition`")
    min_script_share: float = Field(
        0.6, ge=0, le=1, description="share of letters in the language's script; below = `wrong_language`"
    )
    max_foreign_words: float = Field(
        2.0,
        gt=0,
        description="`wrong_language` when another language's function words occur more than this many times as often",
    )
    refusals: tuple[Pattern, ...] = Field(REFUSALS, description="regular expressions of a `refusal`")
    preambles: tuple[Pattern, ...] = Field(PREAMBLES, description="regular expressions of a `preamble`")
    lead_ins: tuple[Pattern, ...] = Field(LEAD_INS, description="regular expressions taken off the start of an answer")
    trailers: tuple[Pattern, ...] = Field(TRAILERS, description="regular expressions of remarks after a caption")
    allow_truncated: bool = Field(False, description="keep answers that max_tokens cut off")

    def clean(self, text: str) -> str:
        """The caption in a model's answer, see `cleaning.clean`."""
        return clean(text, self.lead_ins, self.trailers)


@dataclass(frozen=True)
class Problem:
    """Why a text is not usable. `detail` never holds more of it than a few words."""

    reason: str
    detail: str | None = None


def problem(text: str, finish_reason: str, language: str, config: ChecksConfig) -> Problem | None:
    """The first check that `text` (already clean) fails, None when it is usable.

    Reasons: control_characters, empty, truncated, refusal, preamble, repetition, wrong_language.
    """
    if (bad := _control_character(text)) is not None:
        return Problem("control_characters", f"U+{ord(bad):04X}")
    if len(text) < config.min_chars or not any(c.isalnum() for c in text):
        return Problem("empty", f"{len(text)} characters")
    if finish_reason == "length" and not config.allow_truncated:
        return Problem("truncated", "max_tokens reached")
    for reason, patterns in (("refusal", config.refusals), ("preamble", config.preambles)):
        if any(re.search(pattern, text, re.IGNORECASE) for pattern in patterns):
            return Problem(reason)
    if repeats := repeated_phrase(*_units(text), config.max_repeats):
        return Problem("repetition", f"a phrase of {repeats[0]} units {repeats[1]} times in a row")
    if (share := script_share(text, language)) < config.min_script_share:
        return Problem("wrong_language", f"{share:.0%} of the letters fit {language}")
    if found := other_language(text, language, config.max_foreign_words):
        return Problem("wrong_language", f"its function words are those of {found}")
    return None


def _control_character(text: str) -> str | None:
    """The first control, surrogate or private character, noncharacter, or U+FFFD (a broken decoding).

    Unassigned characters pass: every year some become emoji, before Python's tables know them.
    """
    for character in text:
        if character == "�" or unicodedata.category(character) in ("Cc", "Cs", "Co") or _is_noncharacter(character):
            return character
    return None


def _is_noncharacter(character: str) -> bool:
    """Never to be assigned (Unicode §23.7)."""
    code = ord(character)
    return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF


MIN_WORDS = 7
MIN_LETTERS = 9
"""Least length of a repetition, in words, or in letters where words are not separated: "very, very, very good" is not
one."""
ONLY_REPEATS = 4
"""A text that consists of one phrase this many times or more is a repetition, however short."""


def repeated_phrase(units: Sequence[str], min_span: int, max_repeats: int) -> tuple[int, int] | None:
    """(length, times) of the shortest phrase that stands `max_repeats` times or more in a row; None without one.

    units: words or letters. In all, the repeated stretch is at least `min_span` units long, or it is the whole text
    and the phrase stands ONLY_REPEATS times. A phrase of L units k times in a row is a run of (k − 1)·L positions
    where units[i] == units[i + L].
    """
    n, codes = len(units), np.unique(np.array(units, str), return_inverse=True)[1]
    for length in range(1, n // max_repeats + 1):
        same = codes[length:] == codes[:-length]
        if np.count_nonzero(same) < (max_repeats - 1) * length:
            continue
        longest = _longest_run(same)
        times = longest // length + 1
        is_everything = longest == n - length and times >= max(max_repeats, ONLY_REPEATS)
        if is_everything or (times >= max_repeats and longest + length >= min_span):
            return length, times
    return None


def _longest_run(flags: np.ndarray) -> int:
    """The length of the longest run of True."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return int((edges[1::2] - edges[::2]).max(initial=0))


def _units(text: str) -> tuple[list[str], int]:
    """(units, shortest span of a repetition): words without punctuation; letters where words are not separated."""
    letters = [c for c in text if c.isalpha()]
    cjk = sum(script_of(c) in ("han", "kana") for c in letters)
    if 2 * cjk > len(letters):
        return [c for c in text if c.isalnum()], MIN_LETTERS
    return [re.sub(r"^\W+|\W+$", "", word) or word for word in text.casefold().split()], MIN_WORDS
