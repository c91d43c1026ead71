"""Near-duplicate clusters against an O(n²) reference, and on planted duplicates of drawn scenes."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from raysys.errors import InputError
from raysys.rows import DUPLICATES
from raysys.scenes.drawing import draw
from raysys.scenes.planted import NEAR_KINDS, near_duplicate
from raysys.scenes.scene import sample_scene
from raysys.shards.duplicates import DuplicatesConfig, find_clusters
from raysys.similarity import make_descriptor
from raysys.similarity.descriptors import StatedFacts
from raysys.similarity.thresholds import NO_CLAIM
from raysys.similarity.verify import VERIFIED, Prepared, verification_score


def sample(i: int, sample_id: str | None = None, side: int = 64, license: str = "CC0-1.0") -> dict:
    return {
        "row_id": f"a.tar/{i:04}",
        "sample_id": sample_id or f"hash-{i}",
        "width": side,
        "height": side,
        "url": f"https://example.org/{i}",
        "license": license,
    }


def unit_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def naive_representatives(rows, features, threshold, mirrored=None) -> list[str]:
    """The slow truth: the whole matrix; leaders greedily by (area, order), then everyone to the nearest leader."""
    n = len(rows)
    matrix = features.astype(np.float64) @ features.T.astype(np.float64)
    if mirrored is not None:
        matrix = np.maximum(matrix, mirrored.astype(np.float64) @ features.T.astype(np.float64))
    matrix = matrix.astype(np.float32)
    order = sorted(range(n), key=lambda i: (-rows[i]["width"] * rows[i]["height"], i))
    head_of_bytes = {}
    for i in order:
        head_of_bytes.setdefault(rows[i]["sample_id"], i)
    heads = [i for i in order if head_of_bytes[rows[i]["sample_id"]] == i]
    leaders = []
    for i in heads:
        if all(matrix[i, leader] < np.float32(threshold) for leader in leaders):
            leaders.append(i)
    nearest = {i: max(leaders, key=lambda k, i=i: (i == k, matrix[i, k])) for i in heads}
    return [rows[nearest[head_of_bytes[row["sample_id"]]]]["row_id"] for row in rows]


@pytest.mark.parametrize("block_rows", [3, 16, 1000])
@pytest.mark.parametrize("flip", [False, True])
def test_clusters_equal_the_naive_reference(block_rows, flip, tmp_path):
    rng = np.random.default_rng(0)
    centers = unit_rows(rng, 25, 6)
    features = np.repeat(centers, 8, axis=0) + rng.normal(scale=0.12, size=(200, 6))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    shuffled = rng.permutation(200)
    features = features[shuffled]
    ids = [f"hash-{i % 170}" for i in range(200)]
    features[170:] = features[:30]  # equal bytes have equal descriptors
    signs = np.array([1, 1, 1, 1, -1, -1], np.float32)
    views = (lambda x: np.stack([x, x * signs], 1)) if flip else None
    rows = [sample(i, ids[i], side=int(rng.choice([32, 64, 128]))) for i in range(200)]
    config = DuplicatesConfig(threshold=0.9, block_rows=block_rows)
    mapped = np.memmap(tmp_path / "features", np.float32, "w+", shape=features.shape)
    mapped[:] = features
    found = find_clusters(rows, mapped, config, views)
    expected = naive_representatives(rows, features, 0.9, features * signs if flip else None)
    assert [r["representative"] for r in found] == expected
    assert len({r["representative"] for r in found}) < 100
    for row in found:
        assert row["similarity"] >= np.float32(0.9)
        assert row["cluster_size"] == sum(r["representative"] == row["representative"] for r in found)


def test_no_chaining_every_member_is_like_the_representative_itself():
    angles = np.deg2rad(np.arange(0, 100, 10))  # each is like its neighbors, the ends are orthogonal
    features = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    rows = [sample(i) for i in range(10)]
    found = find_clusters(rows, features, DuplicatesConfig(threshold=float(np.cos(np.deg2rad(15)))))
    head = {r["row_id"]: i for i, r in enumerate(rows)}
    for i, row in enumerate(found):
        assert abs(i - head[row["representative"]]) <= 1
    assert len({r["cluster_id"] for r in found}) >= 4


def test_exact_and_near_duplicates_of_scenes_are_found_merged_and_nothing_else():
    rng = np.random.default_rng(3)
    pixels = [draw(sample_scene(rng), 64) for _ in range(80)]
    originals = list(pixels)
    near_of = {80 + i: 5 + i for i in range(2 * len(NEAR_KINDS))}
    pixels += [near_duplicate(originals[k], NEAR_KINDS[i % len(NEAR_KINDS)]) for i, k in enumerate(near_of.values())]
    exact_of = {88: 0, 89: 0, 90: 5}
    pixels += [originals[k] for k in exact_of.values()]
    rows = [
        {
            **sample(i, hashlib.sha256(p.tobytes()).hexdigest()),
            "height": p.shape[0],
            "width": p.shape[1],
            "license": "CC-BY-4.0" if i == 89 else "CC0-1.0",
        }
        for i, p in enumerate(pixels)
    ]
    descriptor = make_descriptor()
    features = descriptor(pixels)
    prepared = {row["row_id"]: Prepared(image) for row, image in zip(rows, pixels, strict=True)}
    config = DuplicatesConfig().of_descriptor(descriptor)
    assert config.verify

    def same(a: str, b: str, similarity: float) -> bool:
        return verification_score(prepared[a], prepared[b], similarity) >= VERIFIED

    found = find_clusters(rows, features, config, descriptor.views, same)
    DUPLICATES.table(found)  # the rows fit the schema
    clusters = {frozenset(s["row_id"] for s in r["sources"]) for r in found if r["cluster_size"] > 1}
    names = [r["row_id"] for r in rows]
    expected = {k: {names[k]} for k in {*near_of.values(), *exact_of.values()}}
    for copy, k in (near_of | exact_of).items():
        expected[k].add(names[copy])
    assert clusters == {frozenset(c) for c in expected.values()}

    assert [r["row_id"] for r in found] == names
    by_name = {r["row_id"]: r for r in found}
    zero = [by_name[names[i]] for i in (0, 88, 89)]
    assert {r["license"] for r in zero} == {"CC-BY-4.0"}
    assert [r["kind"] for r in zero] == ["exact"] * 3
    assert [r["outcome"] for r in zero] == ["kept", "rejected", "rejected"]
    assert {r["reason"] for r in zero[1:]} == {f"duplicate_of:{names[0]}"}
    assert {r["cluster_id"] for r in zero} == {names[0]}
    assert [s["url"] for s in zero[0]["sources"]] == [rows[i]["url"] for i in (0, 88, 89)]
    larger = by_name[names[81]]  # the enlarged copy of scene 6 is the larger picture
    assert (larger["representative"], larger["cluster_id"]) == (names[81], names[6])
    assert (larger["kind"], by_name[names[6]]["kind"]) == ("near", "near")
    assert sum(r["outcome"] == "kept" for r in found) == 80
    assert {r["kind"] for r in found if r["cluster_size"] == 1} == {"unique"}


def test_near_can_be_switched_off_and_mirrors_too():
    features = np.array([[1, 0], [0.999, 0.0447], [0, 1], [1, 0]], np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    rows = [sample(i, "same" if i in (0, 3) else None) for i in range(4)]

    def kinds(views=lambda x: np.stack([x, x[:, ::-1]], 1), **changes):
        config = DuplicatesConfig(threshold=0.92, **changes)
        return [r["kind"] for r in find_clusters(rows, features, config, views)]

    assert kinds() == ["exact", "near", "near", "exact"]
    assert kinds(orientations=False) == ["exact", "near", "unique", "exact"]
    assert kinds(views=None) == ["exact", "near", "unique", "exact"]
    assert kinds(near=False) == ["exact", "unique", "unique", "exact"]


def test_no_rows_and_rows_that_do_not_match_their_features():
    assert find_clusters([], np.zeros((0, 4), np.float32), DuplicatesConfig(threshold=0.9)) == []
    with pytest.raises(ValueError, match="1 rows, but 2 features"):
        find_clusters([sample(0)], np.zeros((2, 4), np.float32), DuplicatesConfig(threshold=0.9))


def test_a_descriptor_without_a_threshold_needs_one_from_the_user():
    facts = StatedFacts("clip", "clip", "0" * 64, NO_CLAIM)
    with pytest.raises(InputError, match="descriptor clip has no measured threshold"):
        DuplicatesConfig().of_descriptor(facts)
    assert DuplicatesConfig(threshold=0.9).of_descriptor(facts).threshold == 0.9
    assert DuplicatesConfig(near=False).of_descriptor(facts).threshold is None
