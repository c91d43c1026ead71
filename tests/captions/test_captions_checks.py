"""What a usable caption is: every check with texts that pass and texts that fail it."""

from __future__ import annotations

import numpy as np
import pytest

from raysys.captions.checks import ChecksConfig, problem, repeated_phrase
from raysys.captions.cleaning import clean
from raysys.language.languages import other_language, script_share
from raysys.scenes import caption, sample_scene

CONFIG = ChecksConfig()


def reason(text: str, finish: str = "stop", language: str = "en", config: ChecksConfig = CONFIG) -> str | None:
    found = problem(config.clean(text), finish, language, config)
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
        ("Here is a more general caption: A dog in a park.", "A dog in a park."),
        ('Sure! A more general caption: "Animal outdoors"', "Animal outdoors"),
        (
            'Certainly! Here\'s a general version of the caption:\n\n"A dog in a park."\n\nLet me know',
            "A dog in a park.",
        ),
        ("A dog in a park. Note: I removed the breed.", "A dog in a park."),
        ("A dog in a park.\n\n(Note that: the breed is gone)", "A dog in a park."),
        ("A dog.\nI replaced the breed by its kind.", "A dog."),
        ("以下は翻訳です: 公園の犬", "公園の犬"),
        ("もちろんです。翻訳：「公園の犬」", "公園の犬"),
        ("公園の犬がいる。※犬種は省きました", "公園の犬がいる。"),
        ("Caption: a dog", "a dog"),
        ("A more general caption would be: a dog", "a dog"),
        ("Rewritten caption: a dog", "a dog"),
        ("A dog. The breed was removed.", "A dog."),
        ("A dog. The brand and the name have been omitted from the caption.", "A dog."),
        # not around the caption but in it
        ("a sign that reads caption: none", "a sign that reads caption: none"),
        ("Here is a dog in a park", "Here is a dog in a park"),
        ("a note: on a fridge", "a note: on a fridge"),
        ("The title of the book: a mystery", "The title of the book: a mystery"),
        ("Sure!", "Sure!"),
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
        ("a star \ufdd0", "en", "control_characters"),
        ("Sure!", "en", "preamble"),
        ("Here is a more general caption", "en", "preamble"),
        ("A more general caption:", "en", "preamble"),
        ("a caption under a photo", "en", None),
        ("a tile with caption", "en", None),
        ("以下の翻訳", "ja", "preamble"),
        ("un chien court dans le parc", "en", "wrong_language"),
        ("ein Hund im Park neben einer Bank", "en", "wrong_language"),
        ("un perro en el parque", "en", "wrong_language"),
        ("a dog is running in the park", "fr", "wrong_language"),
        ("un chien court dans le parc", "fr", None),
        ("a poster of La Casa de Papel on the wall", "en", None),
        ("Mercedes-Benz C-Klasse in Stuttgart", "en", None),
        ("I'm sorry, but I can't describe this image.", "en", "refusal"),
        ("As an AI language model, I see a star", "en", "refusal"),
        ("Sorry, I can't see any image.", "en", "refusal"),
        ("Sorry, the picture is too dark.", "en", "refusal"),
        ("I can't make out what it shows", "en", "refusal"),
        ("I cannot provide a caption for it", "en", "refusal"),
        ("申し訳ありませんが、画像の説明はできません。", "ja", "refusal"),
        ("a sign that says sorry", "en", None),
        ("Sorry, We're Closed sign on a door", "en", None),
        ("I can't Believe It's Not Butter tub on a table", "en", None),
        ("a shaking face \U0001fae8 on a mug", "en", None),  # newer than the tables of Python 3.11
        ("a star and a star and a star and a star and", "en", "repetition"),
        ("red red red red red red red red", "en", "repetition"),
        ("星星星星星星星星星星", "ja", "repetition"),
        ("赤い星と赤い星と赤い星と赤い星と赤い星と", "ja", "repetition"),
        ("赤い星の左に青い輪がある", "en", "wrong_language"),
        ("a red star left of a blue ring", "ja", "wrong_language"),
        ("红色的星星在蓝色的圆环左边", "ja", "wrong_language"),  # Chinese: no kana
        ("紅色的星星在藍色的圓環左邊", "ja", "wrong_language"),
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


