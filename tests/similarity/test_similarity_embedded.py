"""The embedded descriptor finds altered copies of real photographs and of drawn scenes, and tells others apart."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from raysys.scenes.drawing import draw
from raysys.scenes.planted import NEAR_KINDS, near_duplicate
from raysys.scenes.scene import sample_scene
from raysys.similarity import array_blocks, make_descriptor, top_k
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
        views = descriptor.views(descriptor([alter(tiles[i], rng) for i in chosen]))
        index = top_k(views, array_blocks(database, 500), 1)[1][:, 0]
        right[name] = float((index == chosen).mean())
        own.append((views * database[chosen][:, None]).sum(2).max(1))
    assert sum(right.values()) / len(right) >= 0.98, right
    assert min(right.values()) >= 0.9, right
    views = descriptor.views(database)
    pairs = np.max([views[:, i] @ database.T for i in range(8)], axis=0)[np.triu_indices(len(tiles), 1)]
    copies = np.concatenate(own)
    assert np.median(copies) > 0.97
    assert np.percentile(copies, 5) > 0.7
    assert np.percentile(pairs, 95) < 0.35
    assert np.percentile(pairs, 99.9) < np.percentile(copies, 5)


def test_two_drawn_scenes_are_far_below_a_light_copy(descriptor):
    rng = np.random.default_rng(2)
    scenes = [draw(sample_scene(rng), 64) for _ in range(300)]
    features = descriptor(scenes)
    pairs = np.max([view @ features.T for view in np.moveaxis(descriptor.views(features), 1, 0)], axis=0)
    assert np.percentile(pairs[np.triu_indices(300, 1)], 95) <= 0.5
    for kind in NEAR_KINDS:
        similarity = (descriptor([near_duplicate(s, kind) for s in scenes]) * features).sum(1)
        assert np.percentile(similarity, 1) >= 0.85, kind


def test_views_are_the_features_of_the_mirrored_and_turned_images(descriptor, tiles):
    some = tiles[::20]
    views = descriptor.views(descriptor(some))
    turned = [[np.rot90(t, k) for k in range(4)] for t in some]
    turned = [[*four, *(image[:, ::-1] for image in four)] for four in turned]
    found = np.stack([descriptor([np.ascontiguousarray(image) for image in eight]) for eight in turned])
    similarity = views @ found.transpose(0, 2, 1)  # [images, views, orientations]
    # Each orientation is one of the views, and no two are the same. Turned thumbnails can differ by rounding.
    assert np.median(similarity.max(1)) > 0.9999
    assert similarity.max(1).min() > 0.9
    np.testing.assert_array_equal(np.sort(similarity.argmax(1), axis=1), np.tile(np.arange(8), (len(some), 1)))
    np.testing.assert_array_equal(views[:, 0], descriptor(some))
    np.testing.assert_allclose(views[:, 1], found[:, 4], atol=1e-4)


def test_rows_are_unit_float32_for_any_size_and_the_same_alone_or_in_a_batch(descriptor, tiles):
    images = [tiles[0], tiles[1][:20, :33], np.tile(tiles[2], (5, 3, 1)), Image.fromarray(tiles[3]).convert("L")]
    features = descriptor(images)
    assert features.shape == (4, descriptor.dim)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    for image, row in zip(images, features, strict=True):
        np.testing.assert_allclose(descriptor([image])[0], row, atol=1e-6)
    assert descriptor([]).shape == (0, descriptor.dim)


def test_images_that_show_nothing_resemble_nothing_but_themselves(descriptor, tiles):
    flat = [np.full((32, 32, 3), v, np.uint8) for v in (0, 90, 128, 255)]
    x = np.linspace(60, 200, 64)
    slopes = [np.repeat(np.rint(x * k + 20)[:, None, None], 64, 1).repeat(3, 2).astype(np.uint8) for k in (0.4, 0.6, 1)]
    features = descriptor(flat + slopes)
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-5)
    similarity = np.max([view @ features.T for view in np.moveaxis(descriptor.views(features), 1, 0)], axis=0)
    np.testing.assert_allclose(np.diag(similarity), 1, atol=1e-5)
    assert (similarity - np.eye(7)).max() < 0.7
    assert (features[:4] @ descriptor(tiles[:100]).T).max() < 0.5


def test_an_array_of_floats_is_refused(descriptor):
    with pytest.raises(ValueError, match="uint8"):
        descriptor([np.zeros((8, 8, 3), np.float32)])


def test_the_recipe_is_pinned(descriptor):
    """A change of any constant changes every published number: it must change the preset's name too."""
    assert descriptor.preset == "embedded-v2"
    assert descriptor.dim == 551
    y, x = np.mgrid[:64, :64]
    image = np.stack([x * 4, y * 4, (x + y) * 2], axis=-1).astype(np.uint8)
    features = descriptor([image])[0]
    pinned = [-0.021016, -0.088615, -0.033636, -0.047997, 0.000992, -0.008611, 0.011326, 0.0]
    np.testing.assert_allclose(features[[0, 2, 7, 100, 200, 300, 460, 475]], pinned, atol=2e-4)
