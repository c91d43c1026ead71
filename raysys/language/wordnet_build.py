"""Build the shipped word tables from WordNet 3.0: `python -m raysys.language.wordnet_build /usr/share/wordnet OUT`.

The input is the folder of Debian's package `wordnet-base`, which is needed only for building. It writes

    wordnet_nouns.txt.xz    per line: direct hyponyms, minimum depth, words with these numbers, irregular plurals
    wordnet_words.txt.xz    data of the rule tagger: frequencies of parts of speech, names, irregular forms
    LICENSE.wordnet.txt     WordNet's license, which applies to the two tables

The same input gives the same bytes. File formats of WordNet: wndb(5WN), cntlist(5WN), morphy(7WN).
"""

from __future__ import annotations

import lzma
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from raysys.errors import InputError
from raysys.language.wordnet import MEAN_HYPONYMS, MEAN_MIN_DEPTH, NOUNS_FILE

WORDS_FILE = "wordnet_words.txt.xz"
LICENSE_FILE = "LICENSE.wordnet.txt"

N_SYNSETS = 82_115
"""Number of noun synsets of WordNet 3.0. Another number means another release, whose scores are not comparable."""
LEXICON_WORDS = 30_000
"""The paper's "lexicon of 30k words", the denominator of the global average of hyponyms."""
MAX_BITS = 9
"""Frequencies are stored as ceil(log2(count + 1)), because a tagger needs only their magnitude."""

POS_OF_SENSE_TYPE = {"1": 0, "2": 1, "3": 2, "4": 3, "5": 2}  # n v a r; 5 = satellite adjective
NAME_LABELS = {14: "ORG", 15: "GPE", 18: "PERSON", 28: "DATE"}
"""Entity label of a capitalized noun by its lexicographer file: groups, places, people, times (lexnames(5WN))."""


@dataclass(frozen=True)
class Synset:
    """One line of data.noun: lexicographer file, words as written, hypernyms (instances included), direct hyponyms."""

    lexicographer_file: int
    words: tuple[str, ...]
    hypernyms: tuple[str, ...]
    n_hyponyms: int
    is_instance: bool


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a WordNet file without the license at the top, whose lines begin with spaces."""
    if not path.is_file():
        raise InputError(f"no file {path}", "give the folder of WordNet 3.0, for example /usr/share/wordnet on Debian")
    with path.open(encoding="latin-1") as lines:
        yield from (line for line in lines if not line.startswith(" "))


def read_synsets(folder: Path) -> dict[str, Synset]:
    """Read data.noun as offset → Synset. `~` is a hyponym, `@` a hypernym, `@i` the class of an instance."""
    synsets = {}
    for line in lines_of(folder / "data.noun"):
        fields = line.partition(" | ")[0].split()
        n_words = int(fields[3], 16)
        pointers = fields[5 + 2 * n_words :]
        symbols, targets = pointers[0::4], pointers[1::4]
        synsets[fields[0]] = Synset(
            int(fields[1]),
            tuple(fields[4 : 4 + 2 * n_words : 2]),
            tuple(t for s, t in zip(symbols, targets, strict=True) if s in ("@", "@i")),
            symbols.count("~"),
            "@i" in symbols,
        )
    return synsets


def read_index(path: Path) -> dict[str, str]:
    """Read an index file as lemma → offset of the first synset, the most frequent sense. Phrases contain `_`."""
    return {fields[0]: fields[-int(fields[2])] for fields in map(str.split, lines_of(path))}


def read_exceptions(path: Path) -> dict[str, list[str]]:
    """Read a .exc file as irregular form → base forms, single words only."""
    return {form: bases for form, *bases in map(str.split, lines_of(path)) if "_" not in form}


def min_depths(synsets: dict[str, Synset]) -> dict[str, int]:
    """The length of the shortest path from each synset to the root `entity`, which has depth 0."""

    @cache
    def depth(offset: str) -> int:
        return min((1 + depth(up) for up in synsets[offset].hypernyms), default=0)

    return {offset: depth(offset) for offset in synsets}


def check_release(folder: Path, synsets: dict[str, Synset], depths: dict[str, int]) -> None:
    """Raise InputError if this WordNet does not give the constants of the score."""
    n_hyponyms = sum(s.n_hyponyms for s in synsets.values())
    mean_depth = sum(depths.values()) / len(depths)
    found = (len(synsets), n_hyponyms / LEXICON_WORDS, round(mean_depth, 6))
    if found != (N_SYNSETS, MEAN_HYPONYMS, MEAN_MIN_DEPTH):
        raise InputError(
            f"{folder} holds {len(synsets)} noun synsets, {n_hyponyms} hyponyms, mean minimum depth {mean_depth:.6f}: "
            "not WordNet 3.0",
            "use Debian's wordnet-base 3.0",
        )


def noun_lines(folder: Path, synsets: dict[str, Synset], depths: dict[str, int]) -> list[str]:
    """The lines of the noun table: lemmas, and after a `|` the irregular plurals of some of them.

    The last line, `- - | …`, contains exceptions whose singular is not in WordNet. Rules are not applied to them: "his"
    is not the plural of "hi".
    """
    first = read_index(folder / "index.noun")
    groups: dict[tuple[int, int], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for lemma, offset in first.items():
        if "_" not in lemma:
            groups[synsets[offset].n_hyponyms, depths[offset]][0].append(lemma)
    unknown = []
    for form, bases in read_exceptions(folder / "noun.exc").items():
        offset = next((first[base] for base in bases if base in first), None)
        if form in first:
            continue
        if offset is None:
            unknown.append(form)
        else:
            groups[synsets[offset].n_hyponyms, depths[offset]][1].append(form)
    lines = [
        " ".join([str(hyponyms), str(depth), *sorted(lemmas), "|", *sorted(plurals)])
        for (hyponyms, depth), (lemmas, plurals) in sorted(groups.items())
    ]
    return [*lines, " ".join(["- - |", *sorted(unknown)])]


def word_lines(folder: Path, synsets: dict[str, Synset]) -> list[str]:
    """The lines of the tagger's table: `count n v a r`, `name LABEL`, `only LABEL`, `form POS`, each with its words."""
    indexes = [_single_words(folder / f"index.{pos}") for pos in ("noun", "verb", "adj", "adv")]
    forms = {
        pos: read_exceptions(folder / f"{name}.exc") for pos, name in zip("nva", ("noun", "verb", "adj"), strict=True)
    }
    counts = read_counts(folder / "cntlist.rev")
    # The frequency of a noun is needed only if it competes with a verb or looks like the form of a verb.
    competing = {w for w in indexes[0] if w.endswith(("ing", "ed")) or w in forms["v"]}
    groups = defaultdict(list)
    for word in indexes[1] | indexes[2] | indexes[3] | competing:
        bits = (str(_bits(counts[word, i])) if word in index else "-" for i, index in enumerate(indexes))
        groups["count " + " ".join(bits)].append(word)
    for label, is_only, word in names_of(folder, synsets):
        groups[f"{'only' if is_only else 'name'} {label}"].append(word)
    for pos, exceptions in forms.items():
        known = indexes["nva".index(pos)]
        for form, bases in exceptions.items():
            if base := next((b for b in bases if b in known), None):
                groups[f"form {pos}"].append(f"{form}:{base}")
    return [f"{key}\t{' '.join(sorted(words))}" for key, words in sorted(groups.items())]


