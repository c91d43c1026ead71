"""Which licence an image is under, by an allow-list with the evidence kept. What is not recognised is `unknown`.

Normalised ids follow SPDX (CC0-1.0, CC-BY-4.0 …). Texts are matched as a whole, never searched inside a sentence:
"not CC BY" must not become CC-BY. A ported version (…/by/3.0/us/) counts as its version; the evidence keeps the port.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

UNKNOWN = "unknown"
ALL_RIGHTS_RESERVED = "all-rights-reserved"

DEFAULT_ALLOWED = ("CC0", "CC-BY")
"""Families; a run over public-domain collections adds "PDM", "NoC-US" or "NKC" on purpose: they are statements about
an image by somebody else, not licences by its author."""

NOT_ALLOWED, NOT_KNOWN = LICENCE_REASONS = ("licence_not_allowed", "licence_unknown")
"""The two reasons for which ingest refuses a sound image."""

FIELDS = (
    "license",
    "licence",
    "license_url",
    "licence_url",
    "licenseurl",
    "license_id",
    "license_name",
    "license_title",
    "licenseshortname",
    "usage_terms",
    "usageterms",
    "rights",
)
"""Metadata keys that hold a licence statement, in lower case."""

_FAMILIES_BY_STRICTNESS = (
    "CC0",
    "PDM",
    "NoC-US",
    "NKC",
    "US-GOV",
    "CC-BY",
    "CC-BY-SA",
    "CC-BY-ND",
    "CC-BY-NC",
    "CC-BY-NC-SA",
    "CC-BY-NC-ND",
    "Unsplash",
    "Pexels",
    "Pixabay",
    ALL_RIGHTS_RESERVED,
    UNKNOWN,
)
_RANK = {family: rank for rank, family in enumerate(_FAMILIES_BY_STRICTNESS)}

_VERSION = r"(?P<version>[1-4]\.[05])"
_CC_URL = re.compile(
    r"(?:https?://)?(?:www\.)?creativecommons\.org/"
    rf"(?:licenses/(?P<terms>by(?:-nc)?(?:-sa|-nd)?)/{_VERSION}|publicdomain/(?P<pd>zero|mark)/1\.0)(?:/.*)?"
)
_RIGHTS_URL = re.compile(r"(?:https?://)?(?:www\.)?rightsstatements\.org/(?:vocab|page)/(?P<name>[\w-]+)/1\.0/?.*")
_RIGHTS_STATEMENTS = {"noc-us": "NoC-US-1.0", "nkc": "NKC-1.0", "inc": ALL_RIGHTS_RESERVED}

# A country or "International" may follow a version only: "by us" is no licence.
_PORT = r"[ _-](?:[a-z]{2}|international|generic|unported)"
# "CC BY 4.0", "cc-by-nc-sa", "CC BY-ND 2.0 DE", "by-sa-3.0"
_CC_SHORT = re.compile(rf"(?:cc[ _-]?)?(?P<terms>by(?:[ _-]nc)?(?:[ _-](?:sa|nd))?)(?:[ _-]?v?{_VERSION}(?:{_PORT})?)?")
# "Creative Commons Attribution-NonCommercial 2.0 Generic", "Attribution 4.0 International (CC BY 4.0)"
_CC_LONG = re.compile(
    r"(?:creative commons |cc )?attribution(?P<nc>[ -]?non-?commercial)?"
    r"(?P<last>[ -]?share[ -]?alike|[ -]?no[ -]?deriv(?:ative)?s?(?: works)?)?"
    rf"(?: {_VERSION}(?:{_PORT})?)?"
)
_CC0 = re.compile(r"(?:cc[ _-]?0|cc[ _-]?zero|creative commons (?:zero|0))(?:[ _-]?v?1\.0)?(?: universal)?")
_PREFIX = re.compile(
    r"^(?:this (?:work|image|photo|photograph|file) is )?(?:licen[sc]ed|released|available|published) under "
    r"(?:an? |the )?"
)
_OTHER_TEXTS = {
    "public domain": "PDM-1.0",
    "public domain mark": "PDM-1.0",
    "public domain mark 1.0": "PDM-1.0",
    "public domain dedication": "CC0-1.0",
    "public domain dedication (cc0)": "CC0-1.0",
    "publicdomain": "PDM-1.0",
    "pdm": "PDM-1.0",
    "pdm-1.0": "PDM-1.0",
    "pdm 1.0": "PDM-1.0",
    "no known copyright restrictions": "NKC-1.0",
    "nkc-1.0": "NKC-1.0",
    "no copyright - united states": "NoC-US-1.0",
    "noc-us-1.0": "NoC-US-1.0",
    "united states government work": "US-GOV",
    "us-gov": "US-GOV",
    "unsplash": "Unsplash",
    "pexels": "Pexels",
    "pixabay": "Pixabay",
    "all rights reserved": ALL_RIGHTS_RESERVED,
    "all-rights-reserved": ALL_RIGHTS_RESERVED,
    "© all rights reserved": ALL_RIGHTS_RESERVED,
    "in copyright": ALL_RIGHTS_RESERVED,
}


def normalise(evidence: Mapping[str, Any]) -> tuple[str, str | None]:
    """The licence that a sample's metadata state, and the field that says so.

    Returns (id, "<field>=<value>"). When several fields state different licences the strictest holds. A statement
    that nobody recognises gives ("unknown", that statement), no statement at all ("unknown", None).
    """
    lowered = {str(k).lower(): v for k, v in evidence.items()}
    statements = [(name, text) for name in FIELDS if (text := _text(lowered.get(name)))]
    found = [(parse(text), f"{name}={text}") for name, text in statements]
    recognised = [f for f in found if f[0] != UNKNOWN]
    if recognised:
        return max(recognised, key=lambda f: _strictness(f[0]))
    return found[0] if found else (UNKNOWN, None)


def parse(text: str) -> str:
    """One licence statement (id, name or URL) as a normalised id, or "unknown".

    >>> parse("https://creativecommons.org/licenses/by/4.0/"), parse("CC BY-NC 2.0"), parse("see website")
    ('CC-BY-4.0', 'CC-BY-NC-2.0', 'unknown')
    """
    plain = " ".join(text.lower().split()).rstrip(".")
    if match := _CC_URL.fullmatch(plain):
        return _cc_url_id(match)
    if match := _RIGHTS_URL.fullmatch(plain):
        return _RIGHTS_STATEMENTS.get(match["name"], UNKNOWN)
    plain = _PREFIX.sub("", plain)
    plain = re.sub(r"\s*\((?:cc[ -][^()]*|cc0[^()]*)\)$", "", plain) or plain  # "… International (CC BY 4.0)"
    # "Attribution License", "CC BY 4.0 licence", "Attribution-ShareAlike 2.0 Generic license"
    plain = re.sub(r"\s+licen[sc]e(?= [1-4]\.|$)", "", plain)
    if _CC0.fullmatch(plain):
        return "CC0-1.0"
    if match := _CC_SHORT.fullmatch(plain):
        return _cc_id(re.sub("[ _]", "-", match["terms"]), match["version"])
    if match := _CC_LONG.fullmatch(plain):
        last = match["last"] or ""
        terms = "by" + ("-nc" if match["nc"] else "") + ("-sa" if "share" in last else "-nd" if last else "")
        return _cc_id(terms, match["version"])
    return _OTHER_TEXTS.get(plain, UNKNOWN)


def refusal(licence: str, allowed: Iterable[str]) -> str | None:
    """The reason why a licence is refused, None when the allow-list covers it."""
    if is_allowed(licence, allowed):
        return None
    return NOT_KNOWN if licence == UNKNOWN else NOT_ALLOWED


def family(licence: str) -> str:
    """The id without its version: CC-BY-4.0 → CC-BY, CC0-1.0 → CC0."""
    return re.sub(r"-\d\.\d$", "", licence)


def is_allowed(licence: str, allowed: Iterable[str]) -> bool:
    """True when `allowed` names the licence or its family; "CC-BY" does not cover CC-BY-SA. `unknown` never is."""
    allowed = set(allowed)
    return licence != UNKNOWN and (licence in allowed or family(licence) in allowed)


def strictest(licences: Iterable[str]) -> str:
    """The licence that binds when one image comes under several: `unknown` is strictest, CC0 the least.

    Equal families: the lower version (older terms) and then the name decide, so the order of the sources does not.
    """
    return max(licences, key=_strictness, default=UNKNOWN)


def known_families() -> tuple[str, ...]:
    """Every family an allow-list may name, least strict first."""
    return _FAMILIES_BY_STRICTNESS[:-1]


def _strictness(licence: str) -> tuple[int, float, str]:
    version = re.search(r"-(\d\.\d)$", licence)
    return _RANK.get(family(licence), _RANK[UNKNOWN]), -float(version[1]) if version else 0.0, licence


def _cc_url_id(match: re.Match[str]) -> str:
    if match["pd"]:
        return "CC0-1.0" if match["pd"] == "zero" else "PDM-1.0"
    return _cc_id(match["terms"], match["version"])


def _cc_id(terms: str, version: str | None) -> str:
    return f"CC-{terms.upper()}" + (f"-{version}" if version else "")


def _text(value: Any) -> str:
    """A statement as text; numbers are no statement (Flickr's and COCO's licence numbers mean different things)."""
    return value.strip() if isinstance(value, str) else ""