def naive_repeats(units: list[str], span: int, times: int) -> bool:
    """Is a stretch of `span` units one phrase, `times` times or more in a row, or all of it, 4 times or more?"""
    for start in range(len(units)):
        for stop in range(start + 1, len(units) + 1):
            stretch = units[start:stop]
            enough = max(times, 4) if len(stretch) == len(units) else len(units) + 1
            for length in range(1, len(stretch) // times + 1):
                repeats = all(unit == stretch[i % length] for i, unit in enumerate(stretch))
                if repeats and (len(stretch) >= span or len(stretch) // length >= enough):
                    return True
    return False


def test_repetition_agrees_with_a_naive_search():
    rng = np.random.default_rng(0)
    found = 0
    for _ in range(800):
        units = [str(x) for x in rng.integers(0, 3, rng.integers(0, 8))]
        phrase = units[: rng.integers(1, 5)]
        units += phrase * int(rng.integers(1, 5)) + [str(x) for x in rng.integers(0, 3, rng.integers(0, 4))]
        expected = naive_repeats(units, 8, 3)
        assert (repeated_phrase(units, 8, 3) is not None) == expected, units
        found += expected
    assert 50 < found < 750


def test_script_share():
    assert script_share("123 !?", "ja") == 1.0
    assert script_share("赤い star", "ja") == pytest.approx(2 / 2.5)
    assert script_share("赤い star", "en") == pytest.approx(4 / 6)
    assert script_share("звезда", "ru") == 1.0


def test_languages_of_one_script_are_told_apart_by_their_function_words():
    assert other_language("un chien court dans le parc", "en", 2.0) == "fr"
    assert other_language("a dog runs through the park", "en", 2.0) is None
    assert other_language("der Hund und die Katze", "en", 2.0) == "de"
    assert other_language("der Hund und die Katze", "en", 1e9) == "de"  # not one English word
    assert other_language("the dog of the der und die", "en", 2.0) is None
    assert other_language("un chien dans un parc", "en", 2.0) is None  # two words are not proof
    assert other_language("un chien court dans le parc", "ja", 2.0) is None  # its script says it
    assert reason("der Hund und die the cat", config=ChecksConfig(max_foreign_words=5)) is None


GOOD_ENGLISH = (
    "A man in a hat",
    "an old man in a straw hat",
    "a man in a hat playing a guitar in a band",
    "Man wearing black hat in park",
    "war memorial in the rain",
    "Die cast model car, die cut box",
    "Eau de toilette pour homme, 100 ml",
    "Fleur de sel de Guérande, 250g",
    "A wooden sign reading La Casa de la Abuela",
    "Place de la Concorde",
    "Arc de Triomphe de l'Étoile",
    "Café des Deux Moulins, Rue Lepic",
    "Plaza de la Constitución, Madrid",
    "Día de los Muertos altar with candles",
    "Tacos al pastor con piña",
    "Van der Valk hotel",
    "Plus size women's dress, plus",
    "Sorry! board game box on a table",
    "Sorry sign on a closed shop door",
    "I'm sorry card with red roses",
    "A robot advertised as an AI assistant",
    "OK! magazine cover with a smiling woman",
    "OK. sign carved in wood",
    "Output: 5V 2A USB charger",
    "This is the deluxe version of the toy set: a red car and a garage",
    "Homemade cake on a plate. I made it for my daughter's birthday.",
    "Hand-knitted scarf. I used merino wool.",
    "A fridge with a magnet. Note: the door is open.",
    "A teddy bear. Let me know sign above it.",
)
GOOD_JAPANESE = (
    "次の電車を待つ人々。ホームに立っている。",
    "以下の文字が書かれた看板。白い背景に赤い文字。",
    "次の写真は犬です。犬が走る。",
    "次に進む矢印の標識。青い空。",
    "白いTシャツ。※モデル身長170cm",
    "看板に「立入禁止」。注意:関係者以外",
    "はい、チーズと言って笑う家族",
    "承知しました、と書かれたスタンプ",
    "ごめんなさいと書かれた手紙",
    "すみませんと頭を下げる男性",
    "申し訳なさそうな顔の犬",
    "NIKE Air Max 90の白いスニーカー",
    "Apple iPhone 15 Proのケース",
    "SONY WH-1000XM5 ワイヤレスヘッドホン",
    "USB Type-C ケーブル",
    "MacBook Pro 16インチ",
    "東京都庁第一本庁舎展望台",
    "京都府京都市東山区清水寺",
    "無印良品木製収納棚",
    "全日本空輸航空機成田国際空港",
)


@pytest.mark.parametrize(("language", "texts"), [("en", GOOD_ENGLISH), ("ja", GOOD_JAPANESE)])
def test_good_captions_that_look_suspicious_pass_unchanged(language: str, texts: tuple[str, ...]):
    """Each was rejected or cut by an earlier version of the checks."""
    for text in texts:
        assert clean(text) == text
        assert reason(text, language=language) is None, text


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ('Caption: "Stop" sign at a crossroads', '"Stop" sign at a crossroads'),
        ("キャプション:「止まれ」の標識が道路脇に立っている", "「止まれ」の標識が道路脇に立っている"),
        ('Here is a caption:\n"Animal outdoors"\nIt leaves out the breed.', "Animal outdoors"),
    ],
)
def test_quotes_that_belong_to_the_caption_stay(answer: str, caption: str):
    assert clean(answer) == caption


def test_patterns_that_do_not_compile_are_named():
    with pytest.raises(ValueError, match=r"'\(' is not a regular expression"):
        ChecksConfig(refusals=("(",))
