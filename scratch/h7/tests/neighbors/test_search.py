"""The search against float64 brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lookalike import ConfigError, VectorError, nearest_neighbors
from lookalike.neighbors import finder
from support.neighbors import METRICS, all_distances, assert_neighbors, brute_force


def assert_same(target, source, k, metric):
    assert_neighbors(nearest_neighbors(target, source, k, metric), all_distances(target, source, metric), k)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that small data crosses every boundary between blocks and fills every room."""
    monkeypatch.setattr(finder, "_SOURCE_BLOCK", 7)
    monkeypatch.setattr(finder, "_TARGET_BLOCK", 3)
    monkeypatch.setattr(finder, "_SPARE", 1)


# Whole numbers: equal distances are frequent, and exact in float64.
WHOLE = st.integers(-4, 4).map(float)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("metric", METRICS)
def test_rows_and_distances_are_those_of_float64_brute_force(metric):
    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def check(data):
        dimension = data.draw(st.integers(1, 6))
        shape = st.integers(1, 40)
        target = data.draw(hnp.arrays(np.float32, (data.draw(st.integers(1, 8)), dimension), elements=WHOLE))
        source = data.draw(hnp.arrays(np.float32, (data.draw(shape), dimension), elements=WHOLE))
        assert_same(target, source, data.draw(st.integers(1, 45)), metric)

    check()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_random_vectors_of_every_type(metric, dtype):
    random = np.random.default_rng(1)
    target = random.standard_normal((37, 64)).astype(dtype)
    source = random.standard_normal((9_001, 64)).astype(dtype)
    assert_same(target, source, 11, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_near_ties_below_float32_resolution_are_ordered_exactly(metric):
    """Neighbours whose distances differ by less than a float32 score can tell come out in the exact order."""
    random = np.random.default_rng(2)
    target = random.standard_normal((4, 256)).astype(np.float32)
    near = target[0] + np.float32(1e-3) * random.standard_normal((500, 256)).astype(np.float32)
    steps = np.linspace(0, 2e-7, 500, dtype=np.float32)[:, None]
    source = np.vstack([random.standard_normal((5_000, 256)).astype(np.float32), near, near[:1] * (1 + steps)])
    assert_same(target, source[random.permutation(len(source))], 40, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kinds", [(np.float64, np.float32), (np.float32, np.float64)])
def test_sides_of_different_types_with_near_duplicates(metric, kinds):
    """One side in float64, the other in float32, and a spread that float32 scores cannot resolve."""
    random = np.random.default_rng(8)
    centre = random.standard_normal(64) * 10 / 8
    target = (centre + 0.001 * random.standard_normal((20, 64))).astype(kinds[0])
    source = (centre + 0.001 * random.standard_normal((5_000, 64))).astype(kinds[1])
    assert_same(target, source, 7, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_a_crowded_block_is_scored_in_float64_instead_of_measured_pair_by_pair(metric, monkeypatch):
    """A pool that float32 cannot tell apart: few pairs reach the exact measurement all the same."""
    random = np.random.default_rng(9)
    centre = random.standard_normal(128)
    target = (centre + 1e-4 * random.standard_normal((10, 128))).astype(np.float32)
    source = (centre + 1e-4 * random.standard_normal((9_000, 128))).astype(np.float32)
    measured = []
    real = finder.pair_distances
    monkeypatch.setattr(finder, "pair_distances", lambda *given: measured.append(len(given[3])) or real(*given))
    assert_same(target, source, 5, metric)
    assert sum(measured) < 10 * 9_000 / 15


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "manhattan"])
def test_equal_vectors_have_distance_zero_and_come_in_the_order_of_their_rows(metric):
    random = np.random.default_rng(3)
    target = random.standard_normal((5, 768)).astype(np.float32)
    source = np.vstack([random.standard_normal((4_200, 768)).astype(np.float32), target, target, target])
    found = nearest_neighbors(target, source, 3, metric)
    assert (found.distances == 0).all()
    np.testing.assert_array_equal(found.rows, 4_200 + np.arange(5)[:, None] + np.array([0, 5, 10]))


@pytest.mark.parametrize("metric", METRICS)
def test_a_pool_of_twins_stays_exact(metric):
    source = np.ones((9_000, 8), np.float32)
    source[4_500] = 2
    target = np.array([[1.0] * 8, [2.0] * 8], np.float32)
    assert_same(target, source, 4, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18, 1e30])