def read_counts(path: Path) -> Counter[tuple[str, int]]:
    """(word, part of speech) → frequency in WordNet's sense-tagged texts; 0 noun, 1 verb, 2 adjective, 3 adverb."""
    counts: Counter[tuple[str, int]] = Counter()
    for line in lines_of(path):
        key, _, count = line.split()
        lemma, _, rest = key.partition("%")
        counts[lemma, POS_OF_SENSE_TYPE[rest[0]]] += int(count)
    return counts


def names_of(folder: Path, synsets: dict[str, Synset]) -> Iterator[tuple[str, bool, str]]:
    """(label, whether the word is always capitalized, word) of single words whose first sense is a name."""
    labels: dict[str, str] = {}
    small = set()
    for synset in synsets.values():
        label = NAME_LABELS.get(synset.lexicographer_file)
        if label == "PERSON" and not synset.is_instance:
            label = "NORP"  # American, Buddhist: a kind of person, not one person
        for word in synset.words:
            if word[0].islower():
                small.add(word.lower())
            elif label is not None and "_" not in word and word[0].isupper():
                labels.setdefault(word.lower(), label)
    for line in lines_of(folder / "data.adj"):
        fields = line.partition(" | ")[0].split()
        for word in fields[4 : 4 + 2 * int(fields[3], 16) : 2]:
            word = word.partition("(")[0]
            if word[0].islower():
                small.add(word.lower())
            elif "_" not in word and word.isalpha():
                labels.setdefault(word.lower(), "NORP")
    yield from ((label, word not in small, word) for word, label in labels.items())


def license_of(folder: Path) -> str:
    """WordNet's license: the top of data.noun, without line numbers."""
    with (folder / "data.noun").open(encoding="latin-1") as lines:
        head = [line.strip().partition(" ")[2].strip() for line in lines if line.startswith("  ")]
    return "\n".join(head).strip() + "\n"


def build(folder: Path, out: Path) -> None:
    """Write the two tables and the license into `out`."""
    synsets = read_synsets(folder)
    depths = min_depths(synsets)
    check_release(folder, synsets, depths)
    tables = {NOUNS_FILE: noun_lines(folder, synsets, depths), WORDS_FILE: word_lines(folder, synsets)}
    out.mkdir(parents=True, exist_ok=True)
    for name, lines in tables.items():
        (out / name).write_bytes(compressed(lines))
    (out / LICENSE_FILE).write_text(license_of(folder), encoding="utf-8")


def compressed(lines: Iterable[str]) -> bytes:
    """Compress lines as an .xz file. It contains no time stamp, so equal lines give equal bytes."""
    text = "".join(f"{line}\n" for line in lines)
    return lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME)


def _single_words(index: Path) -> set[str]:
    return {lemma for lemma in read_index(index) if "_" not in lemma}


def _bits(count: int) -> int:
    return min(math.ceil(math.log2(count + 1)), MAX_BITS)


def main(args: list[str]) -> int:
    """The command; returns the exit code."""
    if len(args) != 2:
        print(__doc__.splitlines()[0], file=sys.stderr)
        return 2
    try:
        build(Path(args[0]), Path(args[1]))
    except InputError as exc:
        print(exc, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
