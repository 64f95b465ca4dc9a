"""The GPU's search on torch's CPU device against float64 brute force, and its kernels in Triton's interpreter."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lookalike.neighbors.cuda import exact as cuda_exact
from lookalike.neighbors.cuda import finder as cuda
from lookalike.neighbors.cuda import frame as cuda_frame
from lookalike.neighbors.cuda import products as cuda_products
from lookalike.neighbors.cuda import scores as cuda_scores
from lookalike.neighbors.cuda import sides as cuda_sides
from lookalike.neighbors.cuda.finder import CudaFinder
from lookalike.neighbors.cuda.scores import Scoring
from support.neighbors import METRICS, brute_force

CPU = torch.device("cpu")
SUPPORT = Path(__file__).parents[1] / "support"


def search(target, source, k, metric, cuts=(), rows=None):
    """A whole search, the sources in chunks that end at `cuts`."""
    rows = np.arange(len(source)) if rows is None else rows
    finder = CudaFinder(target, metric, k, CPU)
    for first, last in zip((0, *cuts), (*cuts, len(source)), strict=True):
        finder.see(source[first:last], rows[first:last])
    return finder.finish()


def assert_same(target, source, k, metric, cuts=(), rows=None, atol=1e-12):
    distances, places = brute_force(target, source, k, metric)
    found = search(target, source, k, metric, cuts, rows)
    count = distances.shape[1]
    assert found.distances.dtype == np.float64
    assert found.distances.shape == found.rows.shape == (len(target), k)
    np.testing.assert_array_equal(found.rows[:, :count], places if rows is None else rows[places])
    np.testing.assert_allclose(found.distances[:, :count], distances, rtol=1e-12, atol=atol)
    assert (found.rows[:, count:] == -1).all()
    assert np.isposinf(found.distances[:, count:]).all()
    return found


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of a few rows, so that small data crosses every boundary and takes every way."""
    for module, name, value in (
        (cuda, "_FIRST", 32), (cuda, "_SOURCES", 48), (cuda, "_SOURCES_PER_NEIGHBOR", 2), (cuda, "_TARGETS", 3),
        (cuda, "_LEAST_GROUPS", 1), (cuda, "_LEAST_PAIRS", 1),
        (cuda, "_PAIR_SHARE", 8), (cuda, "_FINE", 100), (cuda, "_WIDE", 60), (cuda_scores, "_WIDE", 30),
        (cuda_products, "PREPARED", 128),
        (cuda_frame, "_SAMPLE", 5), (cuda_exact, "_GATHER", 12),
        (cuda_exact, "_MERGED", 40), (cuda_products, "_GATHER", 1024),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)


# Whole numbers: equal distances are frequent, and exact in float64.
WHOLE = st.integers(-4, 4).map(float)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("metric", METRICS)
def test_rows_and_distances_are_those_of_float64_brute_force(metric):
    @settings(max_examples=30, deadline=None)
    @given(st.data())
    def check(data):
        dimension = data.draw(st.integers(1, 6))
        kind = data.draw(st.sampled_from([np.float32, np.float64]))
        target = data.draw(hnp.arrays(kind, (data.draw(st.integers(1, 8)), dimension), elements=WHOLE))
        source = data.draw(hnp.arrays(np.float32, (data.draw(st.integers(1, 150)), dimension), elements=WHOLE))
        cuts = sorted(data.draw(st.lists(st.integers(0, len(source)), max_size=3)))
        steps = data.draw(hnp.arrays(np.int64, len(source), elements=st.integers(1, 5)))
        assert_same(target, source, data.draw(st.integers(1, 60)), metric, cuts, np.cumsum(steps))

    check()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kinds", [(np.float32, np.float32), (np.float64, np.float32), (np.float32, np.float64)])
@pytest.mark.parametrize("k", [1, 300])
def test_random_vectors_of_every_type_in_uneven_chunks(metric, kinds, k):
    random = np.random.default_rng(1)
    target = random.standard_normal((37, 70)).astype(kinds[0])
    source = random.standard_normal((6_001, 70)).astype(kinds[1])
    found = assert_same(target, source, k, metric, (17, 18, 4_000), np.sort(random.permutation(9_999)[:6_001]))
    assert not found.widened.any()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("dimension", [1, 2, 8_192])
