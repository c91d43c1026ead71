"""License statements as they occur in image collections → normalized ids; never a guess inside a sentence."""

import itertools

import pytest

from raysys.shards.licenses import (
    DEFAULT_ALLOWED,
    UNKNOWN,
    family,
    is_allowed,
    known_families,
    normalize,
    parse,
    strictest,
)

STATEMENTS = {
    "https://creativecommons.org/licenses/by/4.0/": "CC-BY-4.0",
    "http://creativecommons.org/licenses/by/2.0/deed.en": "CC-BY-2.0",
    "https://creativecommons.org/licenses/by/3.0/us/": "CC-BY-3.0",
    "https://creativecommons.org/licenses/by-nc-nd/2.0/jp/": "CC-BY-NC-ND-2.0",
    "//creativecommons.org/licenses/by/4.0/": UNKNOWN,
    "https://creativecommons.org/publicdomain/zero/1.0/": "CC0-1.0",
    "https://creativecommons.org/publicdomain/mark/1.0/": "PDM-1.0",
    "https://rightsstatements.org/vocab/NoC-US/1.0/": "NoC-US-1.0",
    "http://rightsstatements.org/vocab/InC/1.0/": "all-rights-reserved",
    "https://creativecommons.org/licenses/by/9.0/": UNKNOWN,
    "https://evil.org/creativecommons.org/licenses/by/4.0/": UNKNOWN,
    "CC BY 4.0": "CC-BY-4.0",
    "cc-by-4.0": "CC-BY-4.0",
    "CC_BY_4.0": "CC-BY-4.0",
    "CC BY 3.0 US": "CC-BY-3.0",
    "CC-BY": "CC-BY",
    "by": "CC-BY",  # Openverse writes license = "by", license_version = "4.0"
    "by-sa-3.0": "CC-BY-SA-3.0",
    "CC BY-NC 2.0": "CC-BY-NC-2.0",
    "cc by nc sa 4.0": "CC-BY-NC-SA-4.0",
    "Attribution License": "CC-BY",  # Flickr's names
    "Attribution-NonCommercial-ShareAlike License": "CC-BY-NC-SA",
    "Attribution-NoDerivs License": "CC-BY-ND",
    "Attribution 4.0 International (CC BY 4.0)": "CC-BY-4.0",
    "Creative Commons Attribution-NoDerivs 2.0 Generic": "CC-BY-ND-2.0",
    "This image is licensed under the Creative Commons Attribution-Share Alike 4.0 International license.": (
        "CC-BY-SA-4.0"
    ),
    "Licensed under CC BY 4.0": "CC-BY-4.0",
    "CC0": "CC0-1.0",
    "CC0 1.0 Universal": "CC0-1.0",
    "Creative Commons Zero v1.0 Universal": "CC0-1.0",
    "Public Domain Mark 1.0": "PDM-1.0",
    "Public domain": "PDM-1.0",
    "Public Domain Dedication (CC0)": "CC0-1.0",
    "No known copyright restrictions": "NKC-1.0",
    "All rights reserved": "all-rights-reserved",
    "Unsplash License": "Unsplash",
    "not CC BY": UNKNOWN,
    "CC BY or ask me": UNKNOWN,
    "photo by us": UNKNOWN,
    "by us": UNKNOWN,
    "see website": UNKNOWN,
    "": UNKNOWN,
}


@pytest.mark.parametrize("text", STATEMENTS)
def test_parse(text):
    assert parse(text) == STATEMENTS[text]
    assert parse(f"  {text.upper()} ") == STATEMENTS[text]


def test_ids_are_stable_under_parse():
    for license in set(STATEMENTS.values()):
        assert parse(license) == license


def test_evidence_names_the_deciding_field():
    assert normalize({"license": "CC BY 4.0", "x": 1}) == ("CC-BY-4.0", "license=CC BY 4.0")
    assert normalize({"License_URL": "https://creativecommons.org/licenses/by/2.0/"})[0] == "CC-BY-2.0"
    assert normalize({"rights": "ask"}) == (UNKNOWN, "rights=ask")
    assert normalize({"title": "CC BY 4.0"}) == (UNKNOWN, None)
    assert normalize({"license": 4}) == (UNKNOWN, "license=4")  # a number means different things in Flickr and COCO
    assert normalize({}) == (UNKNOWN, None)


def test_contradicting_fields_the_strictest_holds():
    both = {"license": "CC BY 4.0", "license_url": "https://creativecommons.org/licenses/by-nc/4.0/"}
    assert normalize(both) == ("CC-BY-NC-4.0", "license_url=https://creativecommons.org/licenses/by-nc/4.0/")
    assert normalize({"license": "4", "license_url": "https://creativecommons.org/licenses/by/2.0/"})[0] == "CC-BY-2.0"
    assert normalize({"license": "CC BY 4.0", "rights": "All rights reserved"})[0] == "all-rights-reserved"


def test_default_allow_list_is_cc0_and_cc_by_only():
    allowed = {license for license in STATEMENTS.values() if is_allowed(license, DEFAULT_ALLOWED)}
    assert allowed == {"CC0-1.0", "CC-BY", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0"}
    assert is_allowed("CC-BY-4.0", ["CC-BY-4.0"])
    assert not is_allowed("CC-BY-2.0", ["CC-BY-4.0"])
    assert not is_allowed(UNKNOWN, [UNKNOWN, *known_families()])


def test_strictest_is_a_total_order_whatever_the_order_of_sources():
    order = ["CC0-1.0", "PDM-1.0", "CC-BY-4.0", "CC-BY-2.0", "CC-BY-SA-4.0", "CC-BY-NC-2.0", "CC-BY-NC-ND-4.0"]
    order += ["all-rights-reserved", UNKNOWN]
    for k in range(1, len(order) + 1):
        assert strictest(order[:k]) == order[k - 1]
    for three in itertools.permutations(["CC0-1.0", "CC-BY-4.0", "CC-BY-2.0"]):
        assert strictest(three) == "CC-BY-2.0"
    assert strictest([]) == UNKNOWN
    assert family("CC-BY-NC-SA-3.0") == "CC-BY-NC-SA"
