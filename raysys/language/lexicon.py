"""The readings of a word: its possible parts of speech, the probability of each, and the lemma.

Sources: `words.txt` and `irregular_verbs.txt`, written for raysys, and WordNet's words with their frequencies
(`wordnet_build`). Tags are Penn Treebank tags, as in spaCy's English models. Costs are −log2 of a share, in bits.
"""

from __future__ import annotations

import lzma
import math
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

from raysys.language.wordnet import DATA, MAX_CACHED, NounTable, load_nouns

N, V, A, R = range(4)
"""Tags of the open classes noun, verb, adjective, adverb, in the order of the counts."""

UNSEEN = 0.1
"""Weight of a part of speech that WordNet lists for a word, but that does not occur in its tagged texts."""
PARTICIPLE_SHARE = 0.25
"""Approximate share of the -ing or the -ed form among the occurrences of a verb. A noun like "painting" competes only
with this form."""
IMPERATIVE = 1.5
"""Extra cost of an infinitive or imperative compared to the present tense; mainly, the word before decides."""

_NUMBER = re.compile(r"[+-]?\d[\d.,:/×x]*|\d+(?:s|'s)|[½¼¾⅓⅔]")
_ORDINAL = re.compile(r"\d+(?:st|nd|rd|th)")
_HYPHEN = re.compile("[-‐‑]")
_WORD = re.compile(r"[a-zà-öø-ÿ'’]+(?:[-‐‑][a-z0-9à-öø-ÿ'’]+)*")
_SHORT = re.compile("[^aeiou][aeiou][^aeiouwxy]$")
_ADJECTIVE_ENDINGS = ("ous", "ful", "less", "able", "ible", "ish", "esque", "ic", "ical", "like", "ian")
_OPENING = {"(": "-LRB-", "[": "-LRB-", "{": "-LRB-", ")": "-RRB-", "]": "-RRB-", "}": "-RRB-"}
_MARKS = {",": ",", ".": ".", "!": ".", "?": ".", ":": ":", ";": ":", "...": ":", "…": ":", "#": "#", "$": "$"}
_QUOTES = {'"': "''", "“": "``", "”": "''", "‘": "``", "«": "``", "»": "''"}


class Reading(NamedTuple):
    """One interpretation of a word."""

    tag: str  # Penn Treebank
    cost: float  # bits
    lemma: str


