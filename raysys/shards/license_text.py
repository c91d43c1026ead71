"""One license statement, as written by a source → the ids of all licenses that it names.

A statement is an id, a name or a URL, or several of these with a credit line: "© 2020 Jane Doe, CC BY 4.0". It is
split into parts, and each part must match a known form as a whole; otherwise it is `unknown`. Thus a license is never
found inside a sentence: "CC BY 4.0 for the text only" is not CC-BY.

Ids follow SPDX (CC0-1.0, CC-BY-4.0 …). A ported version (…/by/3.0/us/) counts as its version.
"""

from __future__ import annotations

import html
import re
import unicodedata
from functools import lru_cache

UNKNOWN = "unknown"
ALL_RIGHTS_RESERVED = "all-rights-reserved"

_VERSION = r"(?P<version>1\.0|2\.0|2\.1|2\.5|3\.0|4\.0)"
# Only existing jurisdictions, and only after a version: "NC" in "CC BY 4.0 NC" is not a country, "by us" not a license.
_JURISDICTION = (
    "(?:am|ar|at|au|az|be|bg|br|ca|ch|cl|cn|co|cr|cz|de|dk|ec|ee|eg|es|fi|fr|ge|gr|gt|hk|hr|hu|ie|igo|il|in|it|jp|kr|lu|"
    "mk|mt|mx|my|nl|no|nz|pe|ph|pl|pr|pt|ro|rs|scotland|se|sg|si|th|tw|ug|uk|us|ve|vn|za)"
)
_SCOPE = rf"(?:[ _-](?:{_JURISDICTION}|international|generic|unported))?"
_LICENSE = "(?: (?:public )?license)?"
_TERMS = {
    "nc": "non[ -]?commercial|非営利",
    "sa": "share[ -]?alike|継承",
    "nd": "no[ -]?deriv(?:ative)?s?(?: works)?|改変禁止",
}
_ANY_TERM = "|".join(_TERMS.values())

_SITE = r"(?:https?://)?(?:www\.)?"
_PARAMETER = r"(?:(?:ref|lang|language|utm_\w+)=[\w.%+-]*|atype=(?:html|rich))"
_PAGE = (
    r"(?:/(?:deed|legalcode)(?:[._][a-z_-]{2,10})?)?/?(?![^?#]*[?#].*(?:\b(?:nc|nd|sa)\b|non|commerc))"
    rf"(?:\?(?:{_PARAMETER}(?:&{_PARAMETER})*)?)?(?:#(?:deed|ref[\w-]*)?)?"
)
"""What may follow the URL path of a license: the name of one of its pages, and a query and a fragment that cannot
limit it. "atype" is from the links of CC Search."""
_URL = re.compile(r"(?:https?://|www\.|(?<![\w./])(?:creativecommons|spdx|rightsstatements)\.org/)[^\s,;|()<>\"']+")
_CC_URL = re.compile(
    rf"{_SITE}creativecommons\.org/(?:licenses/(?P<terms>by(?:-(?:nc|sa|nd))*)/{_VERSION}|"
    rf"publicdomain/(?P<dedication>zero|mark)/1\.0)(?:/{_JURISDICTION})?{_PAGE}"
)
_SPDX_URL = re.compile(rf"{_SITE}spdx\.org/licenses/(?P<id>[a-z0-9.-]+?)(?:\.html|\.json)?")
_RIGHTS_URL = re.compile(rf"{_SITE}rightsstatements\.org/(?:vocab|page)/(?P<name>[a-z-]+)/1\.0{_PAGE}")
_RIGHTS_STATEMENTS = {"noc-us": "NoC-US-1.0", "nkc": "NKC-1.0"} | dict.fromkeys(
    ("inc", "inc-ow-eu", "inc-edu", "inc-nc", "inc-ruu"), ALL_RIGHTS_RESERVED
)

