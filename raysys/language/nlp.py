"""The spaCy pipelines of the generality score. Only this module imports spaCy, and only when it is used.

Two pipelines set the same attributes (tags, parts of speech, features, lemmas, entities):

    en_core_web_sm   spaCy's small English model, where it is installed
    rules            raysys's own, always available: a blank English Language with the components
                     raysys_tagger (`tagger`, `features`) and raysys_entities (`entities`)
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from raysys.errors import InputError
from raysys.language import features
from raysys.language.entities import find_entities
from raysys.language.features import universal
from raysys.language.lexicon import load_lexicon
from raysys.language.tagger import analysis_of, compound_parts

if TYPE_CHECKING:
    from spacy.language import Language
    from spacy.tokens import Doc
    from spacy.vocab import Vocab

MODEL = "en_core_web_sm"
RULES = "rules"
PIPELINES = ("auto", MODEL, RULES)
RULES_VERSION = "1"
"""Increased when a change of the rules or tables changes a tag, to distinguish scores of different versions."""


def load_pipeline(name: str = "auto") -> Language:
    """Load a spaCy pipeline for English captions: "en_core_web_sm", "rules", or "auto", which is the first of them that
    is installed.

    Raises InputError if the named model is not installed or the name is unknown.
    """
    import spacy

    _register()
    name = resolve_pipeline(name)
    if name == RULES:
        return _rules()
    if not spacy.util.is_package(MODEL):
        raise InputError(
            f"spaCy's model {MODEL} is not installed",
            f"run python -m spacy download {MODEL}, or use the pipeline {RULES!r}, which needs no model",
        )
    # The parser is kept, because it improves the distinction of VERB and AUX. Lemmas are not used.
    return spacy.load(MODEL, exclude=["lemmatizer"])


def resolve_pipeline(name: str) -> str:
    """Resolve "auto" on this machine; return other names unchanged. Raises InputError for an unknown name."""
    if name not in PIPELINES:
        raise InputError(f"pipeline {name!r} is unknown", f"use one of {', '.join(PIPELINES)}")
    import spacy

    return name if name != "auto" else MODEL if spacy.util.is_package(MODEL) else RULES


def pipeline_name(nlp: Language) -> str:
    """The name of the pipeline in scores: "en_core_web_sm-3.8.0" or "raysys-rules-1"."""
    if nlp.meta["name"] == "raysys-rules":
        return f"raysys-rules-{nlp.meta['version']}"
    return f"{nlp.meta['lang']}_{nlp.meta['name']}-{nlp.meta['version']}"


@cache
def array_ids() -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """spaCy's fixed ids for reading Docs as arrays: columns (POS, MORPH, ENT_TYPE), POS values (NUM, VERB, SPACE)."""
    from spacy.attrs import ENT_TYPE, MORPH, POS
    from spacy.symbols import NUM, SPACE, VERB

    return (POS, MORPH, ENT_TYPE), (NUM, VERB, SPACE)


@contextmanager
def without_torch() -> Iterator[None]:
    """Prevent spaCy from importing torch when it is first imported: torch is not needed here, and takes seconds.

    For commands that do not use torch at all. Has no effect if torch is already imported.
    """
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # makes `import torch` raise ImportError, which spaCy expects
    try:
        yield
    finally:
        del sys.modules["torch"]


def _rules() -> Language:
    import spacy

    nlp = spacy.blank("en", meta={"name": "raysys-rules", "version": RULES_VERSION})
    nlp.add_pipe("raysys_tagger")
    nlp.add_pipe("raysys_entities")
    return nlp


@cache
def _register() -> None:
    """Register the components with spaCy."""
    from spacy.language import Language

    assigns = ["token.tag", "token.pos", "token.morph", "token.lemma"]
    Language.factory("raysys_tagger", assigns=assigns, func=lambda nlp, name: RuleTagger(nlp.vocab))
    entities = ["doc.ents", "token.ent_iob", "token.ent_type"]
    Language.factory("raysys_entities", assigns=entities, func=lambda nlp, name: entity_rules)


class RuleTagger:
    """spaCy component: sets tags, parts of speech, features, lemmas; keeps the analysis in `doc.user_data`."""

    def __init__(self, vocab: Vocab) -> None:
        from spacy.attrs import LEMMA, MORPH, POS, TAG

        self._attributes = [TAG, POS, MORPH, LEMMA]
        self._strings = vocab.strings
        # Strings added here are permanent; strings added inside a memory zone of spaCy are freed with the zone.
        self._tag_ids = {tag: vocab.strings.add(tag) for tag in features.POS}
        self._pos_ids = {pos: vocab.strings[pos] for pos in {*features.POS.values(), "SCONJ"}}
        self._morph_ids = {morph: vocab.morphology.add(morph) for morph in features.all_morphs()}
        self._space = (self._tag_ids["_SP"], self._pos_ids["SPACE"], 0, vocab.strings.add(" "))

    def __call__(self, doc: Doc) -> Doc:
        if len(doc):
            doc.from_array(self._attributes, np.array(self._rows(doc), dtype=np.uint64))
        return doc

    def _rows(self, doc: Doc) -> list[tuple[int, int, int, int]]:
        """(tag, part of speech, features, lemma) as ids, for each token."""
        words, readings, _ = analysis_of(doc)
        rows = [self._space] * len(doc)
        for word, reading, (pos, morph) in zip(words, readings, universal(words, readings), strict=True):
            if word.end - word.start == 1:
                rows[word.start] = self._row(reading.tag, pos, morph, reading.lemma)
                continue
            tokens = [doc[i].text for i in range(word.start, word.end)]
            for i, part in enumerate(compound_parts(tokens, reading), word.start):
                tag = part.tag
                rows[i] = self._row(tag, features.POS[tag], features.MORPH.get(tag, ""), part.lemma)
        return rows

    def _row(self, tag: str, pos: str, morph: str, lemma: str) -> tuple[int, int, int, int]:
        return self._tag_ids[tag], self._pos_ids[pos], self._morph_ids[morph], self._strings.add(lemma)


def entity_rules(doc: Doc) -> Doc:
    """spaCy component: sets `doc.ents` from the tagged words."""
    from spacy.tokens import Span

    words, readings, _ = analysis_of(doc)
    entities = find_entities([w.text for w in words], [r.tag for r in readings], load_lexicon().names)
    if entities:
        doc.set_ents([Span(doc, words[a].start, words[b - 1].end, label) for a, b, label in entities])
    return doc
