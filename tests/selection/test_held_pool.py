"""A pool that stays on a device, on torch's CPU device: what the processor's way and plain float64 NumPy give."""

import numpy as np
import pytest
import torch

from lookalike.config.schemas import ScoringConfig
from lookalike.errors import VectorError
from lookalike.neighbors import devices, search
from lookalike.neighbors.cuda import held as cuda_held
from lookalike.neighbors.cuda import whitened
from lookalike.neighbors.cuda.finder import CudaFinder
from lookalike.neighbors.cuda.held import HeldPool
from lookalike.neighbors.cuda.whitened import DeviceArithmetic
from lookalike.neighbors.held import hold
from lookalike.neighbors.search import Search
from lookalike.neighbors.sides import ArraySide
from lookalike.selection.arithmetic import HostArithmetic
from lookalike.selection.passes import learn
from lookalike.selection.scored import select_scored
from lookalike.selection.sweep import sweep
from support.pools import RaggedSide, planted

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    """So small that a few hundred rows are several of each."""
    monkeypatch.setattr(cuda_held, "BLOCK", 128)
    monkeypatch.setattr(cuda_held, "_FIRST", 50)
    monkeypatch.setattr(whitened, "_COSINES", 40_000)
    monkeypatch.setattr(whitened, "_QUERIES", 60)


@pytest.fixture
def searches_there(monkeypatch):
    """Let what would run on a GPU run the same code on torch's CPU device."""
    finders = []

    def on(device, targets, metric, k):
        assert device == "cuda:0"
        finders.append(CudaFinder(targets, metric, k, CPU))
        return finders[-1]

    monkeypatch.setattr(devices, "_on", on)
    monkeypatch.setattr(search, "choose_devices", lambda *_: ["cuda:0"])
    monkeypatch.setattr("lookalike.selection.scored.choose_devices", lambda *_: ["cuda:0"])
    monkeypatch.setattr("lookalike.selection.scored.hold", lambda side, _: HeldPool(side, CPU))
    return finders


class Counted(RaggedSide):
    """Knows how often it was read."""

    def __init__(self, vectors, sizes):
        super().__init__(vectors, sizes)
        self.read = 0

    def chunks(self, size, *, labels=False):
        self.read += 1
        return super().chunks(size, labels=labels)


def same(one, other):
    for name in ("targets", "rows", "ranks", "outcomes", "kept_rows", "pool_outcomes", "pool_targets", "kept_for"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    for name in ("scores", "pool_scores", "distances", "pool_distances"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), rtol=0, atol=2e-7, err_msg=name)
    assert one.choice.option == other.choice.option
    figures = [[(tried.log_rank, tried.found) for tried in found.choice.tried] for found in (one, other)]
    np.testing.assert_allclose(*figures, rtol=1e-9)


@pytest.mark.parametrize(
    "settings",
    [
        {"scoring": "auto"},
        {"scoring": "lda", "components": "16"},
        {"scoring": "density_ratio", "components": "16"},
        {"scoring": "density_ratio", "components": "8", "background": 1000, "budget": 0.1},
        {"scoring": "nearest", "budget": 500},
        {"scoring": "density_ratio", "components": "8", "knn_metric": "euclidean", "min_similarity": 0.0},
        {"scoring": "lda", "components": "8", "dedup_threshold": 0.05, "diversity": 0.5},
    ],
    ids=str,
)
@pytest.mark.parametrize(("weighted", "excluding"), [(False, True), (True, False)])
def test_the_same_images_are_kept(settings, weighted, excluding, searches_there):
    target, source, _ = planted(targets=70, pool=1500)
    config = ScoringConfig(**{"splits": 3, **settings})
    given = {
        "target_weights": np.random.default_rng(1).integers(0, 4, 70) + 0.0 if weighted else None,
        "excluded": np.arange(1500) % 7 == 2 if excluding else None,
    }
    pool = Counted(source, [1, 700, 300])
    there = select_scored(target, pool, config, **given)
    assert searches_there
    assert pool.read == 1  # whatever is done with it
    monkey = pytest.MonkeyPatch()
    with monkey.context() as undone:
        undone.setattr("lookalike.selection.scored.hold", lambda side, _: side)
        undone.setattr("lookalike.selection.scored.choose_devices", lambda *_: ["cpu"])
        undone.setattr(search, "choose_devices", lambda *_: ["cpu"])
        undone.setattr(devices, "_on", lambda device, *asked: devices.CpuFinder(*asked))
        here = select_scored(target, source, config, **given)
    same(there, here)
    again = select_scored(target, RaggedSide(source, [77]), config, **given)
    np.testing.assert_array_equal(there.pool_scores, again.pool_scores)
    assert again.choice == there.choice


