"""Checks of captions. Each has its own reason, and all thresholds are configurable."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from raysys.captions.cleaning import LEAD_INS, TRAILERS, clean
from raysys.captions.phrases import NOT_TEXT, PREAMBLES, REFUSALS
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
    """What a caption must satisfy. If a check fails, the caption is asked for again, then rejected with the reason."""

    max_resamples: int = Field(3, ge=0, description="how often a caption that fails a check is asked for again")
    resample_temperature: float = Field(
        0.7, ge=0, description="minimum temperature when asking again; greedy decoding would repeat the answer"
    )
    min_chars: int = Field(2, ge=1, description="shorter texts are `empty`")
    max_repeats: int = Field(3, ge=2, description="a phrase that occurs this often in a row is a `repetition`")
    min_script_share: float = Field(
        0.6, ge=0, le=1, description="minimum fraction of letters in the language's script, else `wrong_language`"
    )
    max_foreign_words: float = Field(
        2.0,
        gt=0,
        description="`wrong_language` if another language's function words are more frequent by more than this factor",
    )
    refusals: tuple[Pattern, ...] = Field(REFUSALS, description="regular expressions for a `refusal`")
    preambles: tuple[Pattern, ...] = Field(PREAMBLES, description="regular expressions for a `preamble`")
    not_text: tuple[Pattern, ...] = Field(NOT_TEXT, description="regular expressions for `not_text`, such as markup")
    lead_ins: tuple[Pattern, ...] = Field(LEAD_INS, description="regular expressions removed from an answer's start")
    trailers: tuple[Pattern, ...] = Field(TRAILERS, description="regular expressions for remarks after a caption")
    allow_truncated: bool = Field(False, description="keep answers that were truncated by max_tokens")

    def clean(self, text: str) -> str:
        """Extract the caption from a model's answer, see `cleaning.clean`."""
        return clean(text, self.lead_ins, self.trailers)


@dataclass(frozen=True)
class Problem:
    """The reason why a text is not usable. `detail` never contains more than a few words of the text."""

    reason: str
    detail: str | None = None


def problem(text: str, finish_reason: str, language: str, config: ChecksConfig) -> Problem | None:
    """The first check that the cleaned `text` fails; None if it is usable.

    Reasons: control_characters, empty, truncated, not_text, refusal, preamble, repetition, wrong_language.
    """
    if (bad := _control_character(text)) is not None:
        return Problem("control_characters", f"U+{ord(bad):04X}")
    if len(text) < config.min_chars or not any(c.isalnum() for c in text):
        return Problem("empty", f"{len(text)} characters")
    if finish_reason == "length" and not config.allow_truncated:
        return Problem("truncated", "max_tokens reached")
    patterns_by_reason = {"not_text": config.not_text, "refusal": config.refusals, "preamble": config.preambles}
    for reason, patterns in patterns_by_reason.items():
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
    """The first control, surrogate or private-use character, noncharacter, or U+FFFD (a decoding error).

    Unassigned characters are accepted, because some become emoji every year, before Python's tables know them.
    """
    for character in text:
        if character == "�" or unicodedata.category(character) in ("Cc", "Cs", "Co") or _is_noncharacter(character):
            return character
    return None


def _is_noncharacter(character: str) -> bool:
    """Whether the character is a Unicode noncharacter (§23.7)."""
    code = ord(character)
    return code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF


MIN_WORDS = 7
MIN_LETTERS = 9
"""Minimum length of a repetition, in words, or in letters for languages that do not separate words. "very, very, very
good" is not a repetition."""
ONLY_REPEATS = 4
"""A text that consists of at least this many times the same phrase is a repetition, however short it is."""


def repeated_phrase(units: Sequence[str], min_span: int, max_repeats: int) -> tuple[int, int] | None:
    """(length, times) of the shortest phrase that occurs at least `max_repeats` times in a row; None if there is none.

    units: words or letters. The whole repetition must be at least `min_span` units long, or be the whole text and have
    at least ONLY_REPEATS phrases. A phrase of L units that occurs k times in a row is a run of (k − 1)·L positions with
    units[i] == units[i + L].
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
    """(units, minimum span of a repetition): words without punctuation, or letters if words are not separated."""
    letters = [c for c in text if c.isalpha()]
    cjk = sum(script_of(c) in ("han", "kana") for c in letters)
    if 2 * cjk > len(letters):
        return [c for c in text if c.isalnum()], MIN_LETTERS
    return [re.sub(r"^\W+|\W+$", "", word) or word for word in text.casefold().split()], MIN_WORDS
