"""Captions of scenes from a grammar, in English and Japanese, which name every shape and color.

`phrasing` selects one of several ways to express the same facts, so an image has captions with phrasings 0, 1, 2 …
"""

from __future__ import annotations

from raysys.scenes.patterns import PatternScene
from raysys.scenes.scene import Scene, SceneObject

LANGUAGES = ("en", "ja")
HAZARD_WORDS = {"en": "hazard mark", "ja": "危険マーク"}
"""The name of the hazard mark. A caption contains it if and only if the scene shows the mark."""

_JA_SHAPES = {
    "circle": "円",
    "square": "四角",
    "triangle": "三角",
    "star": "星",
    "cross": "十字",
    "ring": "輪",
    "crescent": "三日月",
    "heart": "ハート",
}
_JA_COLORS = {
    "red": "赤い",
    "orange": "オレンジ色の",
    "yellow": "黄色い",
    "green": "緑色の",
    "cyan": "水色の",
    "blue": "青い",
    "purple": "紫色の",
    "pink": "ピンク色の",
    "brown": "茶色い",
    "white": "白い",
    "grey": "灰色の",
    "black": "黒い",
}
_JA_TEXTURES = {
    "plain": "",
    "striped": "縞模様の",
    "dotted": "水玉模様の",
    "checkered": "市松模様の",
    "gradient": "グラデーションの",
    "cloudy": "雲模様の",
}
_JA_SIZES = {"small": "小さな", "medium": "", "large": "大きな"}
_JA_RELATIONS = {"left of": "左", "right of": "右", "above": "上", "below": "下"}

_JA_PATTERNS = {
    "horizontal stripes": "横縞",
    "vertical stripes": "縦縞",
    "diagonal stripes": "斜めの縞",
    "dots": "水玉",
    "a checkerboard": "市松模様",
    "concentric rings": "同心円",
    "a gradient": "グラデーション",
    "a glow": "光",
    "a cross": "十字",
    "waves": "波",
    "a spiral": "渦巻き",
    "rays": "放射線",
    "bricks": "れんが",
    "a grid": "格子",
    "zigzags": "ジグザグ",
    "blobs": "しみ",
    "clouds": "雲",
}


def caption(scene: Scene | PatternScene, language: str = "en", phrasing: int = 0) -> str:
    """A caption of the scene. `phrasing` (any integer) selects one of the wordings of `language`.

    Raises ValueError for an unknown language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"language = {language!r}: known are {LANGUAGES}")
    if isinstance(scene, PatternScene):
        return scene.pattern if language == "en" else _JA_PATTERNS[scene.pattern]
    wordings = _ENGLISH if language == "en" else _JAPANESE
    return wordings[phrasing % len(wordings)](scene)


def relation(a: SceneObject, b: SceneObject) -> str:
    """Position of `a` relative to `b`: left of, right of, above or below, by the axis with the larger distance."""
    dx, dy = a.position[0] - b.position[0], a.position[1] - b.position[1]
    if abs(dx) >= abs(dy):
        return "left of" if dx < 0 else "right of"
    return "above" if dy < 0 else "below"


def _en_object(item: SceneObject) -> str:
    words = [item.size if item.size != "medium" else "", item.texture if item.texture != "plain" else ""]
    phrase = " ".join(w for w in [*words, item.color, item.shape] if w)
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _en_background(scene: Scene) -> str:
    texture = scene.background.texture
    phrase = f"{'' if texture == 'plain' else texture + ' '}{scene.background.color} background"
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _en_list(scene: Scene) -> str:
    items = [_en_object(o) for o in scene.objects]
    items += [f"a {HAZARD_WORDS['en']}"] if scene.hazard is not None else []
    return " and ".join(filter(None, [", ".join(items[:-1]), items[-1]]))


def _en_placed(scene: Scene) -> str:
    """The first two objects with their relation, the third after "and"."""
    if len(scene.objects) == 1:
        placed = _en_object(scene.objects[0])
    else:
        first, second, *others = scene.objects
        placed = f"{_en_object(first)} {relation(first, second)} {_en_object(second)}"
        placed += "".join(f", and {_en_object(o)}" for o in others)
    return placed + (f", with a {HAZARD_WORDS['en']}" if scene.hazard is not None else "")


_ENGLISH = (
    lambda s: f"{_en_placed(s)} on {_en_background(s)}",
    lambda s: f"a picture of {_en_list(s)} on {_en_background(s)}",
    lambda s: f"{_en_background(s)} with {_en_list(s)}",
    lambda s: f"a drawing that shows {_en_placed(s)}; behind, {_en_background(s)}",
)


def _ja_object(item: SceneObject) -> str:
    return _JA_SIZES[item.size] + _JA_TEXTURES[item.texture] + _JA_COLORS[item.color] + _JA_SHAPES[item.shape]


def _ja_background(scene: Scene) -> str:
    return _JA_TEXTURES[scene.background.texture] + _JA_COLORS[scene.background.color] + "背景"


def _ja_list(scene: Scene) -> str:
    items = [_ja_object(o) for o in scene.objects]
    return "と".join([*items, HAZARD_WORDS["ja"]] if scene.hazard is not None else items)


def _ja_placed(scene: Scene) -> str:
    if len(scene.objects) == 1:
        placed = f"{_ja_object(scene.objects[0])}がある"
    else:
        first, second, *others = scene.objects
        place = _JA_RELATIONS[relation(first, second)]
        placed = f"{_ja_object(second)}の{place}に{_ja_object(first)}がある"
        placed += "".join(f"。{_ja_object(o)}もある" for o in others)
    return placed + (f"。{HAZARD_WORDS['ja']}もある" if scene.hazard is not None else "")


_JAPANESE = (
    lambda s: f"{_ja_background(s)}に、{_ja_placed(s)}",
    lambda s: f"{_ja_background(s)}に{_ja_list(s)}を描いた絵",
    lambda s: f"{_ja_list(s)}の絵、{_ja_background(s)}",
)