def test_huge_and_tiny_norms(metric, scale):
    if metric == "inner_product" and scale > 1e18:
        pytest.skip("the distances are beyond float32")
    random = np.random.default_rng(4)
    target = (random.standard_normal((6, 32)) * scale).astype(np.float32)
    source = (random.standard_normal((700, 32)) * scale).astype(np.float32)
    assert_same(target, source, 9, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_offset_vectors_where_the_product_cancels(metric):
    """Large common offset: t.s - |s|^2/2 loses all its digits in float32, the result must not."""
    random = np.random.default_rng(5)
    target = (1_000 + random.standard_normal((5, 128))).astype(np.float32)
    source = (1_000 + random.standard_normal((3_000, 128))).astype(np.float32)
    assert_same(target, source, 6, metric)


def test_a_zero_vector_has_cosine_distance_one_to_everything():
    source = np.array([[1, 0], [0, 0], [-1, 0]], np.float32)
    found = nearest_neighbors(np.array([[0, 0], [1, 0]], np.float32), source, 3, "cosine")
    np.testing.assert_array_equal(found.distances, [[1, 1, 1], [0, 1, 2]])
    np.testing.assert_array_equal(found.rows, [[0, 1, 2], [0, 1, 2]])


def test_k_over_the_pool_returns_the_whole_pool():
    source = np.arange(6, dtype=np.float32).reshape(3, 2)
    found = nearest_neighbors(source[:1], source, 10)
    assert found.rows.tolist() == [[0, 1, 2]]


@pytest.mark.parametrize("k", [50, 4_500])
def test_k_larger_than_the_groups_of_a_block(k):
    random = np.random.default_rng(6)
    assert_same(
        random.standard_normal((3, 16)).astype(np.float32),
        random.standard_normal((5_000, 16)).astype(np.float32),
        k,
        "cosine",
    )


def test_inputs_are_not_changed():
    random = np.random.default_rng(7)
    target, source = (
        random.standard_normal((3, 8)).astype(np.float32),
        random.standard_normal((50, 8)).astype(np.float32),
    )
    before = target.copy(), source.copy()
    for metric in METRICS:
        nearest_neighbors(target, source, 5, metric)
    np.testing.assert_array_equal(target, before[0])
    np.testing.assert_array_equal(source, before[1])


@pytest.mark.parametrize(
    ("target", "source", "k", "metric", "error", "words"),
    [
        (np.ones((1, 2)), np.ones((1, 3)), 1, "cosine", VectorError, "targets have 2 dimensions, sources 3"),
        (np.ones((1, 2)), np.array([[1, 1], [np.nan, 1]]), 1, "cosine", VectorError, r"source has NaN .*\[1\]"),
        (np.array([[np.inf, 1]]), np.ones((1, 2)), 1, "cosine", VectorError, "target has NaN or infinity"),
        (np.ones(2), np.ones((1, 2)), 1, "cosine", VectorError, r"target has shape \(2,\)"),
        (np.ones((1, 2)), np.array([["a", "b"]]), 1, "cosine", VectorError, "source holds <U1, not numbers"),
        (np.ones((1, 2)), np.full((1, 2), 1e200), 1, "cosine", VectorError, "beyond 1e\\+34"),
        (np.ones((1, 2)), np.ones((1, 2)), 0, "cosine", ConfigError, "k=0"),
        (np.ones((1, 2)), np.ones((1, 2)), 1, "chebyshev", ConfigError, "cosine, euclidean, manhattan"),
    ],
)
def test_impossible_inputs_are_refused(target, source, k, metric, error, words):
    with pytest.raises(error, match=words):
        nearest_neighbors(target, source, k, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("long", "short"), [(1e10, 1e-9), (1.0, 1e-17), (1e-17, 1.0), (1e-9, 1e10)])
def test_one_side_that_the_other_vanishes_beside(metric, long, short):
    """Measured distances are all equal then, or nearly: their own rounding belongs to the bound."""
    random = np.random.default_rng(10)
    for dimension in (1, 64):
        target = (long * np.ones((3, dimension))).astype(np.float32)
        source = (short * random.standard_normal((3_000, dimension))).astype(np.float32)
        found = nearest_neighbors(target, source, 5, metric)
        np.testing.assert_allclose(
            found.distances, brute_force(target, source, 5, metric)[0].astype(np.float32), rtol=3e-7, atol=1e-12
        )
        if metric in ("euclidean", "manhattan") and long > short:
            np.testing.assert_array_equal(found.rows, [[0, 1, 2, 3, 4]] * 3)