class Lexicon:
    """Readings of words, names and irregular forms. Load it with `load_lexicon`."""

    def __init__(self, nouns: NounTable, sections: dict[str, list[tuple[str, list[str]]]], closed: dict) -> None:
        self.nouns = nouns
        only = {w: label for label, words in sections["only"] for w in words}
        self.names = only | {w: label for label, words in sections["name"] for w in words if label != "NORP"}
        """Lower-case names → entity label: GPE, PERSON, ORG, NORP, DATE. Old, Black and New are not NORP."""
        self.only_names = frozenset(only)
        self._closed = closed
        self._counts = {w: _weights(bits) for bits, words in sections["count"] for w in words}
        self._forms = {pos: dict(pair.split(":") for pair in pairs) for pos, pairs in sections["form"]}
        self._past, self._participle = _irregular_verbs(DATA / "irregular_verbs.txt")
        self._cache: dict[str, tuple[Reading, ...]] = {}

    def readings(self, word: str) -> tuple[Reading, ...]:
        """All readings of a lower-case word: at least one, also for numbers, punctuation marks and unknown words."""
        found = self._cache.get(word)
        if found is None:
            if len(self._cache) >= MAX_CACHED:
                self._cache.clear()
            found = self._cache[word] = self._read(word)
        return found

    def knows(self, word: str) -> bool:
        """Whether a lower-case word is an English word, or a form of one, that is not only a name."""
        if word in self._closed or self._open_class(word):
            return True
        *first, last = _HYPHEN.split(word)
        return bool(first) and self.knows(last)

    def _read(self, word: str) -> tuple[Reading, ...]:
        if word in self._closed:
            return self._closed[word]
        if (mark := _mark(word)) is not None:
            return (Reading(mark, 0.0, word),)
        readings = self._open_class(word) or self._hyphenated(word) or _unknown(word)
        best: dict[str, Reading] = {}
        for reading in sorted(readings, key=lambda r: r.cost, reverse=True):
            best[reading.tag] = reading
        return tuple(sorted(best.values(), key=lambda r: r.cost))

    def _open_class(self, word: str) -> list[Reading]:
        """Readings from WordNet: of the word itself, and of each word of which it is a form. Can be empty."""
        found: list[tuple[str, float, str]] = []  # tag, weight, lemma
        n, v, a, r = self._counts.get(word, (None,) * 4)
        if word in self.only_names:
            n = None
        elif n is None and word in self.nouns:
            n = 1.0
        plural_of = self._forms["n"].get(word)
        if n is not None and plural_of is None:
            found.append(("NN", n, word))
        if v is not None:
            found += [("VBP", v, word), ("VB", v, word)]
        if a is not None:
            found.append(("JJ", a, word))
        if r is not None:
            found.append(("RB", r, word))
        plural_of = plural_of or (self.nouns.base_of(word) if word.endswith(("s", "men")) and n is None else None)
        if plural_of is not None:
            found.append(("NNS", (self._counts.get(plural_of, (None,))[0] or 1.0), plural_of))
        found += self._verb_forms(word) + self._degrees(word)
        total = sum(weight for tag, weight, _ in found if tag not in ("VB", "VBD"))
        extra = {"VB": IMPERATIVE}
        return [Reading(t, math.log2((total or w) / w) + extra.get(t, 0.0), lemma) for t, w, lemma in found]

    def _verb_forms(self, word: str) -> list[tuple[str, float, str]]:
        """-s, -ing, -ed and irregular forms as (tag, weight, base)."""
        if word in self._past or word in self._participle:
            forms = [("VBD", self._past.get(word)), ("VBN", self._participle.get(word))]
            return [(tag, self._verb_weight(base), base) for tag, base in forms if base is not None]
        base = self._forms["v"].get(word) or next((b for b in _verb_bases(word) if self._is_verb(b)), None)
        if base is None:
            return []
        weight = self._verb_weight(base)
        if word.endswith("ing"):
            return [("VBG", weight * PARTICIPLE_SHARE, base)]
        if word.endswith("s") and word != base and not word.endswith("ss"):
            return [("VBZ", weight, base)]
        weight *= PARTICIPLE_SHARE
        return [("VBN", weight, base), ("VBD", weight, base)]

    def _degrees(self, word: str) -> list[tuple[str, float, str]]:
        """bigger, biggest: (JJR or JJS, weight, base)."""
        base = self._forms["a"].get(word)
        tag = "JJS" if word.endswith("st") else "JJR"
        if base is None and word.endswith(("er", "est")) and len(word) > 4:
            stem = word[: -len("er" if tag == "JJR" else "est")]
            stems = (stem, stem + "e", stem[:-1] + "y" if stem.endswith("i") else stem)
            base = next((s for s in stems if self._counts.get(s, (None,) * 4)[A] is not None), None)
        return [] if base is None else [(tag, max(self._counts.get(base, (None, None, 1.0))[A] or 1.0, 1.0), base)]

    def _hyphenated(self, word: str) -> list[Reading]:
        """Readings of a compound outside WordNet: 2-ton, blue-eyed, multi-storey are adjectives, cat-lover is not."""
        *first, last = _HYPHEN.split(word)
        if not first or not last:
            return []
        if _NUMBER.fullmatch(first[0]) or any(r.tag == "CD" for r in self.readings(first[0])):
            return [Reading("CD" if _NUMBER.fullmatch(last) else "JJ", 0.0, word)]
        tag = self.readings(last)[0].tag
        if tag in ("NN", "NNS"):
            return [Reading(tag, 0.5, word), Reading("JJ", 1.5, word)]
        return [Reading("JJ", 0.0, word), Reading("NN", 3.0, word)]

    def _is_verb(self, base: str) -> bool:
        return self._counts.get(base, (None,) * 4)[V] is not None

    def _verb_weight(self, base: str) -> float:
        return self._counts.get(base, (None,) * 4)[V] or UNSEEN


def _weights(bits: str) -> tuple[float | None, ...]:
    """`5 3 - 0` → occurrences as noun, verb, adjective, adverb; None where WordNet has no such sense."""
    return tuple(None if b == "-" else max(2.0 ** int(b) - 1, UNSEEN) for b in bits.split())