_CC_NAMES = (
    # "CC BY 4.0", "cc-by-nc-sa", "CC BY-ND 2.0 DE", "by-sa-3.0"
    rf"(?:cc[ _-]?)?by(?P<terms>(?:[ _-]?(?:nc|sa|nd))*){_LICENSE}(?:[ _-]?v?{_VERSION}{_SCOPE})?{_LICENSE}",
    # "Creative Commons Attribution-NonCommercial 2.0 Generic", "Attribution License"
    rf"(?:creative commons |cc )?attribution(?P<terms>(?:[ +,/&-]{{1,3}}(?:{_ANY_TERM}))*)"
    rf"{_LICENSE}(?: v?{_VERSION}{_SCOPE})?{_LICENSE}",
    # "クリエイティブ・コモンズ 表示 - 非営利 4.0 国際 ライセンス"
    rf"(?:クリエイティブ[・ ]?コモンズ[・ -]*|cc[ -]?)?表示(?P<terms>(?:[ ・-]{{0,3}}(?:{_ANY_TERM}))*)"
    rf"(?: ?{_VERSION}(?: ?(?:国際|一般|非移植|日本))?)?(?: ?(?:パブリック[・ ]?)?ライセンス)?",
)
_CC = tuple(re.compile(name) for name in _CC_NAMES)
_OTHER = {
    re.compile(form): license_id
    for form, license_id in {
        r"(?:creative commons (?:cc[ _-]?)?(?:0|zero)|cc[ _-]?(?:0|zero))(?:[ _-]?v?1\.0)?(?: universal| 全世界)?"
        rf"(?: public domain(?: dedication)?)?{_LICENSE}": "CC0-1.0",
        "public domain dedication": "CC0-1.0",
        r"(?:public domain mark|(?:cc-)?pdm)(?:[ -]1\.0)?(?: universal)?": "PDM-1.0",
        "(?:in the )?public domain|publicdomain|パブリック・?ドメイン": "PDM-1.0",
        r"(?:public domain[ :-]*)?(?:an? )?(?:(?:united states|u\.?s\.?)(?: federal)? government works?|"
        r"work of the (?:united states|u\.?s\.?)(?: federal)? government)|us-gov|pd-usgov": "US-GOV",
        r"no known copyright(?: restrictions)?|nkc(?:-1\.0)?": "NKC-1.0",
        r"no copyright - united states|noc-us(?:-1\.0)?": "NoC-US-1.0",
        f"unsplash{_LICENSE}": "Unsplash",
        f"pexels{_LICENSE}": "Pexels",
        f"pixabay{_LICENSE}": "Pixabay",
        "(?:© ?)?all[ -]rights[ -]reserved|in copyright|"
        "無断転載(?:・?複製)?(?:禁止|を禁(?:ず|じます))": ALL_RIGHTS_RESERVED,
    }.items()
}
_INTRODUCTION = re.compile(
    r"(?:(?:licensed?|usage terms|rights|ライセンス) ?: ?)?"
    r"(?:(?:this|the) (?:work|image|photo|photograph|picture|file) is )?"
    r"(?:(?:licensed|released|(?:made )?available|published|distributed) under )?(?:(?:an?|the) )?"
)
"""What may precede a license, but must not limit what it covers, as "text licensed under …" does."""

_SEPARATORS = re.compile(r"[;|,\n()\[\]、。]|\.(?:\s|$)|\s[-/]\s")


def ids_in(text: str) -> tuple[str, ...]:
    """The id of each license that a statement names, and `unknown` for each part that is not understood.

    Empty if the statement has only credit lines ("© 2020 Jane Doe", "Photo by Jane Doe on Flickr").

    >>> ids_in("Attribution 4.0 International (CC BY-NC 4.0)"), ids_in("© Jane Doe, CC0"), ids_in("see website")
    (('CC-BY-4.0', 'CC-BY-NC-4.0'), ('CC0-1.0',), ('unknown',))
    """
    return _ids_in(text) if len(text) <= MAX_CHARS else (UNKNOWN,)


