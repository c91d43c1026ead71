"""What images may be trained on: metadata as collections write them, and as a careless reader would misread them.

Each statement is given with the id that it must get. Under the default allow-list (CC0 and CC-BY) the first table may
come in and the second may not.
"""

from __future__ import annotations

import pytest

from raysys.shards.licenses import (
    DEFAULT_ALLOWED,
    NOT_ALLOWED,
    NOT_KNOWN,
    UNKNOWN,
    normalize,
    parse,
    refusal,
    strictest,
)

BY = "https://creativecommons.org/licenses/by/4.0/"

ALLOWED_STATEMENTS = {
    # URLs
    BY: "CC-BY-4.0",
    "http://creativecommons.org/licenses/by/4.0": "CC-BY-4.0",
    "https://www.creativecommons.org/licenses/by/4.0/deed.en": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/deed.ja": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/deed.zh-hans": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/legalcode": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/legalcode.txt": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/?ref=chooser-v1": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/?ref=commons.wikimedia.org": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/deed.de": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/4.0/?lang=en&amp;utm_source=flickr#deed": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/2.0/?ref=ccsearch&atype=rich": "CC-BY-2.0",  # as CC Search copies it
    "https://creativecommons.org/licenses/by/4.0/deed.en#ref-appropriate-credit": "CC-BY-4.0",
    "https://creativecommons.org/licenses/by/2.1/jp/deed.ja": "CC-BY-2.1",
    "https://creativecommons.org/licenses/by/3.0/igo/": "CC-BY-3.0",
    "HTTPS://CREATIVECOMMONS.ORG/LICENSES/BY/4.0/": "CC-BY-4.0",
    "creativecommons.org/licenses/by/2.5/": "CC-BY-2.5",
    "http://creativecommons.org/publicdomain/zero/1.0/legalcode": "CC0-1.0",
    "https://spdx.org/licenses/CC-BY-4.0.html": "CC-BY-4.0",
    # ids and names
    "by": "CC-BY",  # Openverse
    "CC-BY-3.0-US": "CC-BY-3.0",
    "CC BY 2.1 JP": "CC-BY-2.1",
    "ccby4.0": "CC-BY-4.0",
    "CC-0": "CC0-1.0",
    "Creative Commons CC0": "CC0-1.0",
    "CC0 1.0 Universal (CC0 1.0) Public Domain Dedication": "CC0-1.0",
    "Creative Commons Attribution 4.0 International Public License": "CC-BY-4.0",
    "Creative Commons Attribution 4.0 International (CC BY 4.0)": "CC-BY-4.0",
    "Licence: CC BY 4.0": "CC-BY-4.0",
    "This work is licensed under CC BY 4.0.": "CC-BY-4.0",
    f"Licensed under {BY}": "CC-BY-4.0",
    f"CC BY 4.0 ({BY})": "CC-BY-4.0",
    # Japanese
    "クリエイティブ・コモンズ 表示 4.0 国際 ライセンス": "CC-BY-4.0",
    "表示 4.0 国際 (CC BY 4.0)": "CC-BY-4.0",
    "ライセンス：ＣＣ ＢＹ ４．０": "CC-BY-4.0",
    "©山田太郎、CC BY 4.0": "CC-BY-4.0",
    "CC0 1.0 全世界": "CC0-1.0",
    # with credit lines
    "© 2020 Jane Doe, CC BY 4.0": "CC-BY-4.0",
    "(c) Jane Doe; CC BY 2.0": "CC-BY-2.0",
    "Photo by Jane van der Berg on Flickr, CC BY 2.0": "CC-BY-2.0",
    "CC BY 2.0, by jane_doe": "CC-BY-2.0",
    "Some rights reserved; CC BY 2.0": "CC-BY-2.0",
    "© Jane Doe, CC BY 4.0": "CC-BY-4.0",
    "Photo by Jürgen Müller / CC BY 4.0": "CC-BY-4.0",
    "© 山田太郎, CC BY 4.0": "CC-BY-4.0",
    "© 佐々木ジョー, CC BY 4.0": "CC-BY-4.0",
    "© 王小明, CC BY 4.0": "CC-BY-4.0",
    "© 김민준, CC BY 4.0": "CC-BY-4.0",
    "© Анна Иванова, CC BY 4.0": "CC-BY-4.0",
    "© Μαρία Παπαδοπούλου, CC BY 4.0": "CC-BY-4.0",
    "© Kaʻiulani O’Brien, CC BY 4.0": "CC-BY-4.0",
    # spelled with entities, full-width letters, invisible characters, other dashes
    "CC&nbsp;BY&nbsp;4.0": "CC-BY-4.0",
    "&copy; Jane Doe, CC&#32;BY 4.0": "CC-BY-4.0",
    "ＣＣ　ＢＹ　４．０": "CC-BY-4.0",
    "CC\u200b BY\ufeff 4.0": "CC-BY-4.0",
    "CC\u2011BY\u20134.0": "CC-BY-4.0",
}