def test_few_and_many_dimensions(metric, dimension):
    random = np.random.default_rng(2)
    target, source = (random.standard_normal((count, dimension)).astype(np.float32) for count in (3, 400))
    if dimension == 1 and metric == "cosine":
        source[::3] = 0  # every cosine is 1, 0 or -1: ties
    assert_same(target, source, 9, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_k_of_4096(metric):
    random = np.random.default_rng(3)
    target, source = (random.standard_normal((count, 8)).astype(np.float32) for count in (3, 9_000))
    assert_same(target, source, 4_096, metric, (1_000, 5_500))


@pytest.mark.parametrize("metric", METRICS)
def test_near_ties_that_neither_bfloat16_nor_float32_can_order(metric):
    random = np.random.default_rng(4)
    target = random.standard_normal((4, 256)).astype(np.float32)
    near = target[0] + np.float32(1e-3) * random.standard_normal((3_000, 256)).astype(np.float32)
    steps = np.linspace(0, 2e-7, 500, dtype=np.float32)[:, None]
    source = np.vstack([random.standard_normal((5_000, 256)).astype(np.float32), near, near[:1] * (1 + steps)])
    assert_same(target, source[random.permutation(len(source))], 40, metric)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-9])
def test_a_pool_that_is_all_alike(metric, spread):
    """Near one point; and some far from it, so that the centre does not help."""
    random = np.random.default_rng(5)
    point = random.standard_normal(96)
    target = point + spread * random.standard_normal((6, 96))
    source = point + spread * random.standard_normal((4_000, 96))
    for far in (0, 300):
        source[:far] *= -3
        # The measured distances decide: another order of the sums in float64 would give the cosine another order.
        measured = measured_distances(target, source, metric)
        rows = np.argsort(measured, axis=1, kind="stable")[:, :5]
        found = search(target, source, 5, metric, (2_000,))
        np.testing.assert_array_equal(found.rows, rows)
        np.testing.assert_array_equal(found.distances, np.take_along_axis(measured, rows, 1))
        np.testing.assert_allclose(found.distances, brute_force(target, source, 5, metric)[0], rtol=1e-9, atol=1e-14)


def measured_distances(target, source, metric):
    """Every distance as the search measures it."""
    left, right = torch.from_numpy(target), torch.from_numpy(source)
    places = torch.arange(len(right)).expand(len(left), -1)
    return cuda_exact.pair_distances(metric, left, right, torch.arange(len(left)), places).numpy()


def test_a_target_that_bfloat16_cannot_decide_is_reported():
    random = np.random.default_rng(6)
    near, far = np.eye(1, 32) + 1e-6 * random.standard_normal((3_000, 32)), random.standard_normal((3_000, 32))
    far[:, 0] = 0
    source = np.vstack([far, near]).astype(np.float32)
    target = np.vstack([source[3_000], far[0]]).astype(np.float32)
    found = assert_same(target, source, 5, "cosine")
    assert found.widened.tolist() == [True, False]


@pytest.mark.parametrize("metric", METRICS)
def test_a_pool_of_twins_stays_exact(metric, monkeypatch):
    monkeypatch.setattr(cuda_exact, "_MERGED", 5_000)
    monkeypatch.setattr(cuda, "_WIDE", 10_000)
    random = np.random.default_rng(7)
    twin = random.standard_normal(37).astype(np.float32)
    source = np.tile(twin, (7_000, 1))
    source[3_500] = 2 * random.standard_normal(37)
    target = np.vstack([twin, random.standard_normal((2, 37)).astype(np.float32), source[3_500]])
    found = search(target, source, 4, metric, (2_000, 5_000))
    twins = np.delete(np.arange(7_000), 3_500)
    for line, vector in enumerate(target):
        exact = brute_force(vector[None], source[[0, 3_500]], 2, metric)
        wanted = twins[:4] if exact[1][0, 0] == 0 else np.r_[3_500, twins[:3]]
        np.testing.assert_array_equal(found.rows[line], wanted)
    if metric != "inner_product":
        assert (found.distances[0] == 0).all()
        assert found.distances[3, 0] == 0