MAX_CHARS = 2_000
"""Longer texts are not parsed: they are `unknown`."""


@lru_cache(4096)
def _ids_in(text: str) -> tuple[str, ...]:
    plain = _plain(text)
    if whole := _license(plain):  # matched before splitting: "No copyright - United States", "U.S. Government work"
        return (whole,)
    parts = (part.strip(" .'\"“”「」") for part in _SEPARATORS.split(_URL.sub(lambda url: f";{url[0]};", plain)))
    return tuple(_license(part) or UNKNOWN for part in parts if not _says_nothing(part))


def _plain(text: str) -> str:
    """Normalize HTML entities, full-width letters, invisible characters, dashes and blanks to plain text."""
    text = unicodedata.normalize("NFKC", html.unescape(text).replace("ⓒ", "©").replace("Ⓒ", "©"))
    text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = re.sub("[\u2010-\u2015\u2212]", "-", text)
    text = re.sub(r"\(c\)", "©", text, flags=re.IGNORECASE)
    return re.sub(r"[^\S\n]+", " ", re.sub(r"\s*[\r\n]\s*", "\n", text)).strip(" .\n")


def _license(part: str) -> str | None:
    """The license if `part` as a whole is a license, else None."""
    part = part.lower().replace("licence", "license")
    if match := _CC_URL.fullmatch(part):
        if match["dedication"]:
            return "CC0-1.0" if match["dedication"] == "zero" else "PDM-1.0"
        return _cc_id(match["terms"], match["version"])
    if match := _RIGHTS_URL.fullmatch(part):
        return _RIGHTS_STATEMENTS.get(match["name"])
    if match := _SPDX_URL.fullmatch(part):
        return _named(match["id"])
    return _named(part) or _named(part[_INTRODUCTION.match(part).end() :])  # type: ignore[union-attr]


def _named(name: str) -> str | None:
    for form in _CC:
        if match := form.fullmatch(name):
            return _cc_id(match["terms"], match["version"])
    return next((license_id for form, license_id in _OTHER.items() if form.fullmatch(name)), None)


def _cc_id(terms: str, version: str | None) -> str | None:
    """The id; None for share-alike combined with no-derivatives, because this license does not exist."""
    found = {term for term, names in _TERMS.items() if re.search(rf"{names}|{term}", terms)}
    if {"sa", "nd"} <= found:
        return None
    parts = ["CC-BY", *(term.upper() for term in _TERMS if term in found), *([version] if version else [])]
    return "-".join(parts)