REFUSED_STATEMENTS = {
    # prose around a URL or a name
    f"{BY} covers the text only; images all rights reserved": UNKNOWN,
    f"{BY} (metadata only)": UNKNOWN,
    f"Text licensed under {BY}": UNKNOWN,
    "https://creativecommons.org/licenses/by/4.0/deed.en does not apply to the photos": UNKNOWN,
    "https://creativecommons.org/licenses/by/4.0/../by-nc/4.0/": UNKNOWN,
    "https://creativecommons.org/licenses/by/4.0/nc/": UNKNOWN,
    "https://creativecommons.org/licenses/by/4.0/;images-excluded": UNKNOWN,
    "CC BY 4.0 except logos": UNKNOWN,
    "CC BY 4.0 (text only)": UNKNOWN,
    "CC BY 4.0. Commercial use prohibited.": UNKNOWN,
    "CC BY 4.0, no AI training": UNKNOWN,
    "not CC0": UNKNOWN,
    "CC BY pending": UNKNOWN,
    "Metadata: CC0": UNKNOWN,
    "Is this CC BY 4.0?": UNKNOWN,
    # other hosts, other paths
    "https://creativecommons.org.example.com/licenses/by/4.0/": UNKNOWN,
    "https://creativecommons.org@example.com/licenses/by/4.0/": UNKNOWN,
    "https://example.com/?u=https://creativecommons.org/licenses/by/4.0/": UNKNOWN,
    "https://creativecommons.org/licenses/": UNKNOWN,
    "https://creativecommons.org/licenses/by/4.0.1/": UNKNOWN,
    "https://creativecommons.org/licenses/by/3.5/": UNKNOWN,
    "https://creativecommons.org/licenses/sampling/1.0/": UNKNOWN,
    # queries and fragments that are not known to be harmless
    f"{BY}?x=by-nc": UNKNOWN,
    f"{BY}?nc=1": UNKNOWN,
    f"{BY}?ref=by-nc": UNKNOWN,
    f"{BY}?ref=openverse&": UNKNOWN,
    f"{BY}?lang=en&nc=1": UNKNOWN,
    f"{BY}#non-commercial": UNKNOWN,
    f"{BY}#ref-non-commercial": UNKNOWN,
    # two licenses in one statement
    "Attribution 4.0 International (CC BY-NC 4.0)": "CC-BY-NC-4.0",
    "CC0 (cc by-nc)": "CC-BY-NC",
    "CC0; CC BY-SA 4.0": "CC-BY-SA-4.0",
    "CC BY 4.0 / CC BY-NC-ND 4.0": "CC-BY-NC-ND-4.0",
    "CC BY 4.0\nAll rights reserved": "all-rights-reserved",
    f"CC BY-NC 4.0 {BY}": "CC-BY-NC-4.0",
    "CC BY 4.0 or CC BY-NC 4.0": UNKNOWN,
    "CC-BY-4.0 AND CC-BY-NC-4.0": UNKNOWN,
    # terms in every order and spelling
    "CC BY-NC-SA 4.0": "CC-BY-NC-SA-4.0",
    "CC BY-SA-NC 4.0": "CC-BY-NC-SA-4.0",
    "CC BY-ND-NC 1.0": "CC-BY-NC-ND-1.0",
    "CC BY NC 4.0": "CC-BY-NC-4.0",
    "ccbync4.0": "CC-BY-NC-4.0",
    "CC BY-ND": "CC-BY-ND",
    "CC BY-SA-ND 4.0": UNKNOWN,  # there is no such license
    "CC BY 4.0 NC": UNKNOWN,
    "CC-BY-4.0-ND": UNKNOWN,
    "CC BY, NC": UNKNOWN,
    "CC BY 4.0 - NonCommercial": UNKNOWN,
    "CC NC 4.0": UNKNOWN,
    "Attribution-ShareAlike-NonCommercial 1.0": "CC-BY-NC-SA-1.0",
    "Attribution - Non Commercial - No Derivatives 4.0 International": "CC-BY-NC-ND-4.0",
    "Attribution + NonCommercial": "CC-BY-NC",
    "CC BY 5.0": UNKNOWN,
    "CC0 2.0": UNKNOWN,
    "ＣＣ ＢＹ－ＮＣ ４．０": "CC-BY-NC-4.0",
    "CC BY&#45;NC 4.0": "CC-BY-NC-4.0",
    "CC BY\u200b-\u200bNC 4.0": "CC-BY-NC-4.0",
    "CC BY\u2013NC 4.0": "CC-BY-NC-4.0",
    "СС ВУ 4.0": UNKNOWN,  # Cyrillic letters
    # Japanese
    "表示 - 非営利 4.0 国際": "CC-BY-NC-4.0",
    "表示-継承 4.0 国際 (CC BY-SA 4.0)": "CC-BY-SA-4.0",
    "クリエイティブ・コモンズ 表示-非営利-改変禁止 4.0 国際 ライセンス": "CC-BY-NC-ND-4.0",
    "CC BY 4.0（画像を除く）": UNKNOWN,
    "CC BY 4.0、商用利用不可": UNKNOWN,
    "©山田太郎 無断転載禁止、CC BY 4.0": UNKNOWN,
    "無断転載禁止": "all-rights-reserved",
    # public domain is another family than CC0
    "Public domain": "PDM-1.0",
    "This image is in the public domain.": "PDM-1.0",
    "Public Domain Mark 1.0 Universal": "PDM-1.0",
    "https://creativecommons.org/publicdomain/mark/1.0/deed.en": "PDM-1.0",
    "CC-PDM-1.0": "PDM-1.0",
    "パブリックドメイン": "PDM-1.0",
    "U.S. Government work": "US-GOV",
    "Public domain (US government work)": "US-GOV",
    "A work of the United States government": "US-GOV",
    "Public domain in the US only": UNKNOWN,
    "not in the public domain": UNKNOWN,
    # credit lines that are none
    "© Jane Doe, not for commercial use": UNKNOWN,
    "© Jane Doe Editorial Use Only, CC BY 4.0": UNKNOWN,
    "By Permission Only, CC BY 4.0": UNKNOWN,
    "CC BY 4.0, by arrangement": UNKNOWN,
    "CC BY 4.0, BY ARRANGEMENT": UNKNOWN,
    "© 2020 Jane Doe. All rights reserved.": "all-rights-reserved",
    # not split: better unknown than a wrong name
    "<https://creativecommons.org/licenses/by/4.0/>": UNKNOWN,
    "撮影：山田太郎／CC BY 4.0": UNKNOWN,
    "CC BY 4.0 - Photo: Jane Doe / Museum of Oslo": UNKNOWN,
    "https://rightsstatements.org/page/InC-EDU/1.0/?language=en": "all-rights-reserved",
    "https://rightsstatements.org/vocab/NoC-US/1.0/ for the scan": UNKNOWN,
    "x" * 3000: UNKNOWN,
}


