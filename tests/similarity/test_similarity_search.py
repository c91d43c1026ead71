"""Exact top-k search against brute force: ties, block sizes, views, exclusion, pairs."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from raysys.errors import MissingExtra
from raysys.similarity import array_blocks, pairs_above, search, top_k


def unit_rows(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def brute_force(queries, database, k, exclude=None):
    """The slow truth: the whole matrix in float64, sorted by (-similarity, index)."""
    views = queries if queries.ndim == 3 else queries[:, None]
    pairs = views[:, :, None, :].astype(np.float64) * database[None, None].astype(np.float64)
    similarity = pairs.sum(-1).max(1).astype(np.float32)
    if exclude is not None:
        for q, e in enumerate(exclude):
            if 0 <= e < len(database):
                similarity[q, e] = -np.inf
    out_s = np.full((len(views), k), -np.inf, np.float32)
    out_i = np.full((len(views), k), -1, np.int64)
    for q, row in enumerate(similarity):
        order = [i for i in np.lexsort((np.arange(len(row)), -row)) if row[i] > -np.inf][:k]
        out_s[q, : len(order)], out_i[q, : len(order)] = row[order], order
    return out_s, out_i


def assert_same(found, expected):
    np.testing.assert_array_equal(found[1], expected[1])
    np.testing.assert_array_equal(found[0], expected[0])


@pytest.mark.parametrize("block_rows", [1, 7, 64, 300, 1000])
@pytest.mark.parametrize("k", [1, 3, 10])
def test_top_k_equals_brute_force_for_any_block_size(block_rows, k):
    rng = np.random.default_rng(0)
    database, queries = unit_rows(rng, 300, 24), unit_rows(rng, 40, 24)
    assert_same(top_k(queries, array_blocks(database, block_rows), k), brute_force(queries, database, k))


@pytest.mark.parametrize("block_rows", [5, 33, 200])
@pytest.mark.parametrize("copies", [2, 60])
def test_ties_go_to_the_smallest_index_even_in_groups_larger_than_the_margin(block_rows, copies):
    rng = np.random.default_rng(1)
    originals = unit_rows(rng, 5, 16)
    database = np.concatenate([np.repeat(originals, copies, axis=0), unit_rows(rng, 80, 16)])
    database = database[rng.permutation(len(database))]
    queries = np.concatenate([originals, unit_rows(rng, 10, 16)])
    for k in (1, 4):
        assert_same(top_k(queries, array_blocks(database, block_rows), k), brute_force(queries, database, k))


def test_blocks_may_come_in_any_order():
    rng = np.random.default_rng(2)
    database, queries = np.repeat(unit_rows(rng, 30, 8), 4, axis=0), unit_rows(rng, 6, 8)
    blocks = list(array_blocks(database, 13))[::-1]
    assert_same(top_k(queries, blocks, 5), brute_force(queries, database, 5))


def test_a_database_smaller_than_k_is_filled_up_with_minus_one():
    rng = np.random.default_rng(3)
    database, queries = unit_rows(rng, 3, 8), unit_rows(rng, 4, 8)
    found = top_k(queries, array_blocks(database, 2), 5)
    assert_same(found, brute_force(queries, database, 5))
    assert (found[1][:, 3:] == -1).all()
    assert (found[0][:, 3:] == -np.inf).all()


@pytest.mark.parametrize("block_rows", [9, 500])
@pytest.mark.parametrize("k", [1, 6])
def test_views_give_the_maximum_and_each_row_once(block_rows, k):
    rng = np.random.default_rng(4)
    database = unit_rows(rng, 120, 12)
    queries = np.stack([database[:30], database[30:60]], axis=1)  # both views have an exact match
    queries[:5, 1] = queries[:5, 0]  # and here the same one
    found = top_k(queries, array_blocks(database, block_rows), k)
    assert_same(found, brute_force(queries, database, k))
    assert all(len(set(row)) == k for row in found[1].tolist())


def test_exclude_leaves_out_the_image_itself():
    rng = np.random.default_rng(5)
    database = unit_rows(rng, 90, 12)
    database[50] = database[3]
    similarity, index = top_k(database, array_blocks(database, 32), 2, exclude=range(90))
    assert_same((similarity, index), brute_force(database, database, 2, exclude=range(90)))
    assert index[3, 0] == 50
    assert index[50, 0] == 3
    assert not (index == np.arange(90)[:, None]).any()


def test_result_is_the_same_on_one_and_two_threads():
    rng = np.random.default_rng(6)
    database, queries = np.repeat(unit_rows(rng, 700, 64), 3, axis=0), unit_rows(rng, 50, 64)
    one = top_k(queries, array_blocks(database, 512), 4, threads=1)
    assert_same(top_k(queries, array_blocks(database, 2100), 4, threads=2), one)


def test_mixed_dimensions_and_wrong_arguments_are_named():
    rng = np.random.default_rng(7)
    queries = unit_rows(rng, 2, 8)
    with pytest.raises(ValueError, match="mixed dimensions: queries have 8"):
        top_k(queries, array_blocks(unit_rows(rng, 4, 9), 2), 1)
    with pytest.raises(ValueError, match="k must be at least 1"):
        top_k(queries, [], 0)
    with pytest.raises(ValueError, match="one index for each of 2 queries"):
        top_k(queries, [], 1, exclude=[0])


def test_no_queries_and_no_blocks_are_empty_results():
    rng = np.random.default_rng(8)
    assert top_k(np.zeros((0, 8), np.float32), array_blocks(unit_rows(rng, 4, 8), 2), 3)[0].shape == (0, 3)
    similarity, index = top_k(unit_rows(rng, 2, 8), [], 1)
    assert (index == -1).all()
    assert (similarity == -np.inf).all()


def test_a_missing_faiss_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtra, match="faiss is not installed"):
        top_k(np.ones((1, 1), np.float32), [], 1)


def test_pairs_above_equal_the_full_matrix(monkeypatch):
    rng = np.random.default_rng(9)
    features = unit_rows(rng, 150, 6)
    features[100:110] = features[:10]
    mirrored = unit_rows(rng, 150, 6)
    monkeypatch.setattr(search, "SLICE_BYTES", 20_000)  # several slices
    for other in (None, mirrored):
        views = features[:, None] if other is None else np.stack([features, other], 1)
        i, j, similarity = pairs_above(views, 0.8)
        matrix = np.einsum("ivd,jd->ivj", views.astype(np.float64), features).max(1).astype(np.float32)
        expected = np.nonzero(np.triu(matrix >= np.float32(0.8), k=1))
        np.testing.assert_array_equal((i, j), expected)
        np.testing.assert_array_equal(similarity, matrix[expected])
        assert len(i) >= 10
    assert all(len(part) == 0 for part in pairs_above(features[:0, None], 0.8))
