"""A model's answer → the caption in it: what chat models say around a caption is taken off, blanks are tidied."""

from __future__ import annotations

import re
import unicodedata

LEAD_INS = (
    r"(sure|certainly|of course|absolutely|okay|ok)( thing)?\s*[!,.:]",
    r"(here('|’)?s|here is|here are|this is|below is) (an?|the|my|your|one)\b[^.!?:\n]{0,60}"
    r"\b(caption|description|version|translation|sentence|rewrite)\b[^.!?:\n]{0,60}:",
    r"((the|an?|my) )?((more|extremely|very) )?((general|generalized|generalised|generic|image|english|japanese) )?"
    r"(caption|description|translation|answer|output)( (of|for) (the|this) (image|picture))?( is)?\s*:",
    r"(はい|もちろん(です)?|承知(しました|いたしました)|わかりました|かしこまりました)[、。!,.]",
    r"(以下|次)(は|が|に|の)[^。:\n]{0,40}[:。]",
    r"(日本語)?(訳文?|翻訳文?|キャプション|説明文?)(は)?\s*:",
)
"""What stands before a caption, as regular expressions at the start of the text, upper and lower case alike."""

TRAILERS = (
    r"\(?(please )?note( that)?\s*:",
    r"\(?explanation\s*:",
    r"let me know\b",
    r"i(('|’)ve| have)? (removed|replaced|changed|generalized|kept|left out|made|used)\b",
    r"\(?注(意|釈|記)?\s*:",
    r"※",
)
"""What begins a remark after the caption: a sentence or line that starts so is cut off with all that follows."""

_QUOTES = (('"', '"'), ("'", "'"), ("「", "」"), ("“", "”"))


def clean(text: str, lead_ins: tuple[str, ...] = LEAD_INS, trailers: tuple[str, ...] = TRAILERS) -> str:
    """The caption alone: NFKC, lead-ins and trailers off, inner blanks and line breaks to single spaces, one pair of
    surrounding quotes off. After a lead-in, only what stands in quotes is taken when quotes follow."""
    text = unicodedata.normalize("NFKC", text).strip()
    rest = _without_lead_ins(text, lead_ins)
    if rest != text and (quoted := _quoted_start(rest)):
        rest = quoted
    for trailer in trailers:
        # A space after a full stop is not needed in Japanese.
        rest = re.split(rf"(?:(?<=[.!?。\"”」])|\n)\s*(?:{trailer})", rest, maxsplit=1, flags=re.IGNORECASE)[0]
    return _unquoted(" ".join(rest.split()))


def _without_lead_ins(text: str, lead_ins: tuple[str, ...]) -> str:
    """Several may follow each other ("Sure! Here is a caption: ..."). One that is the whole text stays."""
    while True:
        found = next((m for p in lead_ins if (m := re.match(rf"(?:{p})\s*", text, re.IGNORECASE))), None)
        if found is None or not text[found.end() :]:
            return text
        text = text[found.end() :]


def _quoted_start(text: str) -> str | None:
    for left, right in _QUOTES:
        if text.startswith(left) and (end := text.find(right, 1)) > 1:
            return text[1:end]
    return None


def _unquoted(text: str) -> str:
    for left, right in _QUOTES:
        inner = text[1:-1]
        if text.startswith(left) and text.endswith(right) and len(text) > 1 and left not in inner:
            text = inner.strip()
    return text