@pytest.mark.parametrize("labels", [False, True])
def test_labels_and_images_to_avoid(labels, searches_there):
    target, source, _ = planted(targets=40, pool=900)
    config = ScoringConfig(scoring="density_ratio", components="8", filter_by_label="true" if labels else "false")
    given = {"avoid": source[::90]}
    if labels:
        given |= {"target_labels": np.arange(40) % 3, "pool_labels": np.arange(900) % 4}
    there = select_scored(target, source, config, **given)
    searches_there.clear()
    with pytest.MonkeyPatch().context() as undone:
        undone.setattr("lookalike.selection.scored.hold", lambda side, _: side)
        here = select_scored(target, source, config, **given)
    same(there, here)


def test_a_sweep_is_the_same(searches_there, monkeypatch):
    target, source, _ = planted(targets=30, pool=600)
    asked = {"components": [8, 16], "topns": [2, 5], "thresholds": None, "quantiles": (0.5,)}
    sides = ArraySide(target, "targets"), ArraySide(source, "pool")
    monkeypatch.setattr("lookalike.selection.sweep.choose_devices", lambda *_: ["cuda:0"])
    monkeypatch.setattr("lookalike.selection.sweep.hold", lambda side, _: side)
    here = sweep(*sides, ScoringConfig(splits=2), **asked)
    monkeypatch.setattr("lookalike.selection.sweep.hold", lambda side, _: HeldPool(side, CPU))
    there = sweep(*sides, ScoringConfig(splits=2), **asked)
    for one, other in zip(here.points, there.points, strict=True):
        assert one.setting == other.setting
        np.testing.assert_array_equal(one.rows, other.rows)
        assert (one.served, one.recall) == (other.served, other.recall)
        assert one.redundancy == pytest.approx(other.redundancy, rel=1e-9)


def test_mean_and_covariance_are_those_of_float64():
    random = np.random.default_rng(0)
    vectors = (1000 + random.standard_normal((700, 9)) * 10.0 ** np.arange(-3, 6)).astype(np.float32)
    excluded = random.random(700) < 0.3
    for mask in (None, excluded):
        pool = HeldPool(RaggedSide(vectors, [13, 300]), CPU)
        moments, background = learn(pool, mask, 700 if mask is None else int((~mask).sum()), 100, 3)
        plain = vectors[slice(None) if mask is None else ~mask].astype(float)
        np.testing.assert_allclose(moments.mean, plain.mean(axis=0), rtol=1e-13)
        scale = np.sqrt(np.diag(np.cov(plain.T, bias=True)))
        np.testing.assert_allclose(
            moments.covariance / np.outer(scale, scale), np.cov(plain.T, bias=True) / np.outer(scale, scale), atol=1e-9
        )
        host, sample = learn(RaggedSide(vectors, [700]), mask, len(plain), 100, 3)
        np.testing.assert_array_equal(background.rows, sample.rows)
        np.testing.assert_array_equal(background.vectors, sample.vectors)
        assert host.count == moments.count
        # More can be seen afterwards, as the choice does with the targets.
        for one in (host, moments):
            one.see(plain[:30])
        np.testing.assert_allclose(moments.covariance, host.covariance, rtol=1e-9, atol=1e-9 * scale.min() ** 2)


