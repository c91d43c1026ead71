"""The reason that a server gives for a refusal, without the text that was sent to it.

Servers echo prompts in their messages: whole or cut, JSON-escaped, as Python's repr, inside HTML. Tables and logs must
not contain them. So a word of a message is repeated only if it does not occur in what was sent, or if it is a common
word of such messages that does not stand beside one that was removed.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Collection, Sequence
from typing import Any
from urllib.parse import unquote

REASON_CHARS = 200

MAX_READ_CHARS = 20_000
"""Messages are cut to this length before they are searched; they may echo megabytes of image data."""

_COMMON = """
a about above access account after allowed an and api argument arguments array as at auth authentication authorization
backend bad be been before below billing blocked body but by call can cannot characters chat client code completion
completions configured connection content context contains could credentials credit current data deployment denied
deprecated detail details did disabled does doesn down due during either enabled endpoint engine error errors exceed
exceeded exceeds exist exists expected expired extra fail failed failure field fields file filter for forbidden format
found from gateway generation given ge greater gt has have header http https id image image_url images in incorrect
input inputs insufficient int integer internal invalid invalid_request_error is it its json key keys large larger le
least length less limit list loaded long longer lt match max maximum memory message messages method min minimum missing
model models more most must name new no none not null number object of on only operation or out overloaded own parameter
parameters parse path per permission permitted please point policy positive processing prompt prompts provide provided
proxy quota range rate reached read reason received refused region reject rejected request requested requests require
required requires resource response retry return role route sequence server service should size specified status still
str stop stream string such supported support temporarily than that the their there this timed timeout to token tokens
too total try type unable unauthorized unavailable unexpected unknown unprocessable unrecognized unsupported upstream
url use used user v1 valid validation value values was when which while will with within without wrong you your
best_of frequency_penalty logit_bias logprobs max_completion_tokens max_model_len max_new_tokens max_tokens min_p n
presence_penalty repetition_penalty response_format seed temperature tools top_k top_p
"""
COMMON = frozenset(_COMMON.split())
"""Words of messages that reveal nothing, even if a prompt contains them, too; names of parameters are among them."""

GRAM, GRAM_OTHER = 6, 3
"""Length of a piece of a word that is looked for in the sent text; shorter for scripts without spaces."""

_WORD = re.compile(r"\w+")
_GAP = "…"


def server_reason(payload: bytes, sent: Sequence[str], names: Collection[str] = ()) -> str:
    """The message in a server's reply, at most REASON_CHARS characters, without the text of `sent`; "" if none.

    sent: all texts of the request, and the key. names: names that may be repeated, such as the model's.
    """
    found = _unescaped(_message_in(payload.decode("utf-8", "replace")[: 10 * MAX_READ_CHARS])[:MAX_READ_CHARS])
    text = " ".join(_without(_without_data(found), sent, names).split())
    return text if len(text) <= REASON_CHARS else text[: REASON_CHARS - 1].rstrip() + _GAP


def with_reason(what: str, reason: str) -> str:
    """`the server answered 400: unknown model`; only the first part without a reason."""
    return f"{what}: {reason}" if reason else what


def _message_in(text: str) -> str:
    """The message of a JSON reply, the visible text of an HTML page, else the text itself."""
    try:
        return _message_of(json.loads(text))
    except (ValueError, RecursionError):
        pass
    if re.search(r"<\s*(!doctype|html|head|body|title|h1)\b", text, re.I):
        text = re.sub(r"(?is)<(script|style)\b.*?</\1\s*>|<!--.*?-->", " ", text)
        text = html.unescape(re.sub(r"<[^>]*>?", " ", text))
    return text


def _message_of(data: Any) -> str:
    """The message in the forms of OpenAI, vLLM, FastAPI, TGI, llama.cpp, Azure and most proxies."""
    if isinstance(data, str):
        return data
    if isinstance(data, list):
        return "; ".join(filter(None, (_message_of(item) for item in data[:5])))
    if not isinstance(data, dict):
        return ""
    place = data.get("loc")
    where = ".".join(map(str, place)) + ": " if isinstance(place, list) else ""
    for key in ("error", "message", "detail", "msg", "errors", "error_message", "reason", "code", "type"):
        if found := _message_of(data.get(key)):
            return where + found
    return ""


def _unescaped(text: str) -> str:
    """Without the escapes of JSON, Python, HTML and URLs, however often they were applied."""
    text = re.sub(r"\\+u([0-9a-fA-F]{4})", lambda match: chr(int(match[1], 16)), text)
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    text = re.sub(r"(\\+x[0-9a-fA-F]{2})+", _GAP, text)  # bytes of a text that is not ASCII
    text = re.sub(r"\\+[nrtbf]", " ", text).replace("\\", "")
    if re.search(r"%[0-9a-fA-F]{2}", text):
        text = unquote(text, errors="replace")
    return html.unescape(html.unescape(text))


def _without_data(text: str) -> str:
    """Without data URLs, other long runs without a space (base64), and keys."""
    text = re.sub(r"\bdata:[\w/+.-]+;base64,\S*", _GAP, text)
    text = re.sub(r"\b(?:Bearer\s+|sk-|hf_)\S+", _GAP, text)
    return re.sub(r"[\w+/=-]{60,}", _GAP, text)


def _without(text: str, sent: Sequence[str], names: Collection[str]) -> str:
    """`text` with every run of words from `sent` replaced by one ellipsis."""
    whole = "\n".join(sent).casefold()
    compact = re.sub(r"[\W_]+", "", whole)
    kept = COMMON | {word.casefold() for name in names for word in _WORD.findall(name)}
    words = list(_WORD.finditer(text))
    gone = [_is_from(word[0].casefold(), whole, compact, kept) for word in words]
    said = set(_WORD.findall(whole))
    # A common word beside a removed one may belong to the same quotation.
    for order in (range(1, len(words)), range(len(words) - 2, -1, -1)):
        step = -1 if order.step > 0 else 1
        for i in order:
            gone[i] = gone[i] or (gone[i + step] and words[i][0].casefold() in said)
    out, end = [], 0
    for word, is_gone in zip(words, gone, strict=True):
        out += [text[end : word.start()], _GAP if is_gone else word[0]]
        end = word.end()
    return re.sub(rf"{_GAP}(?:[^\w{_GAP}]*{_GAP})+", _GAP, "".join(out) + text[end:])


def _is_from(word: str, whole: str, compact: str, kept: Collection[str]) -> bool:
    """Whether a word may come from the sent text: it, or a piece of it, occurs there."""
    if word in kept:
        return False
    if not word.isascii():
        return any(word[i : i + GRAM_OTHER] in whole for i in range(max(1, len(word) - GRAM_OTHER + 1)))
    joined = word.replace("_", "")
    if (len(word) >= 3 and word in whole) or (len(joined) >= GRAM - 1 and joined in compact):
        return True
    return any(joined[i : i + GRAM] in compact for i in range(len(joined) - GRAM + 1))
