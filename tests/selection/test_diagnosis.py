"""Hubs, surroundings and drift against plain definitions, written here anew."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.neighbors.base import Neighbors
from lookalike.selection.diagnosis import hubness, lists_of, surroundings
from lookalike.selection.drift import centroid_shift, superiority
from lookalike.selection.pairs import Pairs


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 60), st.integers(0, 10_000))
def test_skewness_is_that_of_the_k_occurrences_of_all_images(targets, k, pool, seed):
    k = min(k, pool)
    random = np.random.default_rng(seed)
    sources = np.concatenate([random.choice(pool, k, replace=False) for _ in range(targets)])
    found = hubness(sources, targets=targets, k=k, pool=pool, worst=3)
    counts = np.bincount(sources, minlength=pool)
    expected = scipy.stats.skew(counts) if len(set(counts)) > 1 else np.nan
    np.testing.assert_allclose(found.skewness, expected, atol=1e-9)
    chance = scipy.stats.binom(targets, k / pool).stats(moments="s") if k < pool else np.nan
    np.testing.assert_allclose(found.by_chance, chance, atol=1e-9)
    worst = sorted(range(pool), key=lambda row: (-counts[row], row))[:3]
    worst = [row for row in worst if counts[row]]
    assert found.rows.tolist() == worst
    assert found.targets.tolist() == counts[worst].tolist()


def test_an_image_that_is_near_to_all_makes_it_skew():
    every = np.concatenate([[0, one] for one in range(1, 41)])
    hub = hubness(every, targets=40, k=2, pool=200, worst=10)
    even = hubness(np.arange(80), targets=40, k=2, pool=200, worst=10)
    assert hub.skewness > 5 * hub.by_chance
    assert even.skewness < even.by_chance + 1
    assert (hub.rows[0], hub.targets[0]) == (0, 40)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 6), st.integers(1, 30), st.integers(1, 5), st.integers(0, 10_000))
def test_surroundings_are_those_of_a_search_over_everything(targets, pool, k, seed):
    """Merged from two searches, each over a part of the pool, they are those of one over all of it."""
    random = np.random.default_rng(seed)
    distances = random.integers(0, 6, (targets, pool)).astype(np.float32) / 4  # many ties
    kind = random.integers(0, 3, pool)  # may be mined, mined before, left out
    limit = 0.6

    def nearest(of):
        rows = np.flatnonzero(of)
        size = min(k, len(rows))
        if not size:
            return None
        order = np.argsort(distances[:, rows], axis=1, kind="stable")[:, :size]
        return Neighbors(np.take_along_axis(distances[:, rows], order, axis=1), rows[order])

    mine = nearest(kind == 0) or Neighbors(
        np.full((targets, 1), np.inf, np.float32), np.full((targets, 1), -1, np.int64)
    )
    found = surroundings(mine, nearest(kind > 0), kind == 1, limit, k)
    for target in range(targets):
        order = sorted(range(pool), key=lambda row: (distances[target, row], kind[row] > 0, row))[:k]
        near = [row for row in order if distances[target, row] <= np.float32(limit)]
        assert found.near[target] == len(near)
        assert found.mined_before[target] + found.left_out[target] == sum(kind[row] > 0 for row in near)
        assert found.nothing_near[target] == (not near)
        assert found.exhausted[target] == (2 * sum(kind[row] > 0 for row in near) > len(near))
        free = distances[target, kind == 0]
        assert found.distances[target] == (free.min() if len(free) else np.inf)


def test_lists_come_back_from_pairs():
    pairs = Pairs(np.array([1, 0, 1, 0]), np.array([5, 6, 7, 8]), np.array([2, 1, 1, -1], np.int32),
                  np.array([0.5, 0.1, 0.2, 0.9], np.float32))  # fmt: skip
    lists = lists_of(pairs, 2, 2)
    assert lists.rows.tolist() == [[6, -1], [7, 5]]
    np.testing.assert_array_equal(lists.distances, np.float32([[0.1, np.inf], [0.2, 0.5]]))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=5, max_size=20), st.lists(st.integers(0, 5), min_size=5, max_size=20))
def test_superiority_is_a_count_over_all_pairs(now, then):
    count = np.mean([(one > other) + 0.5 * (one == other) for one in now for other in then])
    assert superiority(np.array(now, float), np.array(then, float)) == pytest.approx(count)


def test_few_values_say_nothing():
    assert np.isnan(superiority(np.ones(4), np.ones(50)))
    assert centroid_shift(np.ones((4, 3)), np.ones((50, 3)), 0) is None


def test_targets_that_moved_are_told_from_others_of_the_same_kind():
    random = np.random.default_rng(0)
    one, two = (random.standard_normal((60, 40)).astype(np.float32) + 1 for _ in range(2))
    same = centroid_shift(one, two, 0)
    assert same.chance > 0.05
    assert same.distance < 1.5 * same.by_chance
    moved = centroid_shift(one, two + np.r_[np.full(5, 2.0), np.zeros(35)].astype(np.float32), 0)
    assert moved.chance == 1 / 1000
    assert moved.distance > 2 * moved.by_chance
    assert centroid_shift(one, two, 0) == same, "the same seed gives the same"
    assert centroid_shift(one, one, 0).distance == 0
    assert centroid_shift(one, one, 0).chance == 1


def test_very_many_targets_are_a_part_of_them(monkeypatch):
    from lookalike.selection import drift

    monkeypatch.setattr(drift, "_MOST", 30)
    random = np.random.default_rng(0)
    many = random.standard_normal((500, 8))
    assert centroid_shift(many, many + 3, 0).chance == 1 / 1000
    assert centroid_shift(np.zeros((9, 3)), np.zeros((9, 3)), 0).distance == 0