@pytest.mark.parametrize("k", [1, 20, 200])
@pytest.mark.parametrize("weighted", [False, True])
def test_mean_cosines_are_those_of_float64(k, weighted):
    random = np.random.default_rng(0)
    images = random.standard_normal((150, 12)).astype(np.float32)
    images[20:60] = images[20]  # ties
    queries = np.concatenate([images[::3], random.standard_normal((70, 12)).astype(np.float32), np.zeros((1, 12))])
    images, queries = (
        side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9) for side in (images, queries)
    )
    images, queries = images.astype(np.float32), queries.astype(np.float32)
    weights = random.random(150) if weighted else np.full(150, 1.5)
    lengths = np.linalg.norm(queries.astype(float), axis=1, keepdims=True) * np.linalg.norm(
        images.astype(float), axis=1
    )
    cosines = np.divide(queries.astype(float) @ images.T, lengths, out=np.zeros((len(queries), 150)), where=lengths > 0)
    nearest = np.argsort(-np.round(cosines, 12), axis=1, kind="stable")[:, :k]
    expected = (np.take_along_axis(cosines, nearest, axis=1) * weights[nearest]).mean(axis=1)
    there, here = DeviceArithmetic(CPU), HostArithmetic(["cpu"])
    put = there.put(queries), there.put(images)
    np.testing.assert_allclose(there.mean_cosines(*put, k, weights), expected, atol=1e-12)
    np.testing.assert_allclose(here.mean_cosines(queries, images, k, weights), expected, atol=1e-12)
    own = np.full(len(queries), -1)
    own[:50] = np.arange(0, 150, 3)
    cosines[np.arange(50), own[:50]] = -np.inf
    ordered = -np.sort(-cosines, axis=1)[:, :k]
    expected = np.array([row[np.isfinite(row)].mean() for row in ordered])
    np.testing.assert_allclose(there.mean_cosines(*put, k, own=own), expected, atol=1e-12)
    np.testing.assert_allclose(here.mean_cosines(queries, images, k, own=own), expected, atol=1e-12)
    # The only image is the query itself.
    alone = there.mean_cosines(put[0][:1], put[1][:1], 5, own=np.zeros(1, np.int64))
    np.testing.assert_array_equal(alone, [0.0])
    np.testing.assert_array_equal(there.mean_cosines(put[0], put[1][:0], 5), np.zeros(len(queries)))


def test_what_was_read_once_comes_from_the_device():
    vectors = np.random.default_rng(0).standard_normal((500, 6)).astype(np.float32)
    side = Counted(vectors, [130])
    pool = HeldPool(side, CPU)
    assert (pool.rows, pool.dimension, pool.has_labels) == (500, 6, False)
    begun = pool.chunks(1000)
    next(begun)
    begun.close()  # not all of it: it does not count
    for size in (90, 1000, 500):
        np.testing.assert_array_equal(np.concatenate([chunk.vectors for chunk in pool.chunks(size)]), vectors)
    rows = np.array([499, 3, 77])
    np.testing.assert_array_equal(pool.vectors(rows), vectors[rows])
    assert side.read == 2
    fresh = HeldPool(Counted(vectors, [130]), CPU)
    np.testing.assert_array_equal(fresh.vectors(rows), vectors[rows])


@pytest.mark.parametrize(("value", "message"), [(np.nan, r"rows \[333\]"), (np.inf, r"rows \[333\]"), (1e36, "beyond")])
def test_values_that_cannot_be_are_refused(value, message, searches_there):
    target, source, _ = planted()
    source[333, 5] = value
    with pytest.raises(VectorError, match=message):
        select_scored(target, source, ScoringConfig())
    source[333, 5] = 1e16
    with pytest.raises(VectorError, match=r"beyond 1e\+15"):
        select_scored(target, source, ScoringConfig())


def test_only_one_gpu_holds_and_only_float32():
    side = ArraySide(np.zeros((5, 3)), "pool")
    assert hold(side, ["cpu"]) is side
    assert hold(side, ["cuda:0"]) is side  # float64
    narrow = ArraySide(np.zeros((5, 3), np.float32), "pool")
    assert hold(narrow, ["cuda:0", "cuda:1"]) is narrow
    already = HeldPool(narrow, CPU)
    assert hold(already, ["cuda:0"]) is already


def test_neighbours_are_the_same_and_checked(searches_there):
    target, source, _ = planted(targets=40, pool=700)
    excluded = np.arange(700) % 5 == 0
    sides = ArraySide(target, "targets"), HeldPool(RaggedSide(source, [300, 11]), CPU)
    wanted = Search(7, "cosine", excluded=excluded, certified=True)
    first, second = (search.search(*sides, wanted) for _ in range(2))
    plain = search.search(sides[0], ArraySide(source, "pool"), wanted)
    for one in (first, second):
        np.testing.assert_array_equal(one.neighbors.rows, plain.neighbors.rows)
        assert one.certificate.checked == 32


def test_pools_that_hardly_are_any(searches_there):
    random = np.random.default_rng(0)
    target = random.standard_normal((12, 6)).astype(np.float32)
    pools = {
        "all equal": np.ones((40, 6)),
        "all zero": np.zeros((40, 6)),
        "one image": random.standard_normal((1, 6)),
        "every image a target": target.copy(),
        "every image many times": np.repeat(random.standard_normal((5, 6)), 30, axis=0),
    }
    for name, pool in pools.items():
        for scoring in ("auto", "density_ratio", "lda", "nearest"):
            found = select_scored(target, pool.astype(np.float32), ScoringConfig(scoring=scoring, splits=2))
            assert 1 <= len(found.kept_rows) == found.budget, name
            assert np.isfinite(found.pool_scores).all(), name
