"""Universal parts of speech and features of tagged words, as in spaCy's English models.

As there, the past tense of a full verb has no mood, and "is", "has" in "has seen" and "do" in "do not" are AUX.
"""

from __future__ import annotations

from collections.abc import Sequence

from raysys.language.lexicon import Reading
from raysys.language.tagger import Word

POS = {
    "NN": "NOUN", "NNS": "NOUN", "NNP": "PROPN", "NNPS": "PROPN", "PRP": "PRON", "PRP$": "PRON", "WP": "PRON",
    "EX": "PRON", "WDT": "PRON", "DT": "DET", "PDT": "DET", "CD": "NUM", "JJ": "ADJ", "JJR": "ADJ", "JJS": "ADJ",
    "RB": "ADV", "RBR": "ADV", "RBS": "ADV",
    "WRB": "SCONJ", "IN": "ADP", "RP": "ADP", "TO": "ADP", "POS": "PART", "CC": "CCONJ", "MD": "AUX",
    "VB": "VERB", "VBP": "VERB", "VBZ": "VERB", "VBD": "VERB", "VBG": "VERB", "VBN": "VERB", "UH": "INTJ", "FW": "X",
    "SYM": "SYM", "$": "SYM", "#": "SYM", "HYPH": "PUNCT", ",": "PUNCT", ".": "PUNCT", ":": "PUNCT", "-LRB-": "PUNCT",
    "-RRB-": "PUNCT", "``": "PUNCT", "''": "PUNCT", "_SP": "SPACE",
}  # fmt: skip
"""Penn Treebank tag → universal part of speech; AUX, SCONJ and PART are determined later from the context."""

MORPH = {
    "NN": "Number=Sing",
    "NNS": "Number=Plur",
    "NNP": "Number=Sing",
    "NNPS": "Number=Plur",
    "CD": "NumType=Card",
    "JJ": "Degree=Pos",
    "JJR": "Degree=Cmp",
    "JJS": "Degree=Sup",
    "RBR": "Degree=Cmp",
    "RBS": "Degree=Sup",
    "MD": "VerbForm=Fin",
    "VB": "VerbForm=Inf",
    "VBP": "Tense=Pres|VerbForm=Fin",
    "VBZ": "Number=Sing|Person=3|Tense=Pres|VerbForm=Fin",
    "VBD": "Tense=Past|VerbForm=Fin",
    "VBG": "Aspect=Prog|Tense=Pres|VerbForm=Part",
    "VBN": "Aspect=Perf|Tense=Past|VerbForm=Part",
}
"""Penn Treebank tag → features."""

SUBORDINATORS = frozenset(
    {"that", "if", "because", "while", "whilst", "although", "though", "since", "unless", "whether", "until", "as"}
)  # fmt: skip
INDEFINITE = frozenset({f"{some}{who}" for some in ("some", "any", "every", "no") for who in ("one", "body", "thing")})
"""someone, anybody, everything …: tagged as nouns, but pronouns."""
FINITE = ("VBZ", "VBP", "VBD")


def all_morphs() -> set[str]:
    """All features that `universal` can return."""
    return {"", *MORPH.values(), *(f"Mood=Ind|{MORPH[tag]}" for tag in FINITE)}


def universal(words: Sequence[Word], readings: Sequence[Reading]) -> list[tuple[str, str]]:
    """(universal part of speech, features) of each word of a caption."""
    tags = [r.tag for r in readings]
    found = []
    for i, (tag, _, lemma) in enumerate(readings):
        pos, morph = POS[tag], MORPH.get(tag, "")
        if pos == "VERB":
            if _is_auxiliary(lemma, tags, i):
                pos = "AUX"
                if lemma == "be" and tag in FINITE:
                    morph = f"Mood=Ind|{morph}"
        elif tag == "NN" and lemma in INDEFINITE:
            pos = "PRON"
        elif tag == "IN" and words[i].text.lower() in SUBORDINATORS:
            pos = "SCONJ" if _has_verb(tags, i + 1) else "ADP"
        elif (tag == "TO" and tags[i + 1 : i + 2] == ["VB"]) or (tag == "RB" and lemma == "not"):
            pos = "PART"
        found.append((pos, morph))
    return found


def _is_auxiliary(lemma: str, tags: Sequence[str], i: int) -> bool:
    """be always; have before a participle; do before an infinitive. Adverbs, "not" and a subject may come between."""
    if lemma == "be":
        return True
    if lemma not in ("have", "do"):
        return False
    wanted = "VBN" if lemma == "have" else "VB"
    for tag in tags[i + 1 : i + 5]:
        if tag == wanted:
            return True
        if tag not in ("RB", "PRP"):
            return False
    return False


def _has_verb(tags: Sequence[str], start: int) -> bool:
    """Whether a clause follows and not only a phrase: "while it rains", but not "as a gift"."""
    return any(tag in (*FINITE, "MD", "VBG") for tag in tags[start : start + 5])