@pytest.mark.parametrize("text", ALLOWED_STATEMENTS)
def test_statements_that_allow_training(text: str):
    assert normalize({"license": text}) == (ALLOWED_STATEMENTS[text], f"license={text}")
    assert refusal(ALLOWED_STATEMENTS[text], DEFAULT_ALLOWED) is None


@pytest.mark.parametrize("text", REFUSED_STATEMENTS)
def test_statements_that_do_not_allow_training(text: str):
    found = REFUSED_STATEMENTS[text]
    assert normalize({"license": text}) == (found, f"license={text}")
    assert refusal(found, DEFAULT_ALLOWED) == (NOT_KNOWN if found == UNKNOWN else NOT_ALLOWED)
    for other in ("CC0", "CC BY 4.0"):
        for metadata in ({"rights": other, "license": text}, {"license": text, "usage_terms": other}):
            assert normalize(metadata)[0] == strictest([found, parse(other)])


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ({"license": "CC BY 4.0", "license_url": BY}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"licence": "CC BY 4.0"}, ("CC-BY-4.0", "licence=CC BY 4.0")),
        ({"LicenceURL": BY}, ("CC-BY-4.0", f"LicenceURL={BY}")),
        ({"licenseUrl": BY, "dc:rights": "CC BY 4.0"}, ("CC-BY-4.0", f"licenseUrl={BY}")),
        ({"license": {"name": "CC BY 4.0", "url": BY}}, ("CC-BY-4.0", "license.name=CC BY 4.0")),
        ({"license": {"id": 4, "name": "Attribution License"}}, ("CC-BY", "license.name=Attribution License")),
        ({"license": {"name": "CC BY", "version": "4.0", "author": "Jane Doe"}}, ("CC-BY", "license.name=CC BY")),
        ({"license": ["CC BY 4.0", BY]}, ("CC-BY-4.0", "license.0=CC BY 4.0")),
        ({"license": "CC BY 4.0", "rights": "© 2020 Jane Doe"}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "copyright": "Jane Doe"}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "usage_terms": "Photo by Jane Doe"}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "rights": None}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "rights": float("nan")}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "rights": " ", "usage_terms": []}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": 4, "license_url": BY}, ("CC-BY-4.0", f"license_url={BY}")),  # COCO's number of the same
        ({"license": "CC BY 4.0", "title": "All rights reserved"}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": b"CC BY 4.0"}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "by", "license_version": "4.0"}, ("CC-BY", "license=by")),  # Openverse
        ({"license": "CC BY 4.0", "EXIF:Copyright": "Jane Doe"}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "copyright_info": "© Jane Doe"}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "dc:license": BY}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "image_license": {"name": "CC BY 4.0", "id": 4}}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "rights_holder": "editor"}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "license_checked": True}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "has_copyright": False}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "copyright_free": False}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "image_license": 4}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "image_license": "4"}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "meta": '{"a": [1, "All rights reserved"]}'}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "meta": '{"license": "CC0"}'}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "exif": '{"Image Copyright": "Jane Doe"}'}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "caption": "[a cat] {license}"}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": "CC BY 4.0", "caption": "[" * 100_000}, ("CC-BY-4.0", "license=CC BY 4.0")),
        ({"license": '["CC BY 4.0"]'}, ("CC-BY-4.0", 'license=["CC BY 4.0"]')),
        (
            {"license": {"name": "CC BY", "source": "https://a.org/photo", "lang": "en", "hidden": False}},
            ("CC-BY", "license.name=CC BY"),
        ),
    ],
)
def test_metadata_that_allow_training(metadata, expected):
    assert normalize(metadata) == expected
    assert refusal(expected[0], DEFAULT_ALLOWED) is None