@pytest.mark.parametrize("metric", METRICS)
def test_equal_vectors_come_in_the_order_of_their_rows(metric):
    random = np.random.default_rng(8)
    target = random.standard_normal((5, 768)).astype(np.float32)
    if metric == "inner_product":
        target /= np.linalg.norm(target, axis=1, keepdims=True)
    noise = random.standard_normal((4_200, 768)).astype(np.float32) / 30
    found = search(target, np.vstack([noise, target, target, target]), 3, metric, (4_207,))
    np.testing.assert_array_equal(found.rows, 4_200 + np.arange(5)[:, None] + np.array([0, 5, 10]))
    assert (found.distances == (found.distances[:, :1] if metric == "inner_product" else 0)).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("scale", "kind"), [(1e-42, np.float32), (1e-30, np.float32), (1e-30, np.float64), (1e30, np.float32)]
)
def test_huge_and_tiny_norms(metric, scale, kind):
    random = np.random.default_rng(9)
    target = (random.standard_normal((6, 32)) * scale).astype(kind)
    source = (random.standard_normal((700, 32)) * scale).astype(kind)
    assert_same(target, source, 9, metric, atol=0 if metric != "cosine" else 1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_norms_of_every_size_in_one_pool(metric):
    random = np.random.default_rng(10)
    sizes = 10.0 ** random.integers(-30, 31, (1_500, 1))
    source = (random.standard_normal((1_500, 32)) * sizes).astype(np.float32)
    source[::100] = 0
    target = np.vstack([source[:40] * np.float32(1.01), np.zeros((1, 32), np.float32)])
    # A whole-pool scale, and a block each: the sources sorted by size.
    assert_same(target, source, 9, metric, (600,), atol=0 if metric != "cosine" else 1e-12)
    order = np.argsort(sizes[:, 0], kind="stable")
    assert_same(target, source[order], 9, metric, (300, 900), atol=0 if metric != "cosine" else 1e-12)
    assert_same(target, source[order[::-1]], 9, metric, (300, 900), atol=0 if metric != "cosine" else 1e-12)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("metric", METRICS)
def test_targets_far_smaller_than_the_sources_in_ragged_blocks(metric):
    """The factor of a product underflows, and the last group has places for sources that are not there."""
    random = np.random.default_rng(14)
    for count in range(1, 40, 3):
        source = random.standard_normal((count, 40)) * 10.0 ** random.integers(-30, 31, (count, 1))
        target = 1e-28 * random.standard_normal((3, 40))
        target[1] = source[-1]
        assert_same(target, source, 2, metric, (count // 2,), atol=0 if metric != "cosine" else 1e-12)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_offset_vectors_where_the_product_cancels(metric, offset):
    random = np.random.default_rng(11)
    target = (offset + random.standard_normal((5, 128))).astype(np.float32)
    source = (offset + random.standard_normal((3_000, 128))).astype(np.float32)
    if metric == "cosine" and offset == 1e6:
        pytest.skip("the oracle's own rounding decides")
    found = assert_same(target, source, 6, metric, atol=0 if metric != "cosine" else 1e-12)
    assert not found.widened.any() or metric == "manhattan"


def test_a_zero_vector_has_cosine_distance_one_to_everything():
    source = np.array([[1, 0], [0, 0], [-1, 0]], np.float32)
    found = search(np.array([[0, 0], [1, 0]], np.float32), source, 4, "cosine")
    np.testing.assert_array_equal(found.distances, [[1, 1, 1, np.inf], [0, 1, 2, np.inf]])
    np.testing.assert_array_equal(found.rows, [[0, 1, 2, -1], [0, 1, 2, -1]])


def test_nothing_seen_is_nothing_found():
    finder = CudaFinder(np.ones((2, 3), np.float32), "euclidean", 2, CPU)
    finder.see(np.empty((0, 3), np.float32), np.empty(0, np.int64))
    assert (finder.finish().rows == -1).all()


@pytest.mark.parametrize("metric", METRICS)
def test_tensors_and_read_only_arrays_are_taken_and_not_changed(metric, recwarn):
    random = np.random.default_rng(12)
    target, source = (random.standard_normal((count, 8)).astype(np.float32) for count in (3, 90))
    before = target.copy(), source.copy()
    finder = CudaFinder(target, metric, 5, CPU)
    finder.see(torch.from_numpy(source[:50]), np.arange(50))
    source.flags.writeable = False
    finder.see(source[50:], np.arange(50, 90))
    np.testing.assert_array_equal(finder.finish().rows, brute_force(target, source, 5, metric)[1])
    np.testing.assert_array_equal(target, before[0])
    np.testing.assert_array_equal(source, before[1])
    assert not recwarn.list


@pytest.mark.parametrize("setting", [("allow_tf32", True), ("allow_tf32", False), ("fp32_precision", "tf32")])
def test_tf32_is_off_for_products_and_restored(setting):
    matmul = torch.backends.cuda.matmul
    precision = torch.get_float32_matmul_precision(), matmul.fp32_precision
    try:
        setattr(matmul, *setting)
        with cuda_products.full_float32():
            assert matmul.fp32_precision in {"ieee", "none"}
            assert not matmul.allow_tf32
        assert getattr(matmul, setting[0]) == setting[1]
    finally:
        matmul.fp32_precision = precision[1]
        torch.set_float32_matmul_precision(precision[0])


DATA = {
    "normal": lambda random, shape: random.standard_normal(shape),
    "offset": lambda random, shape: 50 + random.standard_normal(shape),
    "positive": lambda random, shape: random.random(shape) ** 4,
    "one sign of rounding": lambda random, shape: 1 + (random.integers(0, 128, shape) + 0.499) / 128,
    "sizes": lambda random, shape: random.standard_normal(shape) * 10.0 ** random.integers(-6, 7, (shape[0], 1)),
    "tiny": lambda random, shape: 1e-41 * random.standard_normal(shape),
}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("name", DATA)
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_every_score_is_within_its_bound(metric, name, kind):
    """Against scores in extended precision; the floor of a source's own distance lets it pass."""
    random = np.random.default_rng(13)
    left, right = (torch.from_numpy(DATA[name](random, (count, 50))).to(kind) for count in (7, 80))
    frame = cuda_frame.choose_frame(metric, left, right)
    scoring = Scoring(frame, cuda_sides.make_targets(frame, left), cuda_sides.make_sources(frame, right))
    distances = torch.from_numpy(measured_distances(left.numpy(), right.numpy(), metric))
    groups = torch.arange(5, dtype=torch.int32).expand(7, 5)
    members = scoring.members(groups, torch.full((7,), 5, dtype=torch.int32)).view(7, 80)
    for precision, scores in (("coarse", members), ("fine", scoring.fine()), ("wide", scoring.wide())):
        bound = scoring.bound(precision)
        for column in range(80):
            floor = scoring.floor(distances[:, column])
            assert (scores[:, column] >= bound.threshold(floor, scores.dtype)).all(), precision
            # And what is certain of a score is no more than its distance says.
            certain = bound.lower(scores[:, column])
            slack = 1e-12 * certain.abs().clamp(min=1e-300)
            assert (certain <= exact_scores(scoring, metric, column) + slack).all(), precision
    bound, maxima = scoring.bound("coarse"), scoring.maxima()
    for column in range(80):
        floor = scoring.floor(distances[:, column])
        assert (maxima[:, column // 16] >= bound.threshold(floor, maxima.dtype)).all()


def exact_scores(scoring, metric, column):
    """Scores of one source, in units, from NumPy's long double."""
    left, right = (side.raw.numpy().astype(np.longdouble) for side in (scoring.targets, scoring.sources))
    centre = 0 if scoring.frame.centre is None else scoring.frame.centre.numpy().astype(np.longdouble)
    vector = right[column]
    if metric == "cosine":
        left, vector = left / np.sqrt((left**2).sum(1, keepdims=True)), vector / np.sqrt((vector**2).sum())
    if metric == "manhattan":
        scores = -np.abs(left - vector).sum(1)
    elif metric == "euclidean":
        scores = (left - centre) @ (vector - centre) - ((vector - centre) ** 2).sum() / 2
    else:
        scores = left @ (vector - centre) if scoring.frame.centre is not None else left @ vector
    return torch.from_numpy((scores * scoring.unit.numpy()).astype(np.float64))


def test_the_kernels_give_what_plain_torch_gives():
    pytest.importorskip("triton", reason="Triton is not installed")
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "check_search_kernels.py")],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": path()}, capture_output=True, encoding="utf-8",
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal") == 21


def path():
    """The tests' folder first, for `support`."""
    return os.pathsep.join(filter(None, [str(SUPPORT.parent), os.environ.get("PYTHONPATH")]))
