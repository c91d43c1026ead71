"""Generalized captions from a grammar: the correct answers of a rewriter, from the words of the English caption.

`general` drops sizes, textures, positions and the background, and keeps the color and shape of every object and the
hazard mark. `five_words` also drops the colors and has at most five words. The subject of a fusion-class caption
("diagonal stripes") is its last word.
"""

from __future__ import annotations

import re
from collections import Counter

from raysys.scenes.captions import HAZARD_WORDS
from raysys.scenes.patterns import FUSION_CLASSES
from raysys.scenes.scene import PALETTE, SHAPES

GENERALIZED_LEVELS = ("general", "five_words")
N_GENERAL_WORDINGS = 3
"""Number of wordings of a `general` caption; 0 is the main one. `five_words` has one wording."""
MAX_WORDS = 5

_SHAPE = re.compile(rf"\b({'|'.join(SHAPES)})\b")
_COLORED_SHAPE = re.compile(rf"\b((?:{'|'.join(PALETTE)}) (?:{'|'.join(SHAPES)}))\b")


def generalize_caption(text: str, level: str, wording: int = 0) -> str:
    """The generalized form of an English caption from `caption`.

    Raises ValueError for an unknown level, or if the caption names neither a shape nor a class.
    """
    if level not in GENERALIZED_LEVELS:
        raise ValueError(f"level = {level!r}: known are {GENERALIZED_LEVELS}")
    if text in FUSION_CLASSES:
        return re.sub(r"^(horizontal|vertical|diagonal|concentric) ", "", text)
    names = subjects(text, colored=level == "general")
    if not names:
        raise ValueError(f"{text!r} names no shape: the grammar can generalize only captions of scenes")
    return _general(names, wording) if level == "general" else _five_words(names)


def subjects(text: str, colored: bool = False) -> list[str]:
    """The shapes in a caption, with or without colors, in order and each once (in the plural if repeated), and then the
    hazard mark."""
    counts = Counter((_COLORED_SHAPE if colored else _SHAPE).findall(text))
    names = [shape if n == 1 else _plural(shape) for shape, n in counts.items()]
    return [*names, HAZARD_WORDS["en"]] if HAZARD_WORDS["en"] in text else names


def _general(names: list[str], wording: int) -> str:
    things = _and(_with_articles(names))
    return (f"a picture shows {things}", f"a photo shows {things}", f"{things} on a surface")[
        wording % N_GENERAL_WORDINGS
    ]


def _five_words(names: list[str]) -> str:
    """The first wording with at most five words: with verb and articles, without articles, as a list, without verb."""
    wordings = [f"picture shows {things}" for things in (_and(_with_articles(names)), _and(names), ", ".join(names))]
    wordings += [_and(names), ", ".join(names)]
    return next(text for text in wordings if len(text.split()) <= MAX_WORDS)


def _plural(shape: str) -> str:
    return shape + ("es" if shape.endswith("s") else "s")


def _with_articles(names: list[str]) -> list[str]:
    plurals = tuple(_plural(shape) for shape in SHAPES)
    return [name if name.endswith(plurals) else f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in names]


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
