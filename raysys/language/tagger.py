"""Rule-based part-of-speech tagging of English captions: the cheapest path through the readings of the words.

    cost of a path = Σ cost of each reading (`lexicon`) + Σ cost of each tag after the previous tag (`transitions.txt`)

All costs were set by hand; nothing is trained. Captions in title case are recognized by their share of capitalized
words. Words are not spaCy's tokens: "T-shirt" is three tokens in spaCy, but one word here.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from raysys.language.lexicon import Lexicon, Reading, data_lines, load_lexicon
from raysys.language.wordnet import DATA, MAX_CACHED

TITLE_CASE_SHARE = 0.75
"""If the share of capitalized words after the first word is higher, capital letters do not indicate names."""
TITLE_COSTS = {"VBG": 5.5, "VBZ": 2.0, "VBP": 2.0, "VBD": 2.0, "VB": 2.0, "VBN": 2.0}
"""Extra cost of a capitalized verb in a title: titles are mostly nouns, and their -ing words are names of
activities ("Pipe Welding", "Running Shoes")."""
NAME_COST = 4.0
"""Cost of reading a capitalized word as a name if capitals are not clear evidence and it is also a common word."""
HYPHENS = frozenset("-‐‑")
NOUN_TAGS = frozenset({"NN", "NNS", "NNP", "NNPS"})
VERB_TAGS = frozenset({"VB", "VBP", "VBZ", "VBD", "VBG", "VBN"})
SENTENCE_END = frozenset(".!?")

_ALIASES = {
    "DT": ("PDT", "PRP$", "POS"),
    "JJ": ("JJR", "JJS"),
    "NNP": ("NNPS",),
    "RB": ("RBR", "RBS", "WRB"),
    "PRP": ("WP",),
    "VBZ": ("VBP",),
    "Y": (",", ":", "-LRB-", "-RRB-", "``", "''", "SYM", "#", "$"),
    "S": (".",),
}
"""Tags that share a row or an entry of `transitions.txt`; a separate entry for a tag has priority."""


_COMPOUND_TAGS = frozenset({"JJ", "NN", "NNS", "CD", "RB"})
_NO_NAME = {"", *HYPHENS}
"""Words after a single capital letter that do not make it the beginning of a name: I, A, T-shirt, X-ray."""
_KEY = "raysys.analysis"

_FIXED = {"beside": "RB", "hour": "NN"}
"""left of, right of; 10 am."""


class Word(NamedTuple):
    """A word of a caption, and its range of tokens."""

    text: str
    start: int  # index of the first token
    end: int  # index after the last token


def words_of(doc: Any) -> list[Word]:
    """The words of a spaCy Doc: tokens, joined at hyphens without spaces. White space is not a word."""
    texts = [token.text for token in doc]
    if HYPHENS.isdisjoint(texts):
        return [Word(text, i, i + 1) for i, text in enumerate(texts) if not text.isspace()]
    tight = [not token.whitespace_ for token in doc]
    words: list[Word] = []
    i, n = 0, len(texts)
    while i < n:
        start, text = i, texts[i]
        i += 1
        while i + 1 < n and texts[i] in HYPHENS and tight[i - 1] and tight[i] and _joins(text, texts[i + 1]):
            text += texts[i] + texts[i + 1]
            i += 2
        if not text.isspace():
            words.append(Word(text, start, i))
    return words


def _joins(left: str, right: str) -> bool:
    return left[-1].isalnum() and right[0].isalnum()


class Analysis(NamedTuple):
    """The words of a caption, the reading of each word, and the words that the score counts as nouns."""

    words: list[Word]
    readings: list[Reading]
    nouns: list[str]


class Tagger:
    """Tags words, and caches the readings of words."""

    def __init__(self, lexicon: Lexicon) -> None:
        self.lexicon = lexicon
        self._transitions = transitions()
        self._candidates: dict[tuple[str, str], tuple[Reading, ...]] = {}

    def tag(self, words: Sequence[str]) -> list[Reading]:
        """The reading of each word."""
        if not words:
            return []
        return self._cheapest([self._readings(*item) for item in self._in_context(words)])

    def _in_context(self, words: Sequence[str]) -> list[tuple[str, str]]:
        """(word, place) of each word. The place affects its reading: start, inside, name, title or one of _FIXED."""
        title = is_title_case(words)
        context = []
        place = "start"
        for i, word in enumerate(words):
            before, after = words[i - 1] if i else "", words[i + 1] if i + 1 < len(words) else ""
            if (word, after) in (("left", "of"), ("right", "of")) and before != "the":
                context.append((word, "beside"))
            elif word in ("am", "AM") and before[-1:].isdigit():
                context.append((word, "hour"))
            elif not title and after[:1].isupper() and (place == "inside" or self._begins_name(word)):
                context.append((word, "name"))
            else:
                context.append((word, "title" if title else place))
            place = "start" if word in SENTENCE_END else "inside"
        return context

    def _begins_name(self, word: str) -> bool:
        """Whether the first word, before a capitalized one, begins a name (Golden Gate): not a function word."""
        return self.lexicon.readings(word.lower())[0].tag in ("NN", "NNS", "JJ", "VBG")

    def _readings(self, word: str, place: str) -> tuple[Reading, ...]:
        key = (word, place)
        found = self._candidates.get(key)
        if found is None:
            if len(self._candidates) >= MAX_CACHED:
                self._candidates.clear()
            found = self._candidates[key] = self._read(word, word.lower(), place)
        return found

    def _read(self, word: str, lower: str, place: str) -> tuple[Reading, ...]:
        if place in _FIXED:
            return (Reading(_FIXED[place], 0.0, lower),)
        readings = self.lexicon.readings(lower)
        if not word[0].isupper() or readings[0].tag in ("CD", "FW"):
            return readings
        label = self.lexicon.names.get(lower)
        name = Reading("NNP", 0.0, word)
        known = self.lexicon.knows(lower)
        if place in ("inside", "name") and word[1:2] not in _NO_NAME:
            if place == "inside" and label == "NORP" and readings[0].tag == "JJ":
                return (*readings, Reading("NNP", 1.0, word))  # an American flag; across the Atlantic
            return (name,)
        if not known:
            return (name,)
        if label is not None:
            readings = (*readings, Reading("NNP", NAME_COST, word))
        if place == "title":
            return tuple(r._replace(cost=r.cost + TITLE_COSTS.get(r.tag, 0.0)) for r in readings)
        return readings

    def _cheapest(self, columns: list[tuple[Reading, ...]]) -> list[Reading]:
        """The path of lowest cost through the columns (Viterbi), from the start to the end of the sentence."""
        paths: list[tuple[float, str, tuple | None, Reading | None]] = [(0.0, "S", None, None)]
        for column in columns:
            extended = []
            for reading in column:
                tag = reading.tag
                to_tag = self._transitions[tag]
                if len(paths) == 1:
                    best = paths[0]
                    cost = best[0] + to_tag[best[1]]
                else:
                    cost, best = min(((p[0] + to_tag[p[1]], p) for p in paths), key=lambda item: item[0])
                extended.append((cost + reading.cost, tag, best, reading))
            paths = extended
        to_end = self._transitions["S"]
        path = min(paths, key=lambda p: p[0] + to_end[p[1]])
        tagged = []
        while path[2] is not None:
            tagged.append(path[3])
            path = path[2]
        return tagged[::-1]


def is_title_case(words: Sequence[str]) -> bool:
    """Whether the first word and nearly all others of four letters or more begin with a capital."""
    if words[0][0].islower():
        return False
    capital = [w[0].isupper() for w in words[1:] if len(w) > 3 and w[0].isalpha()]
    return bool(capital) and sum(capital) > TITLE_CASE_SHARE * len(capital)


@cache
def transitions() -> dict[str, dict[str, float]]:
    """[right][left] → cost of tag `right` after tag `left`, for all pairs."""
    rows = {}
    for left, *pairs in data_lines(DATA / "transitions.txt"):
        rows[left] = {right: float(cost) for right, cost in zip(pairs[::2], pairs[1::2], strict=True)}
    shared = {alias: tag for tag, aliases in _ALIASES.items() for alias in aliases}
    tags = [*rows, *(a for a in shared if a not in rows)]
    costs: dict[str, dict[str, float]] = {}
    for right in tags:
        costs[right] = {}
        for left in tags:
            row = rows[left if left in rows else shared[left]]
            default = row.get(shared.get(right, right), row["*"])
            costs[right][left] = row.get(right, default)
    return costs


@cache
def load_tagger() -> Tagger:
    """The tagger with the shipped lexicon."""
    return Tagger(load_lexicon())


def analysis_of(doc: Any) -> Analysis:
    """The rule-based analysis of a spaCy Doc from any pipeline, computed once and cached in its user data."""
    found = doc.user_data.get(_KEY)
    if found is None:
        words = words_of(doc)
        readings = load_tagger().tag([w.text for w in words])
        found = doc.user_data[_KEY] = Analysis(words, readings, nouns_of(words, readings))
    return found


def nouns_of(words: Sequence[Word], readings: Sequence[Reading]) -> list[str]:
    """Common and proper nouns, and the capitalized verbs inside a caption.

    The paper finds verbs with spaCy, and nouns with a second tagger that reads capitalized words as names: in its
    example "… Welding Stands for …", "Stands" counts as a verb and as a noun. Therefore capitalized verbs are included.
    """
    return [
        word.text
        for i, (word, reading) in enumerate(zip(words, readings, strict=True))
        if reading.tag in NOUN_TAGS or (i and reading.tag in VERB_TAGS and word.text[0].isupper())
    ]


def compound_parts(tokens: Sequence[str], reading: Reading) -> list[Reading]:
    """A reading for each token of a hyphenated word (heavy JJ - HYPH duty NN), none of which is a verb."""
    lexicon = load_lexicon()
    parts = []
    for text in tokens:
        if text in HYPHENS:
            parts.append(Reading("HYPH", 0.0, text))
            continue
        options = (r for r in lexicon.readings(text.lower()) if r.tag in _COMPOUND_TAGS)
        parts.append(next(options, Reading("JJ", 0.0, text.lower())))
    if reading.tag in NOUN_TAGS:
        parts[-1] = Reading(reading.tag, 0.0, parts[-1].lemma)
    return parts
