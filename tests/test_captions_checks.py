"""What a usable caption is: every check with texts that pass and texts that fail it."""

from __future__ import annotations

import numpy as np
import pytest

from raysys.captions.checks import ChecksConfig, clean, problem, repeated_phrase, script_share
from raysys.scenes import caption, sample_scene

CONFIG = ChecksConfig()


def reason(text: str, finish: str = "stop", language: str = "en", config: ChecksConfig = CONFIG) -> str | None:
    found = problem(clean(text), finish, language, config)
    return found and found.reason


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ('  "A red star."\n', "A red star."),
        ("a  red\n\tstar", "a red star"),
        ("「赤い星」", "赤い星"),
        ("ａ ｒｅｄ ｓｔａｒ", "a red star"),  # NFKC
        ("ｶﾀｶﾅの星", "カタカナの星"),
        ('"Yes" and "no"', '"Yes" and "no"'),  # not one pair around it all
        ("'", "'"),
        ("", ""),
    ],
)
def test_clean(text, cleaned):
    assert clean(text) == cleaned


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("a red star left of a blue ring", "en", None),
        ("赤い星の左に青い輪がある", "ja", None),
        ("A café in Zürich, naïve and cosy", "en", None),
        ("very, very, very good", "en", None),
        ("3 dogs", "en", None),
        ("", "en", "empty"),
        (" \n ", "en", "empty"),
        ("...!?", "en", "empty"),
        ("x", "en", "empty"),
        ("a star\x00", "en", "control_characters"),
        ("a star \ufffd", "en", "control_characters"),
        ("a \ue000 star", "en", "control_characters"),
        ("I'm sorry, but I can't describe this image.", "en", "refusal"),
        ("As an AI language model, I see a star", "en", "refusal"),
        ("申し訳ありませんが、画像の説明はできません。", "ja", "refusal"),
        ("a sign that says sorry", "en", None),
        ("a star and a star and a star and a star and", "en", "repetition"),
        ("red red red red red red red red", "en", "repetition"),
        ("星星星星星星星星星星", "ja", "repetition"),
        ("赤い星と赤い星と赤い星と赤い星と赤い星と", "ja", "repetition"),
        ("赤い星の左に青い輪がある", "en", "wrong_language"),
        ("a red star left of a blue ring", "ja", "wrong_language"),
        ("红色的星星在蓝色的圆环左边", "ja", "wrong_language"),  # Chinese: no kana
        ("赤い星", "zh", "wrong_language"),
        ("빨간 별", "ko", None),
    ],
)
def test_problem(text, language, expected):
    assert reason(text, language=language) == expected


def test_truncation_is_a_choice():
    assert reason("a red star left", "length") == "truncated"
    assert reason("a red star left", "length", config=ChecksConfig(allow_truncated=True)) is None


def test_thresholds_are_config():
    assert reason("no no no", config=ChecksConfig(max_repeats=2)) is None  # six letters: shorter than any loop
    assert reason("no go no go no go no go", config=ChecksConfig(max_repeats=5)) is None
    assert reason("no go no go no go no go") == "repetition"
    assert reason("star 星星", config=ChecksConfig(min_script_share=0.9)) == "wrong_language"
    assert reason("cannot say", config=ChecksConfig(refusals=(r"cannot say",))) == "refusal"
    assert reason("I cannot say", config=ChecksConfig(refusals=())) is None


def test_the_caption_grammar_passes_all_checks():
    """1,000 true captions in both languages: a check that fires here would throw good captions away."""
    rng = np.random.default_rng(0)
    for i in range(250):
        scene = sample_scene(rng)
        for language in ("en", "ja"):
            for phrasing in (i, i + 1):
                text = caption(scene, language, phrasing)
                assert reason(text, language=language) is None, text


def naive_repeats(units: list[str], times: int) -> bool:
    """Is there a stretch of 8 units or more that is one phrase, `times` times or more in a row?"""
    for start in range(len(units)):
        for stop in range(start + 8, len(units) + 1):
            stretch = units[start:stop]
            for length in range(1, len(stretch) // times + 1):
                if all(unit == stretch[i % length] for i, unit in enumerate(stretch)):
                    return True
    return False


def test_repetition_agrees_with_a_naive_search():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(800):
        units = [str(x) for x in rng.integers(0, 3, rng.integers(0, 8))]
        phrase = units[: rng.integers(1, 5)]
        units += phrase * int(rng.integers(1, 5)) + [str(x) for x in rng.integers(0, 3, rng.integers(0, 4))]
        expected = naive_repeats(units, 3)
        assert (repeated_phrase(units, 3) is not None) == expected, units
        found += expected
    assert 50 < found < 750


def test_script_share():
    assert script_share("123 !?", "ja") == 1.0
    assert script_share("赤い star", "ja") == pytest.approx(2 / 6)
    assert script_share("звезда", "ru") == 1.0