def _verb_bases(word: str) -> list[str]:
    """Candidates for the base of a regular form, the most likely first."""
    if word.endswith(("ies", "ied")):
        return [word[:-3] + "y", word[:-1]]
    if word.endswith("s"):
        return [word[:-1], word[:-2]] if word.endswith("es") else [word[:-1]]
    stem = word[:-3] if word.endswith("ing") else word[:-2] if word.endswith("ed") else ""
    if len(stem) < 2:
        return []
    if stem[-1] == stem[-2]:
        return [stem, stem[:-1]]
    # "riding" is a form of "ride": a short "rid" would double its last letter.
    return [stem + "e", stem] if _SHORT.search(stem) else [stem, stem + "e"]


def _mark(word: str) -> str | None:
    """The tag of punctuation, numbers, symbols and letters of other scripts; None for words."""
    for table in (_MARKS, _OPENING, _QUOTES):
        if word in table:
            return table[word]
    if _NUMBER.fullmatch(word):
        return "CD"
    if _ORDINAL.fullmatch(word):
        return "JJ"
    if not any(c.isalnum() for c in word):
        return ":" if set(word) <= set("-–—/|•·*_~") else "SYM"
    if not any("a" <= c <= "z" for c in word):
        return "FW"
    return None


def _unknown(word: str) -> list[Reading]:
    """Readings of an unknown word by its ending; most unknown words are nouns."""
    if not _WORD.fullmatch(word):
        return [Reading("NN", 0.0, word)]
    if word.endswith("ly") and len(word) > 4:
        return [Reading("RB", 0.0, word), Reading("JJ", 3.0, word)]
    if word.endswith("ing") and len(word) > 5:
        return [Reading("VBG", 1.0, word[:-3]), Reading("NN", 1.0, word)]
    if word.endswith("ed") and len(word) > 4:
        return [Reading("VBN", 1.0, word[:-2]), Reading("JJ", 1.0, word), Reading("VBD", 2.0, word[:-2])]
    if word.endswith(_ADJECTIVE_ENDINGS):
        return [Reading("JJ", 0.5, word), Reading("NN", 1.5, word)]
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > 3:
        return [Reading("NNS", 0.3, word[:-1]), Reading("NN", 2.0, word)]
    return [Reading("NN", 0.0, word)]


def data_lines(path: Path) -> list[list[str]]:
    """The fields of each line of a data file; `#` begins a comment line."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return [line.split() for line in lines if line and not line.startswith("# ")]


def _irregular_verbs(path: Path) -> tuple[dict[str, str], dict[str, str]]:
    """(past tense → base, past participle → base)."""
    rows = data_lines(path)
    return {past: base for base, past, _ in rows}, {participle: base for base, _, participle in rows}


def _closed_class(path: Path) -> dict[str, tuple[Reading, ...]]:
    lemmas = {"am": "be", "is": "be", "are": "be", "was": "be", "were": "be", "been": "be", "being": "be"}
    lemmas |= {"'m": "be", "'re": "be", "'s": "be", "’s": "be", "has": "have", "had": "have", "having": "have"}
    lemmas |= {"'ve": "have", "does": "do", "did": "do", "done": "do", "doing": "do", "n't": "not", "an": "a"}
    closed = {}
    for word, *tags in data_lines(path):
        pairs = (tag.rpartition(":") if tag[-1].isdigit() else (tag, "", "0") for tag in tags)
        lemma = lemmas.get(word, word)
        closed[word] = tuple(Reading(tag, float(cost), lemma if tag != "POS" else word) for tag, _, cost in pairs)
    return closed


@cache
def load_lexicon() -> Lexicon:
    """The shipped lexicon."""
    sections: dict[str, list[tuple[str, list[str]]]] = {"count": [], "name": [], "only": [], "form": []}
    with lzma.open(DATA / "wordnet_words.txt.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            key, _, words = line.partition("\t")
            kind, _, rest = key.partition(" ")
            sections[kind].append((rest, words.split()))
    return Lexicon(load_nouns(), sections, _closed_class(DATA / "words.txt"))
