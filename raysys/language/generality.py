"""The generality score of captions: SI, BT, TM, DA and their mean GS (Li et al. 2024, arXiv 2309.07254, Tables 1–2).

    specific  "2-Ton Multi-Directional Roller Head Pipe Welding Stands"   GS 5.50
    general   "Pipe welding stands in action"                             GS 8.65

Each sub-score is in [0, 10]; higher is more general. SI and TM are computed with a spaCy pipeline, whose name is part
of every score. BT and DA use WordNet's numbers of nouns. The nouns are always found by the rule tagger (the paper, too,
uses another tagger than spaCy for them), so BT and DA of a caption are the same on every machine.

Scores are meaningful only for English captions.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple, overload

import numpy as np
from numpy.typing import ArrayLike

from raysys.language.nlp import array_ids, load_pipeline, pipeline_name
from raysys.language.tagger import analysis_of
from raysys.language.wordnet import MEAN_HYPONYMS, MEAN_MIN_DEPTH, NounTable, load_nouns

SUB_SCORES = ("si", "bt", "tm", "da")
SCORES = (*SUB_SCORES, "gs")

REFERENCE = {"original": 5.202, "general": 5.732, "five_words": 5.846}
"""Mean GS of 10,000 LAION captions in the paper: original, and generalized at two levels (Table 4)."""

NEUTRAL = 5.0
"""Neutral value of TM without verbs and of DA without nouns."""

MAX_CHARACTERS = 100_000
"""Longer texts are truncated before scoring, which limits memory."""
MAX_BATCH_CHARACTERS = 1_000_000
"""Maximum number of characters in a batch of texts."""

_one_zone = threading.Lock()


class Generality(NamedTuple):
    """The scores of one caption, each in [0, 10], and the name of the pipeline."""

    text: str
    si: float
    bt: float
    tm: float
    da: float
    gs: float
    pipeline: str


def specificity(n_entity: ArrayLike, n_number: ArrayLike, n_tokens: ArrayLike) -> np.ndarray:
    """SI = 10 · (1 − (Ent + Num) / N); 10 without tokens.

    Num = number tokens, Ent = other tokens in named entities, N = all tokens except white space.
    """
    n_tokens = np.asarray(n_tokens)
    return 10.0 * (1.0 - np.add(n_entity, n_number) / np.maximum(n_tokens, 1))


def broadness(n_hyponyms: ArrayLike, n_words: ArrayLike) -> np.ndarray:
    """BT = 10 · min(Σ hypo(noun) / (N_w · 2 · A), 1); 0 without words.

    hypo(noun) is the number of direct hyponyms of its first WordNet synset, 0 for nouns that are not in WordNet. N_w is
    the number of words, including punctuation marks; a hyphenated word is one word. A = 2.528333.
    """
    return 10.0 * np.minimum(np.asarray(n_hyponyms) / (np.maximum(n_words, 1) * 2.0 * MEAN_HYPONYMS), 1.0)


def tense_modality(n_present: ArrayLike, n_verbs: ArrayLike) -> np.ndarray:
    """TM = 10 · (verbs in present tense or indicative mood) / (verbs); 5, neutral, without verbs.

    Verbs are tokens tagged VERB, without auxiliaries. Tense and mood are spaCy's features, in which a participle in
    -ing is present and a past tense has no mood.
    """
    n_verbs = np.asarray(n_verbs)
    return np.where(n_verbs > 0, 10.0 * np.asarray(n_present) / np.maximum(n_verbs, 1), NEUTRAL)


def abstraction(sum_depth: ArrayLike, n_nouns: ArrayLike) -> np.ndarray:
    """DA = 10 · min(mean depth / (2 · D), 1); 5, neutral, without nouns in WordNet.

    The mean is over the nouns in WordNet, of the minimum depth of their first synsets; D = 7.955148. Although deeper
    nouns are more concrete, they increase the score here, as in the paper's table.
    """
    n_nouns = np.asarray(n_nouns)
    mean_depth = np.asarray(sum_depth) / np.maximum(n_nouns, 1)
    return np.where(n_nouns > 0, 10.0 * np.minimum(mean_depth / (2.0 * MEAN_MIN_DEPTH), 1.0), NEUTRAL)


def score(texts: Iterable[str], nlp: Any = None, batch_size: int = 1000) -> Iterator[Generality]:
    """Score a stream of captions, in order. `nlp`: a pipeline from `load_pipeline`; None = "auto".

    Memory is limited: at most `batch_size` texts are held at a time, fewer if they are long, and the strings that spaCy
    stores for a batch are freed after it. A text without words has SI 10, BT 0, TM 5, DA 5. Texts longer than
    MAX_CHARACTERS are truncated for scoring; the returned row has the complete text.
    """
    nlp = load_pipeline() if nlp is None else nlp
    table, pipeline = load_nouns(), pipeline_name(nlp)
    for batch in _batches(texts, batch_size):
        # A Doc must not outlive its memory zone, and the consumer may pause, so nothing is yielded inside the zone.
        # Zones belong to the vocabulary: a thread that ends its zone would free the words of other threads.
        with _one_zone, nlp.memory_zone():
            counts = _count(nlp.pipe(_readable(text) for text in batch), table, nlp.vocab.strings)
        yield from _rows(batch, counts, pipeline)


@overload
def generality(texts: str) -> Generality: ...
@overload
def generality(texts: Iterable[str]) -> list[Generality]: ...
def generality(texts: str | Iterable[str]) -> Generality | list[Generality]:
    """The scores of one caption, or a list of the scores of several. Use `score` for streams.

    >>> generality("Pipe welding stands in action").bt
    10.0
    """
    return next(score([texts])) if isinstance(texts, str) else list(score(texts))


def _batches(texts: Iterable[str], batch_size: int) -> Iterator[list[str]]:
    batch: list[str] = []
    n_characters = 0
    for text in texts:
        batch.append(text)
        n_characters += len(text)
        if len(batch) >= batch_size or n_characters >= MAX_BATCH_CHARACTERS:
            yield batch
            batch, n_characters = [], 0
    if batch:
        yield batch


def _readable(text: str) -> str:
    """Truncate to MAX_CHARACTERS and remove unpaired surrogates, because spaCy uses UTF-8."""
    text = text[:MAX_CHARACTERS]
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def _count(docs: Iterable[Any], table: NounTable, strings: Any) -> np.ndarray:
    """The counts for the formulas, [9, captions], named in `_rows`.

    The tokens of a batch are counted as one array: a loop over the tokens of each Doc would take twice as long, in
    addition to the time of the pipeline.
    """
    attributes, (number, verb, space) = array_ids()
    arrays, of_words = [], []
    for doc in docs:
        words, _, nouns = analysis_of(doc)
        arrays.append(doc.to_array(attributes))
        of_words.append((len(words), *table.totals(nouns)))
    owner = np.repeat(np.arange(len(arrays)), [len(array) for array in arrays])
    pos, morph, entity = np.concatenate(arrays).T
    is_number, is_verb, is_word = pos == number, pos == verb, pos != space
    features = np.unique(morph[is_verb])
    present = features[[_is_present(strings[key]) if key else False for key in features.tolist()]]
    masks = (is_word, is_number, (entity != 0) & is_word & ~is_number, is_verb, is_verb & np.isin(morph, present))
    of_tokens = [np.bincount(owner[mask], minlength=len(arrays)) for mask in masks]
    return np.array([*of_tokens, *np.array(of_words).T])


def _is_present(features: str) -> bool:
    """Whether features of a token, like "Tense=Pres|VerbForm=Fin", contain present tense or indicative mood."""
    return not {"Tense=Pres", "Mood=Ind"}.isdisjoint(features.split("|"))


def _rows(texts: Sequence[str], counts: np.ndarray, pipeline: str) -> list[Generality]:
    n_tokens, n_number, n_entity, n_verbs, n_present, n_words, n_nouns, n_hyponyms, sum_depth = counts
    si = specificity(n_entity, n_number, n_tokens)
    bt = broadness(n_hyponyms, n_words)
    tm = tense_modality(n_present, n_verbs)
    da = abstraction(sum_depth, n_nouns)
    gs = (si + bt + tm + da) / 4.0
    scores = (column.tolist() for column in (si, bt, tm, da, gs))
    return list(map(Generality, texts, *scores, repeat(pipeline)))


@dataclass(frozen=True)
class MeanScores:
    """Mean and population standard deviation of each score over `n` captions; empty mappings if n = 0."""

    n: int
    mean: Mapping[str, float]
    std: Mapping[str, float]


def mean_scores(rows: Iterable[Generality]) -> MeanScores:
    """Mean and standard deviation of the scores of any number of captions, in one pass."""
    running = RunningMean()
    for row in rows:
        running.add(row)
    return running.result()


class RunningMean:
    """Running mean and standard deviation of scores (Welford 1962)."""

    def __init__(self) -> None:
        self.n = 0
        self._mean = [0.0] * len(SCORES)
        self._squares = [0.0] * len(SCORES)

    def add(self, row: Generality) -> None:
        """Add one caption."""
        self.n += 1
        for i, value in enumerate(row[1:-1]):
            delta = value - self._mean[i]
            self._mean[i] += delta / self.n
            self._squares[i] += delta * (value - self._mean[i])

    def result(self) -> MeanScores:
        """Mean and standard deviation of the captions added so far."""
        if not self.n:
            return MeanScores(0, {}, {})
        std = [math.sqrt(s / self.n) for s in self._squares]
        return MeanScores(self.n, dict(zip(SCORES, self._mean, strict=True)), dict(zip(SCORES, std, strict=True)))
