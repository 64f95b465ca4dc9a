"""The search on a card against brute force on it, at sizes that fill its tiles; skipped where there is no GPU."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from lookalike.neighbors.cuda.exact import pair_distances
from lookalike.neighbors.cuda.finder import CudaFinder
from lookalike.neighbors.cuda.products import has_kernels

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

METRICS = ["cosine", "euclidean", "manhattan", "inner_product"]
SUPPORT = Path(__file__).parents[1] / "support"


def search(target, source, k, metric, cuts=()):
    finder = CudaFinder(target, metric, k, torch.device("cuda"))
    for first, last in zip((0, *cuts), (*cuts, len(source)), strict=True):
        finder.see(source[first:last], np.arange(first, last))
    return finder.finish()


def assert_same(target, source, k, metric, cuts=()):
    """Rows and distances, to the bit, of every distance measured in float64 on the card; and NumPy's distances."""
    found = search(target, source, k, metric, cuts)
    left, right = torch.from_numpy(target).cuda(), torch.from_numpy(source).cuda()
    places = torch.arange(len(source), device="cuda")
    for line in range(len(target)):
        measured = pair_distances(metric, left, right, torch.tensor([line], device="cuda"), places[None])[0]
        distances, rows = torch.sort(measured, stable=True)
        np.testing.assert_array_equal(found.rows[line], rows[:k].cpu().numpy(), err_msg=f"target {line}")
        np.testing.assert_array_equal(found.distances[line], distances[:k].cpu().numpy())
    for line in range(0, len(target), 97):
        expected = numpy_distances(target[line], source[found.rows[line]], metric)
        scale = np.abs(expected).max() if metric == "inner_product" else 1e-3
        np.testing.assert_allclose(found.distances[line], expected, rtol=1e-11, atol=1e-11 * scale)
    return found


def numpy_distances(vector, source, metric):
    """By the definition, in float64."""
    vector, source = vector.astype(np.float64), source.astype(np.float64)
    if metric == "euclidean":
        return np.sqrt(((source - vector) ** 2).sum(1))
    if metric == "manhattan":
        return np.abs(source - vector).sum(1)
    products = (source * vector).sum(1)
    if metric == "inner_product":
        return -products
    return np.clip(1 - products / np.sqrt((vector**2).sum() * (source**2).sum(1)), 0, 2)


def clustered(random, targets, sources, dimension):
    """Vectors like those of images: clusters to one side of the origin."""
    centres = 0.5 + random.standard_normal((50, dimension))
    return [
        (centres[random.integers(0, 50, count)] + 0.3 * random.standard_normal((count, dimension))).astype(np.float32)
        for count in (targets, sources)
    ]


def test_the_kernels_give_what_plain_torch_gives():
    """Whole numbers, whose sums are exact in any order: equal to the bit, in bfloat16 on the tensor cores, too."""
    assert has_kernels(torch.device("cuda"))
    done = subprocess.run(
        [sys.executable, str(SUPPORT / "check_search_kernels.py"), "cuda"], capture_output=True, encoding="utf-8",
        env=environment(), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("equal") == 21


def environment():
    """With the tests' folder, for `support`."""
    import os

    paths = filter(None, [str(SUPPORT.parent), os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("k", [1, 20])
def test_rows_and_distances_are_those_of_brute_force(metric, k):
    target, source = clustered(np.random.default_rng(1), 300, 20_000, 768)
    assert_same(target, source, k, metric, (1_000, 9_999))


@pytest.mark.parametrize("metric", METRICS)
def test_several_blocks_of_targets_and_sources(metric, monkeypatch):
    from lookalike.neighbors.cuda import finder

    monkeypatch.setattr(finder, "_FIRST", 3_000)
    monkeypatch.setattr(finder, "_SOURCES", 5_000)
    monkeypatch.setattr(finder, "_TARGETS", 130)
    target, source = clustered(np.random.default_rng(2), 300, 20_000, 200)
    assert_same(target, source, 20, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_k_of_4096(metric):
    target, source = clustered(np.random.default_rng(3), 40, 100_000, 64)
    assert_same(target, source, 4_096, metric, (30_000,))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("spread", [1e-3, 1e-6, 1e-9])
def test_near_ties_that_bfloat16_cannot_order(metric, spread):
    random = np.random.default_rng(4)
    point = random.standard_normal(768)
    target = point + spread * random.standard_normal((40, 768))
    source = point + spread * random.standard_normal((20_000, 768))
    source[::10] = random.standard_normal((2_000, 768))
    assert_same(target, source, 20, metric)
    assert_same(target.astype(np.float32), source.astype(np.float32), 20, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_twins_come_in_the_order_of_their_rows(metric):
    random = np.random.default_rng(5)
    source = np.tile(random.standard_normal((3, 768)).astype(np.float32), (7_000, 1))
    source[10_000] = 1
    target = np.vstack([source[:4], source[10_000:10_001], random.standard_normal((5, 768)).astype(np.float32)])
    found = assert_same(target, source, 50, metric, (8_000,))
    if metric != "inner_product":
        assert (found.distances[0] == 0).all()
        np.testing.assert_array_equal(found.rows[0], 3 * np.arange(50))


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("scale", [1e-42, 1e-30, 1e30])
def test_huge_and_tiny_norms(metric, scale):
    random = np.random.default_rng(6)
    target, source = ((random.standard_normal((n, 96)) * scale).astype(np.float32) for n in (20, 20_000))
    assert_same(target, source, 9, metric)
    sizes = 10.0 ** random.integers(-30, 31, (20_000, 1))
    mixed = (random.standard_normal((20_000, 96)) * sizes).astype(np.float32)
    assert_same(mixed[:20] * np.float32(1.01), mixed, 9, metric)


@pytest.mark.parametrize("metric", METRICS)
def test_offset_vectors_are_decided_by_the_first_pass(metric):
    random = np.random.default_rng(7)
    target, source = ((1_000 + random.standard_normal((n, 128))).astype(np.float32) for n in (100, 20_000))
    found = assert_same(target, source, 6, metric)
    assert found.widened.mean() < 0.1 or metric == "manhattan"


def test_memory_on_the_card_stays_bounded():
    """Beyond the targets and one block of sources."""
    random = np.random.default_rng(8)
    target, source = clustered(random, 2_000, 200_000, 256)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    search(target, source, 10, "cosine")
    assert torch.cuda.max_memory_allocated() - before < 3 << 30
