"""Is this a usable caption? Each check answers with a reason, and every threshold is configuration."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from raysys.captions.cleaning import LEAD_INS, TRAILERS, clean
from raysys.captions.languages import other_language, script_of, script_share
from raysys.config import Config

REFUSALS = (
    r"^(i('|’)?m|i am) (sorry[,.]|sorry,? (but )?i\b|unable|not able)",
    r"^sorry\b.*\b(can('|’)?t|cannot|could not|couldn('|’)t|unable|not able|don('|’)t|images?|pictures?|help)\b",
    r"^unfortunately[, ]",
    r"^i (cannot|can('|’)?t|could not|couldn('|’)t|won('|’)t) ([\w-]+ ){0,2}(access|analy[sz]e|answer|assist|be|"
    r"caption|comply|confirm|continue|create|describe|determine|discuss|do|engage|fulfil|fulfill|generate|give|help|"
    r"identify|interpret|look|make|open|process|produce|provide|read|recogni[sz]e|say|see|tell|translate|view|write)\b",
    r"^as an? (ai|artificial intelligence|large language model|language model)\b",
    r"\bas an? (ai|language model)\b[^.]*\bi (cannot|can('|’)?t|am|do not|don('|’)t)\b",
    r"^(申し訳(ありません|ございません)|すみません[、。]|すみませんが|ごめんなさい[、。])",
    r"(お手伝い|お答え|説明|生成|翻訳)(する)?ことは?でき(ません|かねます)",
)
"""How models decline, as regular expressions over the whole text, upper and lower case alike."""

PREAMBLES = (
    r"^(sure|certainly|of course|absolutely|okay)\b\s*[!,.]",
    r"^here(('|’)s| is) (an?|the|my|your) ([\w-]+ ){0,4}(caption|description|translation|version)\b",
    r"^((an?|the) )?((more|extremely|very) )?((general|generalized|generic|image) )?(caption|description|translation)"
    r"\s*:?$",
    r"^(以下|次)(は|が|に|の).{0,20}(翻訳|訳文?|キャプション|説明文?)",
)
"""Talk about a caption where the caption should be, after `clean` took off what it knows."""


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as exc:
        raise ValueError(f"{pattern!r} is no regular expression: {exc}") from None
    return pattern


Pattern = Annotated[str, AfterValidator(_compiles)]


class ChecksConfig(Config):
    """What a caption must be. One that is not is asked for again, then rejected with the reason."""

    max_resamples: int = Field(3, ge=0, description="times a caption that fails is asked for again")
    resample_temperature: float = Field(
        0.7, ge=0, description="temperature of those tries, when the first one was colder: greedy would repeat itself"
    )
    min_chars: int = Field(2, ge=1, description="shorter texts are `empty`")
    max_repeats: int = Field(4, ge=2, description="a phrase this many times in a row is a `repetition`")
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
    trailers: tuple[Pattern, ...] = Field(TRAILERS, description="regular expressions of remarks behind a caption")
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
    if repeats := repeated_phrase(_units(text), config.max_repeats):
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


MAX_PHRASE = 24
"""Longest phrase, in words or characters, that is looked for in a row."""
MIN_SPAN = 8
"""A loop of single letters or short words ("ha ha ha ha", "!!!!") must be this long in all to count."""


def repeated_phrase(units: Sequence[str], max_repeats: int) -> tuple[int, int] | None:
    """(length, times) of the shortest phrase that stands `max_repeats` times or more in a row; None without one.

    A phrase of L units k times in a row is a run of (k − 1)·L positions where units[i] == units[i + L].
    """
    for length in range(1, min(MAX_PHRASE, len(units) // max_repeats) + 1):
        needed = max((max_repeats - 1) * length, MIN_SPAN - length)
        run = longest = 0
        for left, right in zip(units, units[length:], strict=False):
            run = run + 1 if left == right else 0
            longest = max(longest, run)
        if longest >= needed:
            return length, longest // length + 1
    return None


def _units(text: str) -> list[str]:
    """Words; characters where words are not separated (Japanese, Chinese)."""
    letters = [c for c in text if c.isalpha()]
    cjk = sum(script_of(c) in ("han", "kana") for c in letters)
    return list(text.replace(" ", "")) if 2 * cjk > len(letters) else text.casefold().split()
