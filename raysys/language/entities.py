"""Rule-based named entities of tagged captions: names, dates, times, amounts. Labels are those of OntoNotes.

A run of proper nouns is a name. For single words, WordNet tells whether it is a place, a person, a group or a time. All
other names get the label NAME, because rules cannot distinguish, for example, a person from a film.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from raysys.language.lexicon import data_lines
from raysys.language.wordnet import DATA


def _word_lists() -> dict[str, frozenset[str]]:
    lists: defaultdict[str, set[str]] = defaultdict(set)
    for name, *words in data_lines(DATA / "entities.txt"):
        lists[name].update(words)
    return {name: frozenset(words) for name, words in lists.items()}


_LISTS = _word_lists()
MONTHS, PERIODS, CLOCK_WORDS, ORDINALS = (_LISTS[name] for name in ("month", "period", "clock", "ordinal"))
UNITS, TIMES, SCALES, CURRENCIES, COINS = (_LISTS[name] for name in ("unit", "times", "scale", "currency", "coin"))
LINKS, COMPANY = _LISTS["link"], _LISTS["company"]

_YEAR = re.compile(r"1[0-9]{3}|20[0-9]{2}|(?:1[0-9]|20)?[0-9]0'?s")
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?|\d{1,2}(?:am|pm)")
_DATE = re.compile(r"\d{1,4}[/.]\d{1,2}[/.]\d{1,4}")
_HYPHEN = re.compile("[-‐‑]")

Entity = tuple[int, int, str]
"""(index of the first word, index after the last word, label)"""


def find_entities(words: Sequence[str], tags: Sequence[str], names: Mapping[str, str]) -> list[Entity]:
    """The entities of a caption, in order and without overlap. `names`: lower-case name → label (`Lexicon.names`)."""
    lower = [w.lower() for w in words]
    found: list[Entity] = []
    i = 0
    while i < len(words):
        entity = _at(i, words, lower, tags, names)
        if entity is None:
            i += 1
            continue
        end, label = entity
        found.append((i, end, label))
        i = end
    return found


def _at(
    i: int, words: Sequence[str], lower: Sequence[str], tags: Sequence[str], names: Mapping[str, str]
) -> tuple[int, str] | None:
    """(end, label) of the entity that begins at word i, if any."""
    tag, word = tags[i], lower[i]
    if tag == "CD" or word in CURRENCIES:
        return _amount(i, lower, tags)
    if word in MONTHS and tag.startswith("N") and words[i][0].isupper():
        return _while_number(i + 1, lower, tags), "DATE"
    if tag in ("NNP", "NNPS") and words[i][0].isupper():
        return _name(i, words, lower, tags, names)
    if tag in ("JJ", "RB") and (word in ORDINALS or _ORDINAL.fullmatch(word)):
        return _before_period(i, lower, "ORDINAL")
    if "-" in word and word[0].isdigit():
        return _measure(i, word)
    if tag == "JJ" and names.get(word) == "NORP" and words[i][0].isupper():
        return i + 1, "NORP"
    return None


def _amount(i: int, lower: Sequence[str], tags: Sequence[str]) -> tuple[int, str] | None:
    """(end, label) of an amount that begins with a number or a currency sign."""
    n = len(lower)
    if lower[i] in CURRENCIES:
        if i + 1 < n and tags[i + 1] == "CD":
            return _while_scale(i + 2, lower), "MONEY"
        return None
    word = lower[i]
    end = _while_scale(i + 1, lower)
    after = lower[end] if end < n else ""
    if _CLOCK.fullmatch(word) or after in CLOCK_WORDS:
        return end + (after in CLOCK_WORDS), "TIME"
    if after in ("%", "percent"):
        return end + 1, "PERCENT"
    if after in CURRENCIES | COINS:
        return end + 1, "MONEY"
    if after in MONTHS:
        return _while_number(end + 1, lower, tags), "DATE"
    if _DATE.fullmatch(word) or after in PERIODS or _YEAR.fullmatch(word):
        return end + (after in PERIODS), "DATE"
    return _quantity(end, lower, tags)


def _quantity(end: int, lower: Sequence[str], tags: Sequence[str]) -> tuple[int, str]:
    """A number with a unit is a QUANTITY (10 inches, 20 x 30 cm), without a unit a CARDINAL."""
    last, label = end, "CARDINAL"
    while end < len(lower):
        if lower[end] in UNITS and tags[end] != "IN":  # 3 dogs in a park
            end, last, label = end + 1, end + 1, "QUANTITY"
        elif lower[end] in TIMES and end + 1 < len(lower) and tags[end + 1] == "CD":
            end += 2
        else:
            break
    return last, label


def _measure(i: int, word: str) -> tuple[int, str] | None:
    """A number and a unit in one word: 2-ton, 10-inch, 5-year-old."""
    unit = _HYPHEN.split(word)[1]
    if unit in UNITS:
        return i + 1, "QUANTITY"
    if unit in PERIODS:
        return i + 1, "DATE"
    return (i + 1, "TIME") if unit in CLOCK_WORDS else None


def _name(
    i: int, words: Sequence[str], lower: Sequence[str], tags: Sequence[str], names: Mapping[str, str]
) -> tuple[int, str]:
    """A run of proper nouns with following numbers (Boeing 747); function words may link two of them."""
    end = i + 1
    while end < len(words):
        if tags[end] in ("NNP", "NNPS"):
            end += 1
        elif lower[end] in LINKS and end + 1 < len(words) and tags[end + 1] in ("NNP", "NNPS"):
            end += 2
        else:
            break
    if end < len(words) and tags[end] == "CD" and not _YEAR.fullmatch(lower[end]):
        return end + 1, "PRODUCT"
    if lower[end - 1] in COMPANY or lower[i] in COMPANY:
        return end, "ORG"
    return end, names.get(lower[i], "NAME") if end == i + 1 else "NAME"


def _while_number(end: int, lower: Sequence[str], tags: Sequence[str]) -> int:
    """The end of the numbers after a month, across a comma: June 5, 2015."""
    while end < len(lower):
        if tags[end] == "CD":
            end += 1
        elif lower[end] == "," and end + 1 < len(lower) and _YEAR.fullmatch(lower[end + 1]):
            end += 2
        else:
            break
    return end


def _while_scale(end: int, lower: Sequence[str]) -> int:
    """The end of the words that scale the number before them: 5 million."""
    while end < len(lower) and lower[end] in SCALES:
        end += 1
    return end


def _before_period(i: int, lower: Sequence[str], label: str) -> tuple[int, str]:
    """An ordinal before a period is a date: 19th century."""
    if i + 1 < len(lower) and lower[i + 1] in PERIODS:
        return i + 2, "DATE"
    return i + 1, label