_CREDIT = re.compile(
    r"(?:©|copyright(?: ©)?|(?:(?:photo|photograph|image|picture|artwork)s? )?(?:by|courtesy of)\b|"
    r"(?:photo|photograph|image|picture|author|artist|creator|photographer|attribution|credits?|courtesy|"
    r"copyright holder|写真|撮影者?|作者|クレジット|提供) ?:)\s*(?P<name>.*)",
    re.IGNORECASE,
)
_YEARS = re.compile(r"\b\d{4}(?:-\d{2,4})?\b")
_EMPTY_PHRASES = ("some rights reserved", "creative commons", "©")
_NOT_IN_NAMES = re.compile(
    r"licen|\brights?\b|reserv|commerc|\bno[nt]?\b|\b(?:by|nc|nd|sa|cc)\b|\bonly\b|\bus(?:e|ed|es|age)\b|editorial|permi|"
    r"prohib|forbid|restrict|without|except|exclu|personal|educat|academ|research|private|internal|training|\bai\b|mining|"
    r"deriv|modif|purchas|\bbuy|\bpay|\bfees?\b|royalt|contact|\bask\b|request|arrange|agree|invit|negoti|appoint|subject|"
    r"terms|condition|\bappl(?:y|ies)|must|\bmay\b|cannot|\bsale|\bsell|print|publi|cop(?:y|ies)|distribut|reprod|download|"
    r"manage|propriet|confident|protected|interdit|droits|recht|vorbehalt|verboten|derech|diritt|direit|prohíb|"
    # other languages with capital letters
    r"\bopt.?out|\btdm\b|\barr\b|\bfair\b|revok|withdrawn|expired|kommer|komer[ct]|comer[cz]|nutzung|untersag|gebruik|"
    r"verbod|vietat|\buso\b|vetad|riserva|riprod|proib|prawa|práva|\bprava\b|zastrze|zakaz|vyhraz|pridrž|rettighe|rättighe|"
    r"forbud|förbj|förbeh|oikeu|kiellet|õigus|tiesīb|teisės|fenntart|drept|rezerv|hakları|saklı|hak cipta|dilindung|"
    r"dilarang|quyền|bảo lưu|прав[ао]|запрещ|заборон|защищ|захищ|коммер|комер|использ|використ|разреш|дозв|авторск|"
    r"только|тільки|δικαι[ωώ]μ|απαγορ|επιφ[υύ]λ|εμπορ|χρ[ηή]σ[ηε]|[αά]δεια|"
    # Japanese, Chinese, Korean
    r"禁|不可|許可|転載|商用|営利|無断|使用|利用|権|編集|限|複製|改変|ください|ます|です|のみ|だけ|"
    r"权|權|商业|商業|盈利|营利|營利|仅|僅|保护|保護|保留|所有|转载|轉載|授权|许可|許諾|未经|未經|不得|不许|不許|不准|不能|"
    r"请勿|請勿|复制|複制|用途|修改|盗用|盜用|侵|专用|專用|"
    r"저작|금지|비영리|영리|권리|판권|소유권|초상권|상업|상용|무단|전재|사용|이용|허가|허락|배포|복제|불가|제한|변경|유료|전용|목적"
)
"""Words about rights: a text with one of them is not just a name."""
_SCRIPTS_OF_NAMES = (
    "LATIN ",
    "CYRILLIC ",
    "GREEK ",
    "HIRAGANA ",
    "KATAKANA",
    "CJK ",
    "IDEOGRAPHIC ",
    "HANGUL ",
    "MODIFIER ",
)
"""How the Unicode names of letters in names begin: of scripts for which `_NOT_IN_NAMES` has words about rights."""
_SMALL_WORDS = {
    "al",
    "and",
    "bin",
    "da",
    "de",
    "del",
    "den",
    "der",
    "di",
    "du",
    "el",
    "la",
    "le",
    "of",
    "on",
    "van",
    "via",
}
_SMALL_WORDS |= {"at", "from", "the", "von", "y", "&"}
MAX_NAME_WORDS = 7


def _says_nothing(part: str) -> bool:
    """Whether this part is empty, a credit line or the introduction of a license. Names must be capitalized."""
    rest = _YEARS.sub("", part).strip()
    if not rest or rest.lower() in _EMPTY_PHRASES or _INTRODUCTION.fullmatch(f"{rest.lower()} "):
        return True
    match = _CREDIT.fullmatch(rest)
    return match is not None and (not match["name"] or is_name(match["name"]))


def is_name(text: str) -> bool:
    """Whether the text can be just the name of a person or an institution.

    In a script without known words about rights, a name cannot be distinguished from a statement about rights.
    """
    text = _plain(text)
    if not all(unicodedata.name(c, "").startswith(_SCRIPTS_OF_NAMES) for c in text if c.isalpha()):
        return False
    words = [word for word in re.split(r"[\s/]+", text.strip(" .,")) if word]
    if not 0 < len(words) <= MAX_NAME_WORDS or _NOT_IN_NAMES.search(text.lower()):
        return False
    return all(word in _SMALL_WORDS or not word[0].islower() or re.search(r"[\d_@]", word) for word in words)
