"""The pipeline of rules: tags, features, lemmas and entities of captions, and no word that stops it."""

from __future__ import annotations

import lzma
import random

import pytest

from raysys.language.lexicon import load_lexicon
from raysys.language.nlp import load_pipeline
from raysys.language.tagger import analysis_of, transitions
from raysys.language.wordnet import DATA
from tests.support.tagged_captions import TAGGED


@pytest.fixture(scope="module")
def rules():
    return load_pipeline("rules")


def test_parts_of_speech_of_captions_tagged_by_hand(rules) -> None:
    from spacy.tokens import Doc

    right = total = 0
    for line in TAGGED.strip().splitlines():
        words, wanted = zip(*(item.rsplit("/", 1) for item in line.split()), strict=True)
        doc = Doc(rules.vocab, words=list(words))
        for _, component in rules.pipeline:
            doc = component(doc)
        right += sum(token.pos_ == pos for token, pos in zip(doc, wanted, strict=True))
        total += len(wanted)
    assert total > 500
    assert right / total > 0.97


def test_a_caption_of_the_demo_in_full(rules) -> None:
    doc = rules("a red star left of a blue ring on a striped background")
    assert [(t.tag_, t.pos_) for t in doc] == [
        ("DT", "DET"), ("JJ", "ADJ"), ("NN", "NOUN"), ("RB", "ADV"), ("IN", "ADP"), ("DT", "DET"), ("JJ", "ADJ"),
        ("NN", "NOUN"), ("IN", "ADP"), ("DT", "DET"), ("JJ", "ADJ"), ("NN", "NOUN"),
    ]  # fmt: skip


def test_features_and_lemmas(rules) -> None:
    doc = rules("The children were wearing hats, ran home, see 3 bigger mice and can swim")
    found = {t.text: (t.lemma_, str(t.morph)) for t in doc}
    assert found["children"] == ("child", "Number=Plur")
    assert found["were"] == ("be", "Mood=Ind|Tense=Past|VerbForm=Fin")
    assert found["wearing"] == ("wear", "Aspect=Prog|Tense=Pres|VerbForm=Part")
    assert found["hats"] == ("hat", "Number=Plur")
    assert found["ran"] == ("run", "Tense=Past|VerbForm=Fin")
    assert found["3"] == ("3", "NumType=Card")
    assert found["bigger"] == ("big", "Degree=Cmp")
    assert found["mice"] == ("mouse", "Number=Plur")
    assert found["swim"] == ("swim", "VerbForm=Inf")
    assert [t.pos_ for t in doc if t.text in ("were", "can")] == ["AUX", "AUX"]


@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("A dog in a park", []),
        ("The Golden Retriever sleeps", [("Golden Retriever", "NAME")]),
        ("a street in Paris, France", [("Paris", "GPE"), ("France", "GPE")]),
        ("The American flag on July 4, 2012", [("American", "NORP"), ("July 4, 2012", "DATE")]),
        ("a 10-inch pan for $29.99", [("10-inch", "QUANTITY"), ("$29.99", "MONEY")]),
        ("two bottles of 12 oz, 50 % off", [("two", "CARDINAL"), ("12 oz", "QUANTITY"), ("50 %", "PERCENT")]),
        ("a photo of the 19th century, at 10 am", [("19th century", "DATE"), ("10 am", "TIME")]),
        ("oil on canvas, 30 x 40 cm, 1905", [("30 x 40 cm", "QUANTITY"), ("1905", "DATE")]),
        ("seen from the Statue of Liberty", [("Statue of Liberty", "NAME")]),
        ("a Boeing 747 of Acme Inc.", [("Boeing 747", "PRODUCT"), ("Acme Inc.", "ORG")]),
        ("Red Leather Handbag With Gold Chain", []),
        ("first place", [("first", "ORDINAL")]),
    ],
)
def test_entities(rules, text: str, entities: list[tuple[str, str]]) -> None:
    assert [(e.text, e.label_) for e in rules(text).ents] == entities


def all_words() -> list[str]:
    """Every word of the files behind the tagger."""
    table = lzma.decompress((DATA / "wordnet_words.txt.xz").read_bytes()).decode()
    by_hand = [line.split()[0] for line in (DATA / "words.txt").read_text().splitlines() if not line.startswith("# ")]
    found = [word.partition(":")[0] for line in table.splitlines() for word in line.split("\t")[1].split()]
    return sorted({*by_hand, *found})


def test_no_word_stops_the_tagger(rules) -> None:
    """Every tag that a word can have has its costs; a salad of all words of the lexicon goes through."""
    lexicon = load_lexicon()
    words = all_words()
    assert len(words) > 40_000
    tags = {reading.tag for word in words for reading in lexicon.readings(word)}
    assert tags <= set(transitions())
    rng = random.Random(0)
    marks = [".", ",", "-", "(", "5", "2nd", "$", "#", "赤い", "😀", "Zorb", "ZORB", "x-ray", "--", "’s", "\u200b"]
    for _ in range(300):
        salad = rng.choices(words, k=8) + rng.choices(marks, k=4)
        rng.shuffle(salad)
        doc = rules(" ".join(w.title() if rng.random() < 0.3 else w for w in salad))
        assert all(t.pos_ and t.tag_ and t.lemma_ for t in doc)


def test_words_are_kept_whole_over_hyphens(rules) -> None:
    words, readings, nouns = analysis_of(rules("a black-and-white T-shirt -  well-known , 5-word"))
    assert [w.text for w in words] == ["a", "black-and-white", "T-shirt", "-", "well-known", ",", "5-word"]
    assert [r.tag for r in readings][:3] == ["DT", "JJ", "NN"]
    assert nouns == ["T-shirt"]
