"""The embedded descriptor finds altered copies of real photographs and of drawn scenes, and tells others apart."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from raysys.scenes.drawing import draw
from raysys.scenes.planted import NEAR_KINDS, near_duplicate
from raysys.scenes.scene import sample_scene
from raysys.similarity import array_blocks, make_descriptor, query_views, top_k
from tests.support.photos import ALTERATIONS, photo_tiles

N_COPIES = 200  # of each alteration


@pytest.fixture(scope="module")
def descriptor():
    return make_descriptor()


@pytest.fixture(scope="module")
def tiles() -> list[np.ndarray]:
    return photo_tiles(64)


def test_planted_copies_of_photographs_are_found_among_a_thousand_others(descriptor, tiles):
    assert len(tiles) >= 1000
    database = descriptor(tiles)
    rng, right, own = np.random.default_rng(1), {}, []
    for name, alter in ALTERATIONS.items():
        chosen = rng.choice(len(tiles), N_COPIES, replace=False)
        views = query_views(descriptor, descriptor([alter(tiles[i], rng) for i in chosen]))
        index = top_k(views, array_blocks(database, 500), 1)[1][:, 0]
        right[name] = float((index == chosen).mean())
        own.append((views * database[chosen][:, None]).sum(2).max(1))
    assert sum(right.values()) / len(right) >= 0.98, right
    assert min(right.values()) >= 0.95, right
    views = query_views(descriptor, database)
    pairs = np.maximum(views[:, 0] @ database.T, views[:, 1] @ database.T)[np.triu_indices(len(tiles), 1)]
    copies = np.concatenate(own)
    assert np.median(copies) > 0.97
    assert np.percentile(copies, 5) > 0.75
    assert np.percentile(pairs, 95) < 0.35
    assert np.percentile(pairs, 99.9) < np.percentile(copies, 5)


def test_two_drawn_scenes_are_far_below_a_light_copy(descriptor):
    rng = np.random.default_rng(2)
    scenes = [draw(sample_scene(rng), 64) for _ in range(300)]
    features = descriptor(scenes)
    pairs = np.maximum(features @ features.T, descriptor.mirrored(features) @ features.T)
    assert np.percentile(pairs[np.triu_indices(300, 1)], 95) <= 0.5
    for kind in NEAR_KINDS:
        similarity = (descriptor([near_duplicate(s, kind) for s in scenes]) * features).sum(1)
        assert np.percentile(similarity, 1) >= 0.85, kind


def test_mirrored_features_are_the_features_of_the_mirror_image(descriptor, tiles):
    some = tiles[::20]
    mirrors = [np.ascontiguousarray(t[:, ::-1]) for t in some]
    np.testing.assert_allclose(descriptor.mirrored(descriptor(some)), descriptor(mirrors), atol=1e-5)


def test_rows_are_unit_float32_for_any_size_and_the_same_alone_or_in_a_batch(descriptor, tiles):
    images = [tiles[0], tiles[1][:20, :33], np.tile(tiles[2], (5, 3, 1)), Image.fromarray(tiles[3]).convert("L")]
    features = descriptor(images)
    assert features.shape == (4, descriptor.dim)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    for image, row in zip(images, features, strict=True):
        np.testing.assert_allclose(descriptor([image])[0], row, atol=1e-6)
    assert descriptor([]).shape == (0, descriptor.dim)


def test_flat_images_have_unit_length_and_resemble_only_each_other(descriptor, tiles):
    flat = descriptor([np.full((32, 32, 3), v, np.uint8) for v in (0, 128, 255)])
    np.testing.assert_allclose(flat @ flat.T, 1, atol=1e-3)
    assert (flat @ descriptor(tiles[:100]).T).max() < 0.2


def test_an_array_of_floats_is_refused(descriptor):
    with pytest.raises(ValueError, match="uint8"):
        descriptor([np.zeros((8, 8, 3), np.float32)])


def test_the_recipe_is_pinned(descriptor):
    """A change of any constant changes every published number: it must change the preset's name too."""
    assert descriptor.preset == "embedded-v1"
    assert descriptor.dim == 488
    y, x = np.mgrid[:64, :64]
    image = np.stack([x * 4, y * 4, (x + y) * 2], axis=-1).astype(np.uint8)
    features = descriptor([image])[0]
    pinned = [-0.199334, -0.038117, -0.360599, -0.040431, 0.060664, -0.040431, 0.023277, 0.0]
    np.testing.assert_allclose(features[[0, 2, 7, 100, 200, 300, 460, 475]], pinned, atol=2e-4)