@pytest.mark.parametrize(
    ("metadata", "license_id", "evidence"),
    [
        ({"license": "CC BY 4.0", "usage_terms": "Editorial use only"}, UNKNOWN, "usage_terms=Editorial use only"),
        ({"license": {"name": "CC BY-NC"}, "rights": "CC BY 4.0"}, "CC-BY-NC", "license.name=CC BY-NC"),
        ({"rights": ["CC BY 4.0", {"name": "CC BY-NC"}]}, "CC-BY-NC", "rights.1.name=CC BY-NC"),
        ({"license": "CC BY 4.0", "License": "CC BY-NC 4.0"}, "CC-BY-NC-4.0", "License=CC BY-NC 4.0"),
        ({"License": "CC BY-NC 4.0", "license": "CC BY 4.0"}, "CC-BY-NC-4.0", "License=CC BY-NC 4.0"),
        ({"license": "CC BY 4.0", "licence": "in copyright"}, "all-rights-reserved", "licence=in copyright"),
        ({"license": "CC BY 4.0", "license-url": "https://a.org/terms"}, UNKNOWN, "license-url=https://a.org/terms"),
        ({"license": "CC BY 4.0", "usageTerms": "see contract"}, UNKNOWN, "usageTerms=see contract"),
        ({"license": "CC BY 4.0", "copyright": "in copyright"}, "all-rights-reserved", "copyright=in copyright"),
        ({"license": "CC BY 4.0", "copyright": "Doe, editorial"}, UNKNOWN, "copyright=Doe, editorial"),
        ({"license": "CC BY 4.0", "rights": True}, UNKNOWN, "rights=True"),
        ({"license": {"name": "CC BY", "commercial_use": False}}, UNKNOWN, "license.commercial_use=False"),
        ({"license": {"name": "CC BY", "commercial_use": 0}}, UNKNOWN, "license.commercial_use=0"),
        ({"license": {"name": "CC BY", "author": "Editorial use"}}, UNKNOWN, "license.author=Editorial use"),
        ({"license": {"name": "CC BY", "note": "text only"}}, UNKNOWN, "license.note=text only"),
        ({"license": [["CC BY 4.0", ["CC BY-ND 4.0"]]]}, "CC-BY-ND-4.0", "license.0.1.0=CC BY-ND 4.0"),
        # Elsewhere in the metadata a license may be that of a page or a data set: it can refuse, it cannot allow.
        ({"license": "CC0", "exif": {"Copyright": "CC BY-ND"}}, "CC-BY-ND", "exif.Copyright=CC BY-ND"),
        ({"license": "CC0", "photo": [{"license": "CC BY-NC 2.0"}]}, "CC-BY-NC-2.0", "photo.0.license=CC BY-NC 2.0"),
        ({"dataset": {"license": "CC BY 4.0"}}, UNKNOWN, None),
        ({"dc:license": "CC BY 4.0"}, UNKNOWN, None),
        # Keys with a namespace or a prefix.
        *(
            ({"license": "CC BY 4.0", key: value}, license_id, f"{key}={value}")
            for key in (
                "EXIF:Copyright",
                "Exif.Image.Copyright",
                "exif/copyright",
                "IPTC:CopyrightNotice",
                "xmpRights:UsageTerms",
                "xmpRights:WebStatement",
                "dcterms:license",
                "dc:license",
                "schema:license",
                "image_license",
                "photo_licence",
                "original_license",
                "original_license_url",
                "usage_rights_2",
                "license_2",
                "License_Terms",
                "copyright_info",
            )
            for value, license_id in (
                ("All rights reserved", "all-rights-reserved"),
                ("CC BY-NC", "CC-BY-NC"),
                ("see contract", UNKNOWN),
            )
        ),
        ({"license": "CC0", "exif": {"EXIF:Copyright": "CC BY-ND"}}, "CC-BY-ND", "exif.EXIF:Copyright=CC BY-ND"),
        ({"license": "CC0", "image_license": {"name": "CC BY-ND"}}, "CC-BY-ND", "image_license.name=CC BY-ND"),
        # JSON in a text
        (
            {"license": "CC BY 4.0", "exif": '{"Image Copyright": "All rights reserved"}'},
            "all-rights-reserved",
            "exif.Image Copyright=All rights reserved",
        ),
        ({"license": "CC0", "meta": ' {"license": "CC BY-NC"}'}, "CC-BY-NC", "meta.license=CC BY-NC"),
        ({"license": "CC0", "meta": b'[{"license": "CC BY-NC"}]'}, "CC-BY-NC", "meta.0.license=CC BY-NC"),
        (
            {"license": "CC0", "a": {"b": '{"c": "{\\"rights\\": \\"see contract\\"}"}'}},
            UNKNOWN,
            "a.b.c.rights=see contract",
        ),
        ({"license": "CC0", "a": '{"rights": "CC BY-NC", "rights": "CC0"}'}, "CC-BY-NC", "a.rights.0=CC BY-NC"),
        ({"license": "CC0", "image_license": '{"name": "CC BY-NC"}'}, "CC-BY-NC", "image_license.name=CC BY-NC"),
        ({"meta": '{"license": "CC BY 4.0"}'}, UNKNOWN, None),
        ({"license": '{"name": "CC BY 4.0"}'}, UNKNOWN, 'license={"name": "CC BY 4.0"}'),
        # Keys that are usually not about rights.
        (
            {"license": {"name": "CC BY 4.0", "source": "https://creativecommons.org/licenses/by-nc/4.0/"}},
            "CC-BY-NC-4.0",
            "license.source=https://creativecommons.org/licenses/by-nc/4.0/",
        ),
        ({"license": {"name": "CC BY 4.0", "hidden": "CC BY-NC"}}, "CC-BY-NC", "license.hidden=CC BY-NC"),
        ({"license": {"lang": "by"}}, UNKNOWN, None),
        # A rights statement instead of a name
        ({"license": "CC BY 4.0", "copyright": "版权所有"}, UNKNOWN, "copyright=版权所有"),
        ({"copyright": "保留所有权利"}, UNKNOWN, "copyright=保留所有权利"),
        ({"license": "CC BY 4.0", "copyright": "Ｎｏ Ｕｓｅ"}, UNKNOWN, "copyright=Ｎｏ Ｕｓｅ"),
        # Numbers mean different things in Flickr's and in COCO's lists.
        ({"license": 4}, UNKNOWN, "license=4"),
        ({"license": "4"}, UNKNOWN, "license=4"),
        ({"license": {"id": 4}}, UNKNOWN, "license.id=4"),
        ({"license": None}, UNKNOWN, None),
        ({"license": float("nan"), "rights": ""}, UNKNOWN, None),
        ({"license": "© Jane Doe"}, UNKNOWN, None),
        ({"title": "CC BY 4.0"}, UNKNOWN, None),
        ({}, UNKNOWN, None),
    ],
)
def test_metadata_that_do_not_allow_training(metadata, license_id: str, evidence: str | None):
    assert normalize(metadata) == (license_id, evidence)
    assert refusal(license_id, DEFAULT_ALLOWED) == (NOT_KNOWN if license_id == UNKNOWN else NOT_ALLOWED)


def test_metadata_may_be_nested_deeply():
    nested: object = "CC BY-NC 4.0"
    for _ in range(2000):
        nested = [nested]
    assert normalize({"license": "CC BY 4.0", "rights": nested})[0] == "CC-BY-NC-4.0"


def test_a_credit_line_changes_nothing():
    for credit in (
        "© Jane Doe",
        "© 2020-2023 Jane van der Berg",
        "Photo by Jane Doe",
        "Credit: NASA/JPL",
        "撮影：山田太郎",
    ):
        assert normalize({"license": "CC BY 4.0", "rights": credit}) == ("CC-BY-4.0", "license=CC BY 4.0")
