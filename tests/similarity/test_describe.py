"""Images → FEATURES rows, and their features mapped from disk."""

from __future__ import annotations

import numpy as np
import pytest

from raysys.outcomes import rejected
from raysys.rows import FEATURES
from raysys.similarity import describe as module
from raysys.similarity import make_descriptor
from raysys.similarity.describe import LoadedImage, describe
from raysys.similarity.feature_file import FeatureFile


class Spy:
    """The embedded descriptor; remembers how many images it got at a time."""

    def __init__(self) -> None:
        self._descriptor, self.sizes = make_descriptor(), []
        self.name, self.dim = self._descriptor.name, self._descriptor.dim

    def __call__(self, images):
        self.sizes.append(len(images))
        return self._descriptor(images)


@pytest.fixture(scope="module")
def pixels() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(10)]


def loaded(pixels, unreadable=()) -> list[LoadedImage]:
    fate = rejected("truncated")
    return [
        LoadedImage(f"i{i}", f"s{i}", None, fate) if i in unreadable else LoadedImage(f"i{i}", f"s{i}", p)
        for i, p in enumerate(pixels)
    ]


@pytest.mark.parametrize("batch_images", [1, 3, 64])
def test_rows_in_order_bit_for_bit_the_same_in_any_batch(pixels, batch_images):
    expected = make_descriptor()(pixels)
    rows = list(describe(loaded(pixels, unreadable=(0, 4, 9)), Spy(), batch_images))
    FEATURES.table(rows)  # they fit the schema
    assert [row["image_id"] for row in rows] == [f"i{i}" for i in range(10)]
    assert [i for i, row in enumerate(rows) if row["outcome"] == "rejected"] == [0, 4, 9]
    for i, row in enumerate(rows):
        if row["outcome"] == "kept":
            assert row["features"] == expected[i].astype("<f4").tobytes()


def test_large_images_are_described_a_few_at_a_time(pixels, monkeypatch):
    monkeypatch.setattr(module, "BATCH_BYTES", 2 * pixels[0].nbytes)
    spy = Spy()
    list(describe(loaded(pixels, unreadable=(1,)), spy))
    assert max(spy.sizes) == 2
    assert sum(spy.sizes) == 9


def test_images_are_taken_one_after_the_other(pixels):
    """A loader may be lazy: no more than a batch of its images is held."""
    taken = []

    def images():
        for image in loaded(pixels):
            taken.append(image.image_id)
            yield image

    rows = describe(images(), Spy(), batch_images=2)
    next(rows)
    assert taken == ["i0", "i1"]


def test_features_that_are_not_finite_are_error_rows(pixels):
    class Broken(Spy):
        def __call__(self, images):
            features = super().__call__(images)
            features[0, 3] = np.nan
            return features

    rows = list(describe(loaded(pixels[:3]), Broken()))
    assert [(row["outcome"], row["reason"]) for row in rows] == [
        ("error", "not_finite"),
        ("kept", None),
        ("kept", None),
    ]
    assert rows[0]["features"] is None


def test_a_descriptor_of_another_shape_is_a_mistake(pixels):
    spy = Spy()
    spy.dim = 7
    with pytest.raises(ValueError, match=r"\[2, 7\] expected"):
        list(describe(loaded(pixels[:2]), spy))


def test_features_come_back_from_disk_as_they_were(pixels):
    expected = make_descriptor()(pixels)
    rows = list(describe(loaded(pixels, unreadable=(2,)), make_descriptor()))
    with FeatureFile() as file:
        assert file.array().shape[0] == 0
        file.extend([FEATURES.table(rows[:5]), FEATURES.table(rows[5:])])
        keep = [i for i in range(10) if i != 2]
        assert file.ids == [f"i{i}" for i in keep]
        assert file.sample_ids == [f"s{i}" for i in keep]
        assert isinstance(file.array(), np.memmap)
        np.testing.assert_array_equal(file.array(), expected[keep])
        with pytest.raises(ValueError, match=f"{4 * expected.shape[1]} expected"):
            file.append("other", None, b"\0" * 8)
