"""Simple language detection for checks: by script, and by function words for languages with the same script."""

from __future__ import annotations

import re
from functools import lru_cache

SCRIPTS = {
    "ja": ("kana", "han"),
    "zh": ("han",),
    "ko": ("hangul",),
    "ru": ("cyrillic",),
    "uk": ("cyrillic",),
    "el": ("greek",),
    "ar": ("arabic",),
    "th": ("thai",),
    "hi": ("devanagari",),
}
"""Language → its scripts; all other languages are assumed to use Latin script."""

_RANGES = (
    ("latin", 0x0041, 0x024F),
    ("greek", 0x0370, 0x03FF),
    ("cyrillic", 0x0400, 0x052F),
    ("arabic", 0x0600, 0x06FF),
    ("devanagari", 0x0900, 0x097F),
    ("thai", 0x0E00, 0x0E7F),
    ("latin", 0x1E00, 0x1EFF),
    ("kana", 0x3040, 0x30FF),
    ("kana", 0x31F0, 0x31FF),
    ("han", 0x3400, 0x4DBF),
    ("han", 0x4E00, 0x9FFF),
    ("hangul", 0xAC00, 0xD7A3),
    ("han", 0x20000, 0x3134F),
)

CHINESE_FROM = 8
"""A text without kana can be classified as Chinese only if it has at least this many Han characters."""
_SIMPLIFIED = frozenset("们这个为与从对说红蓝绿边圆灯车马鸟龙东门风飞儿样长间带动书画场园树叶颗颜纸应该还过进远种")
"""Characters that are not used in Japanese."""
_CHINESE = frozenset("的在是了有和着")
"""Frequent characters of Chinese sentences, which Japanese uses only in some words."""

LATIN_WORD = 0.5
"""Weight of a word in Latin letters relative to one character of the other script: names and units are often Latin."""


def script_share(text: str, language: str) -> float:
    """Share of the letters of `text` that belong to a script of the language; 1 without letters.

    `other_language` distinguishes languages with one script. Chinese text in `ja` and Japanese text in `zh` give 0.
    """
    scripts = [script_of(c) for c in text if c.isalpha()]
    if not scripts:
        return 1.0
    wanted = SCRIPTS.get(language, ("latin",))
    if (language == "ja" and _is_chinese(text, scripts)) or (language == "zh" and "kana" in scripts):
        return 0.0
    native = sum(s in wanted for s in scripts)
    if "latin" in wanted:
        return native / len(scripts)
    names = LATIN_WORD * len(re.findall(r"[A-Za-z\u00c0-\u024f]+", text))
    return native / max(native + names + sum(s not in (*wanted, "latin") for s in scripts), LATIN_WORD)


def _is_chinese(text: str, scripts: list[str]) -> bool:
    """Han characters alone are not sufficient, because Japanese names and headings can consist of them."""
    if "kana" in scripts or scripts.count("han") < CHINESE_FROM:
        return False
    return any(c in _SIMPLIFIED for c in text) or sum(c in _CHINESE for c in text) >= 2


FUNCTION_WORDS = {
    language: frozenset(words.split())
    for language, words in {
        "en": "a an the of in on at by with and or is are was to from for over under near next this that its it their "
        "his her as into some two three while which who be has have",
        "de": "der die das den dem des ein eine einen einem einer und oder mit auf im am ist sind vor neben für von zu "
        "über unter aus bei zwei drei nicht sich",
        "fr": "le la les un une des du de et ou avec sur dans est sont devant à au aux en pour qui sous près par deux "
        "trois son sa ses",
        "es": "el la los las un una unos unas de del y o con sobre en es son está al para que por junto dos tres",
        "it": "il lo la gli le un uno una di del della dei delle e con su sul sulla in nel nella è sono per che da al "
        "due tre",
        "pt": "o a os as um uma uns umas de do da dos das e ou com em no na nos nas é são está ao para que por dois",
        "nl": "de het een en of met op in is zijn voor naast van te aan bij uit onder over twee drie die dat door",
    }.items()
}
"""Articles, prepositions, conjunctions and forms of "be" of languages in Latin script; no content words."""

MIN_FOREIGN_WORDS = 3
"""Minimum number of different foreign words: "La Casa de Papel" and "Place de la Concorde" can be names in an English
caption."""
MIN_FOREIGN_SHARE = 0.3
"""Minimum share of foreign words among all words."""


def other_language(text: str, language: str, ratio: float) -> str | None:
    """A language that `text` is probably in: it has more than `ratio` times as many function words as `language`.

    None if there is no such language, if `language` is not in FUNCTION_WORDS, and for very short texts.
    """
    own = FUNCTION_WORDS.get(language)
    if own is None:
        return None
    words = re.findall(r"[^\W\d_]+", text.casefold())
    n_own = sum(word in own for word in words)
    for name, other in FUNCTION_WORDS.items():
        foreign = [word for word in words if word in other and word not in own]
        enough = len(set(foreign)) >= MIN_FOREIGN_WORDS and len(foreign) >= MIN_FOREIGN_SHARE * len(words)
        if enough and len(foreign) > ratio * n_own:
            return name
    return None


@lru_cache(8192)
def script_of(character: str) -> str:
    code = ord(character)
    return next((name for name, first, last in _RANGES if first <= code <= last), "other")
