"""Extract the caption from a model's answer: remove what chat models say before and after it."""

from __future__ import annotations

import re
import unicodedata

_OF_A_CAPTION = r"(caption|description|translation|rewrite)"

LEAD_INS = (
    r"(sure|certainly|of course|absolutely)( thing)?\s*!",
    r"(sure|certainly|of course|absolutely|okay|ok)( thing)?\s*[!,.:]\s*(?=here|below|the (general|translat)|caption)",
    r"(here('|’)?s|here is|here are|below is) (an?|the|my|your|one)\b[^.!?:\n]{0,60}"
    rf"\b({_OF_A_CAPTION}|version|sentence)\b[^.!?:\n]{{0,60}}:",
    r"((the|an?|my) )?((more|extremely|very) )?((general|generalized|generalised|generic|image|english|japanese|revised"
    r"|rewritten) )?"
    rf"{_OF_A_CAPTION}( (of|for) (the|this) (image|picture))?( is| would be)?\s*:",
    r"(はい|もちろん(です)?|承知(しました|いたしました)|わかりました|かしこまりました)[、。!,.]\s*(?=以下|次|翻訳|日本語訳|訳|キャプション)",
    r"(以下|次)(は|が|に|の)[^。:\n]{0,30}(翻訳|訳文?|キャプション|説明文?)"
    r"(です|になります|となります|の(通り|とおり)です|を(示|記|提供|紹介|作成|ご紹介)[^。:\n]{0,8})?[:。]",
    r"(日本語)?(訳文?|翻訳文?|キャプション|説明文?)(は)?\s*:",
)
"""What precedes a caption: case-insensitive regular expressions that match at the start of the text."""

TRAILERS = (
    r"\(?(please )?note( that)?\s*:\s*(i|this|the|it)\b[^\n]*\b(caption|image|original|general|specific|removed"
    r"|replaced|breed|name|brand|gone|omitted|left out)",
    r"explanation\s*:",
    r"let me know (if|whether|how|what)\b",
    r"i(('|’)ve| have)? (removed|replaced|changed|generalized|generalised|simplified|omitted|left out)\b",
    r"the (breed|brand|name)s?( name)?( and (the )?(breed|brand|name)s?)? (was|were|has been|have been) "
    r"(changed|generali[sz]ed|left out|omitted|removed|replaced|simplified)(\W*$| (from|in) the caption\b)",
    r"\(?注(意|釈|記)?\s*:[^\n]{0,40}(原文|訳|省|一般|変更)",
    r"※[^\n]{0,40}(原文|訳|省|一般|変更)",
)
"""Start of a remark after the caption: a sentence or line that starts like this is removed, with all that follows."""

_QUOTES = (('"', '"'), ("'", "'"), ("「", "」"), ("“", "”"))


def clean(text: str, lead_ins: tuple[str, ...] = LEAD_INS, trailers: tuple[str, ...] = TRAILERS) -> str:
    """Only the caption: NFKC-normalized, without lead-ins, trailers and one pair of surrounding quotes, with white
    space and line breaks collapsed. If a lead-in is followed by a line in quotes, that line is the caption."""
    text = unicodedata.normalize("NFKC", text).strip()
    rest = _without_lead_ins(text, lead_ins)
    if rest != text:
        first, _, below = rest.partition("\n")
        rest = first if below and _unquoted(first.strip()) != first.strip() else rest
    for trailer in trailers:
        # A space after a full stop is not needed in Japanese.
        rest = re.split(rf"(?:(?<=[.!?。\"”」])|\n)\s*(?:{trailer})", rest, maxsplit=1, flags=re.IGNORECASE)[0]
    return _unquoted(" ".join(rest.split()))


def _without_lead_ins(text: str, lead_ins: tuple[str, ...]) -> str:
    """Remove consecutive lead-ins ("Sure! Here is a caption: ..."), except one that is the whole text."""
    while True:
        found = next((m for p in lead_ins if (m := re.match(rf"(?:{p})\s*", text, re.IGNORECASE))), None)
        if found is None or not text[found.end() :]:
            return text
        text = text[found.end() :]


def _unquoted(text: str) -> str:
    for left, right in _QUOTES:
        inner = text[1:-1]
        if text.startswith(left) and text.endswith(right) and len(text) > 1 and left not in inner:
            text = inner.strip()
    return text
