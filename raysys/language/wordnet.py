"""Table of WordNet 3.0 nouns: word → (number of direct hyponyms, minimum depth) of its first noun synset.

The table is shipped with WordNet's license, and was built by `wordnet_build`. It has no phrases ("ice cream"), because
the score looks up single words.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from functools import cache
from pathlib import Path

DATA = Path(__file__).resolve().parent / "data"
NOUNS_FILE = "wordnet_nouns.txt.xz"

MEAN_HYPONYMS = 75_850 / 30_000
"""A, the global average of hyponyms: all direct hyponyms of WordNet 3.0 / the paper's lexicon of 30,000 words."""
MEAN_MIN_DEPTH = 7.955148
"""D, the global average depth: the mean minimum depth of all 82,115 noun synsets of WordNet 3.0."""

ENDINGS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)
"""WordNet's rules from plural to singular, in its order (morphy(7WN), and -ves as in later releases)."""

Numbers = tuple[int, int]
"""(direct hyponyms, minimum depth)."""

MAX_CACHED = 30_000
"""Maximum number of cached inflected words; a full cache is emptied."""


class NounTable:
    """The numbers of the first noun synset of every word.

    Words are looked up as in WordNet: as written, then as an irregular plural, then by the rules `ENDINGS`. So
    "glasses" means spectacles and is not the plural of "glass", independent of the lemma from a tagger.
    """

    def __init__(self, lemmas: dict[str, Numbers], irregular: dict[str, Numbers | None]) -> None:
        """Lower-case lemmas and irregular plurals → their numbers; None = not a plural, even if a rule matches."""
        self._lemmas = lemmas
        # Rules give only lemmas, so irregular plurals are kept separately; one lookup in `_direct` finds both.
        self._direct = irregular | lemmas
        self._regular: dict[str, Numbers | None] = {}

    def __len__(self) -> int:
        return len(self._lemmas)

    def __contains__(self, lemma: str) -> bool:
        """Whether the lower-case word itself is in WordNet; plurals are not tried."""
        return lemma in self._lemmas

    def get(self, word: str) -> Numbers | None:
        """(direct hyponyms, minimum depth) of the first noun synset; None if the word is not a noun in WordNet."""
        word = word.lower()
        if word in self._direct:
            return self._direct[word]
        if word in self._regular:
            return self._regular[word]
        base = self.base_of(word)
        if len(self._regular) >= MAX_CACHED:
            self._regular.clear()
        found = self._regular[word] = None if base is None else self._lemmas[base]
        return found

    def totals(self, words: Iterable[str]) -> tuple[int, int, int]:
        """(number of words that are nouns in WordNet, sum of their direct hyponyms, sum of their minimum depths)."""
        n = hyponyms = depth = 0
        direct = self._direct
        for word in words:
            # Most nouns are lower-case singulars, which this lookup finds without a call.
            if numbers := direct.get(word) or self.get(word):
                n += 1
                hyponyms += numbers[0]
                depth += numbers[1]
        return n, hyponyms, depth

    def base_of(self, word: str) -> str | None:
        """The lemma of a lower-case regular plural: rules are applied until one gives a lemma."""
        forms = _shorter([word])
        while forms:
            for form in forms:
                if form in self._lemmas:
                    return form
            forms = _shorter(forms)
        return None


def _shorter(forms: list[str]) -> list[str]:
    return [form[: -len(old)] + new for form in forms for old, new in ENDINGS if form.endswith(old)]


@cache
def load_nouns(path: Path = DATA / NOUNS_FILE) -> NounTable:
    """Load the shipped table. Lines are `hyponyms depth lemma lemma … | irregular plurals …`; `-` = no noun."""
    lemmas: dict[str, Numbers] = {}
    irregular: dict[str, Numbers | None] = {}
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            words, _, plurals = line.partition("|")
            hyponyms, depth, *words = words.split()
            numbers = None if hyponyms == "-" else (int(hyponyms), int(depth))
            lemmas.update(dict.fromkeys(words, numbers))
            irregular.update(dict.fromkeys(plurals.split(), numbers))
    return NounTable(lemmas, irregular)
