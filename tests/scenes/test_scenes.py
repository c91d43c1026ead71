"""Scenes: reproducible, true captions, visually diverse; hazard pairs differ only in the mark."""

import numpy as np
import pytest

from raysys.scenes import (
    FUSION_CLASSES,
    GENERALIZED_LEVELS,
    HAZARD_WORDS,
    PALETTE,
    SHAPES,
    Background,
    Scene,
    SceneObject,
    caption,
    draw,
    generalize_caption,
    sample_class_scene,
    sample_scene,
    with_hazard,
)


def make_object(shape="circle", position=(0.25, 0.5), color="red", size="large", texture="plain", radius=0.2):
    rgb = PALETTE[color]
    return SceneObject(shape, color, size, texture, position, radius, 0.0, rgb, 0.0, 0.1)


def make_scene(*objects, color="white", texture="plain"):
    return Scene(objects, Background(color, texture, PALETTE[color], (0.5, 0.5, 0.5), 0.0, 0.2, 0.0, 1))


def test_same_seed_same_picture_and_caption():
    for seed in range(5):
        a, b = (sample_scene(np.random.default_rng(seed)) for _ in range(2))
        assert a == b
        assert caption(a) == caption(b)
        np.testing.assert_array_equal(draw(a), draw(b))


@pytest.mark.parametrize("size", [32, 64, 256])
def test_pictures_show_the_same_scene_at_every_size(size):
    scene = make_scene(make_object())
    picture = draw(scene, size)
    assert picture.shape == (size, size, 3)
    assert picture.dtype == np.uint8
    red = np.asarray(PALETTE["red"]) * 255
    assert np.abs(picture[size // 2, size // 4] - red).max() <= 1
    assert np.abs(picture[size // 2, 3 * size // 4] - 0.95 * 255).max() <= 1
    # A circle of radius 0.9·0.2 covers π·0.18² of the picture: antialiasing keeps the area.
    cover = (0.95 - picture[..., 1].mean() / 255) / (0.95 - PALETTE["red"][1])
    assert cover == pytest.approx(np.pi * 0.18**2, rel=0.03)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_visible_and_differs_from_the_others(shape):
    picture = draw(make_scene(make_object(shape, position=(0.5, 0.5)))).astype(int)
    assert 0.02 < (np.abs(picture - picture[0, 0]).sum(-1) > 60).mean() < 0.2
    for other in set(SHAPES) - {shape}:
        different = draw(make_scene(make_object(other, position=(0.5, 0.5)))).astype(int)
        assert (np.abs(picture - different).sum(-1) > 60).mean() > 0.01, other


def test_english_caption_says_shapes_colors_sizes_textures_and_relation():
    left = make_object("circle", (0.25, 0.5))
    right = make_object("square", (0.75, 0.5), color="blue", size="small", texture="striped")
    scene = make_scene(left, right, color="grey")
    assert caption(scene) == "a large red circle left of a small striped blue square on a grey background"
    swapped = make_scene(right, left, color="orange")
    assert caption(swapped) == "a small striped blue square right of a large red circle on an orange background"
    above = make_scene(make_object("star", (0.5, 0.2)), make_object("heart", (0.5, 0.8)))
    assert "star above a large red heart" in caption(above)


def test_every_wording_names_every_shape_and_color():
    rng = np.random.default_rng(3)
    for _ in range(50):
        scene = sample_scene(rng)
        wordings = {caption(scene, phrasing=k) for k in range(4)}
        assert len(wordings) == 4
        for text in wordings:
            assert scene.background.color in text
            for item in scene.objects:
                assert f"{item.color} {item.shape}" in text


def test_japanese_captions_are_japanese_and_tell_scenes_apart():
    scene = make_scene(make_object("circle"), make_object("square", (0.75, 0.5), color="blue"), color="grey")
    assert caption(scene, "ja") == "灰色の背景に、大きな青い四角の左に大きな赤い円がある"
    rng = np.random.default_rng(4)
    for k in range(30):
        text = caption(sample_scene(rng), "ja", phrasing=k)
        assert not any("a" <= c <= "z" for c in text)
    with pytest.raises(ValueError, match="language = 'fr'"):
        caption(scene, "fr")


def test_objects_of_a_scene_can_all_be_seen():
    rng = np.random.default_rng(5)
    counts = [0, 0, 0]
    for _ in range(200):
        scene = sample_scene(rng)
        counts[len(scene.objects) - 1] += 1
        assert all(o.color != scene.background.color for o in scene.objects)
        for i, item in enumerate(scene.objects):
            rest = Scene(scene.objects[:i] + scene.objects[i + 1 :], scene.background)
            changed = np.abs(draw(scene).astype(int) - draw(rest)).sum(-1) > 20
            assert changed.sum() >= 12, item
    assert min(counts) >= 30


def test_unrelated_scenes_look_different():
    """A copy must stand out: correlation of unrelated scenes is far below that of a slightly altered copy."""
    rng = np.random.default_rng(6)
    flat = np.stack([draw(sample_scene(rng), 32).astype(np.float32).ravel() for _ in range(200)])
    flat -= flat.mean(axis=1, keepdims=True)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    similarity = flat @ flat.T - 2 * np.eye(200)
    nearest = similarity.max(axis=1)
    assert np.median(nearest) < 0.8
    assert np.mean(nearest > 0.95) < 0.05


def test_hazard_pair_differs_only_in_the_mark_and_its_words():
    rng = np.random.default_rng(7)
    safe = sample_scene(rng)
    unsafe = with_hazard(safe, rng)
    changed = np.abs(draw(unsafe).astype(int) - draw(safe)).sum(-1) > 0
    assert 0.01 < changed.mean() < 0.2
    for language in ("en", "ja"):
        for phrasing in range(4):
            assert HAZARD_WORDS[language] in caption(unsafe, language, phrasing)
            assert HAZARD_WORDS[language] not in caption(safe, language, phrasing)


def test_fusion_classes_vary_inside_and_are_named_by_their_caption():
    assert len(FUSION_CLASSES) >= 12
    rng = np.random.default_rng(8)
    for index, name in enumerate(FUSION_CLASSES):
        scenes = [sample_class_scene(rng, index) for _ in range(3)]
        assert {caption(s) for s in scenes} == {name}
        assert caption(scenes[0], "ja")
        pictures = [draw(s) for s in scenes]
        assert np.abs(pictures[0].astype(int) - pictures[1]).mean() > 10
        assert all(p.std(axis=(0, 1)).max() > 5 for p in pictures), name
    with pytest.raises(ValueError, match="class_index = 17"):
        sample_class_scene(rng, 17)


@pytest.mark.parametrize("phrasing", range(4))
def test_generalized_captions_are_shorter_and_keep_the_subject(phrasing):
    rng = np.random.default_rng(11)
    for number in range(300):
        scene = sample_scene(rng)
        scene = with_hazard(scene, rng) if number % 3 == 0 else scene
        text = caption(scene, "en", phrasing)
        shorter = [generalize_caption(text, "general", wording) for wording in range(3)]
        five = generalize_caption(text, "five_words")
        assert len(set(shorter)) == 3
        assert len(five.split()) <= 5
        for short in (*shorter, five):
            assert len(short) < len(text)
            assert len(short.split()) < len(text.split())
            assert all(item.shape in short for item in scene.objects)
            assert (HAZARD_WORDS["en"] in short) == (scene.hazard is not None)
            assert not {*short.split()} & {"small", "large", "striped", "dotted", "background"}
        assert all(f"{item.color} {item.shape}" in short for item in scene.objects for short in shorter)
        assert not {*five.split()} & {*PALETTE}


def test_generalized_captions_by_hand():
    text = "a large red star left of a blue ring, and a small pink star, with a hazard mark on a green background"
    general = "a picture shows a red star, a blue ring, a pink star and a hazard mark"
    assert generalize_caption(text, "general") == general
    assert generalize_caption(text, "five_words") == "stars, ring and hazard mark"
    twins = "an orange star and a small orange star on a white background"
    assert generalize_caption(twins, "general", 2) == "orange stars on a surface"
    assert generalize_caption("a red cross on a blue background", "five_words") == "picture shows a cross"
    assert generalize_caption("a red heart and a blue ring on a pink background", "five_words") == (
        "picture shows heart and ring"
    )
    assert generalize_caption("diagonal stripes", "general") == "stripes"
    with pytest.raises(ValueError, match="names no shape"):
        generalize_caption("two cats on a couch", "general")
    with pytest.raises(ValueError, match="level = 'short'"):
        generalize_caption(text, "short")


@pytest.mark.parametrize("level", GENERALIZED_LEVELS)
def test_generalized_classes_keep_their_noun(level):
    for name in FUSION_CLASSES:
        short = generalize_caption(name, level)
        assert len(short.split()) <= min(len(name.split()), 5)
        assert short.split()[-1] == name.split()[-1]
