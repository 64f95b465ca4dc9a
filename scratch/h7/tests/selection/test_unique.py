"""Unique neighbours against a walk in plain Python as the contract words it; the assignment against a dense one."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from lookalike.selection.allocation import COMMON, allocate, make_strata
from lookalike.selection.assignment import assign
from lookalike.selection.unique import PASSES, match, quotas


class Searcher:
    """Brute force over a matrix of distances; remembers what was asked."""

    def __init__(self, distances):
        self.distances, self.asked = distances, []

    def __call__(self, targets, k, free):
        assert 1 <= k <= free.sum()
        self.asked.append((targets.tolist(), k))
        masked = np.where(free, self.distances[targets], np.inf)
        rows = np.argsort(masked, axis=1, kind="stable")[:, :k]
        return np.take_along_axis(masked, rows, axis=1).astype(np.float32), rows


def walk(distances, free, desired, factor):
    """The contract's passes in plain Python: kept pairs, what each pass asked, and the targets left waiting."""
    targets = len(distances)
    desired = min(desired, len(free))
    topn = max(1, math.ceil(desired / targets))
    free, kept, waiting, asked = set(free), [], list(range(targets)), []
    for number in range(1, PASSES + 1):
        k = min(factor * number * topn, len(free))
        if not waiting or len(kept) == desired or k < topn:
            break
        asked.append((waiting, k))
        claimed, still = {}, []
        for target in waiting:
            near = sorted(free, key=lambda source: (distances[target][source], source))[:k]
            mine = [source for source in near if source not in claimed][:topn]
            if len(mine) == topn:
                claimed.update((source, target) for source in mine)
            else:
                still.append(target)
        merged = sorted((distances[target][source], source, target) for source, target in claimed.items())
        for distance, source, target in merged[: desired - len(kept)]:
            kept.append((distance, source, target))
            free.remove(source)
        waiting = still
    return kept, asked, waiting, free, desired, topn


def fill(kept, distances, waiting, free, desired, topn):
    """The nearest pair of all that are left, again and again."""
    need = dict.fromkeys(waiting, topn)
    while len(kept) < desired and any(need.values()):
        options = [(distances[t][s], s, t) for t in need if need[t] for s in free]
        kept.append(min(options))
        free.remove(kept[-1][1])
        need[kept[-1][2]] -= 1
    return kept


def crowded(random, targets, sources):
    """Distances of targets that lie close together, so that they want the same sources."""
    pool = random.standard_normal((sources, 4))
    near = random.standard_normal(4) + 0.2 * random.standard_normal((targets, 4))
    return np.linalg.norm(near[:, None] - pool, axis=2).astype(np.float32)


def triples(pairs):
    return list(zip(pairs.distances.tolist(), pairs.sources.tolist(), pairs.targets.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 8), st.integers(1, 60), st.integers(1, 80), st.integers(1, 5), st.integers(0, 10_000))
def test_the_matching_is_the_walk_of_the_contract(targets, sources, desired, factor, seed):
    random = np.random.default_rng(seed)
    distances = crowded(random, targets, sources)
    free = random.random(sources) < 0.8
    if not free.any():
        free[0] = True
    search = Searcher(distances)
    found = match(search, np.arange(targets), free.copy(), np.arange(sources), desired, factor)
    table = distances.astype(float).tolist()
    kept, asked, waiting, left, wanted, topn = walk(table, np.flatnonzero(free).tolist(), desired, factor)
    assert search.asked[: len(asked)] == asked or search.asked == asked[: len(search.asked)]
    expected = fill(kept, table, waiting, left, wanted, topn)
    assert [(s, t) for _, s, t in triples(found.kept)] == [(s, t) for _, s, t in sorted(expected)]
    assert len(found.kept.sources) == min(desired, free.sum())  # whenever the pool allows it
    assert found.topn == topn


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 7), st.integers(2, 60), st.integers(1, 60), st.integers(1, 3), st.integers(0, 10_000))
def test_the_assignment_is_the_best_of_all(targets, sources, desired, factor, seed):
    random = np.random.default_rng(seed)
    distances = crowded(random, targets, sources)
    free = np.ones(sources, np.bool_)
    free[1::9] = False
    search = Searcher(distances)
    greedy = match(search, np.arange(targets), free, np.arange(sources), desired, factor)
    best = assign(search, greedy, free, np.arange(sources))
    slots = np.repeat(distances[:, free].astype(np.float64), greedy.topn, axis=0)
    count = len(greedy.kept.sources)
    slots = np.hstack([slots, np.zeros((len(slots), len(slots) - count))])  # as many slots stay empty as must
    rows, columns = linear_sum_assignment(slots)
    assert best.proven
    assert best.kept.total == pytest.approx(slots[rows, columns].sum(), abs=1e-6)
    assert best.kept.total <= greedy.kept.total
    assert len(best.kept.sources) == count == len(set(best.kept.sources.tolist()))
    assert free[best.kept.sources].all()
    assert np.bincount(best.kept.targets).max() <= greedy.topn
    assert best.kept.distances.tolist() == distances[best.kept.targets, best.kept.sources].tolist()


def test_an_assignment_that_greed_misses():
    """The first target takes what the second needs."""
    distances = np.array([[0.1, 0.2, 9], [0.11, 5, 9]], np.float32)
    search = Searcher(distances)
    greedy = match(search, np.arange(2), np.ones(3, np.bool_), np.arange(3), 2, 1)
    assert triples(greedy.kept) == [(pytest.approx(0.1), 0, 0), (5, 1, 1)]
    best = assign(search, greedy, np.ones(3, np.bool_), np.arange(3))
    assert [(s, t) for _, s, t in triples(best.kept)] == [(0, 1), (1, 0)]
    assert best.kept.total == pytest.approx(0.31)


def test_equal_distances_go_by_path():
    distances = np.ones((2, 6), np.float32)
    path_order = np.array([5, 4, 3, 2, 1, 0])
    found = match(Searcher(distances), np.arange(2), np.ones(6, np.bool_), path_order, 3, 5)
    assert found.topn == 2
    # Target 0 takes rows 0 and 1, target 1 rows 2 and 3: of these, row 0 has the last path and is left out.
    assert found.kept.sources.tolist() == [3, 2, 1]
    assert found.surplus.sources.tolist() == [0]


def test_nothing_to_match():
    nothing = np.empty(0, np.int64)
    search = Searcher(np.ones((2, 3), np.float32))
    for targets, free in ((nothing, np.ones(3, np.bool_)), (np.arange(2), np.zeros(3, np.bool_))):
        found = match(search, targets, free, np.arange(3), 5, 5)
        assert (len(found.kept.sources), found.passes) == (0, ())
        assert assign(search, found, free, np.arange(3)).proven
    assert search.asked == []


def test_filling_in_parts_is_filling_at_once(monkeypatch):
    """Short lists, as for many targets, give the same pairs."""
    noise = np.random.default_rng(4).random((60, 300)) / 50
    distances = (np.linspace(0, 1, 300) + noise).astype(np.float32)  # all targets want the same
    settings = (np.arange(60), np.ones(300, np.bool_), np.arange(300), 120, 1)
    at_once = match(Searcher(distances), *settings)
    assert at_once.filled > 5
    monkeypatch.setattr("lookalike.selection.unique._MOST_PAIRS", 1)
    search = Searcher(distances)
    in_parts = match(search, *settings)
    assert len(search.asked) > len(at_once.passes)
    assert triples(in_parts.kept) == triples(at_once.kept)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=6).filter(any), st.integers(0, 100))
def test_quotas_sum_up_and_are_near_the_shares(counts, desired):
    shares = quotas(counts, desired)
    assert sum(shares) == desired
    exact = [desired * count / sum(counts) for count in counts]
    assert all(abs(share - real) < 1 for share, real in zip(shares, exact, strict=True))


def test_quotas_by_largest_remainder():
    assert quotas([5, 3, 2], 7) == [4, 2, 1]  # 3.5, 2.1, 1.4
    assert quotas([1, 1, 1], 2) == [1, 1, 0]  # equal remainders: the first ones


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 8), st.integers(4, 40), st.integers(1, 50), st.integers(0, 10_000))
def test_strata_share_the_pool(targets, sources, desired, seed):
    """No source twice, none that is not free, the wanted number whenever the pool has it, each in its own pool."""
    random = np.random.default_rng(seed)
    distances = crowded(random, targets, sources)
    target_has, source_has = random.random((targets, 2)) < 0.5, random.random((sources, 2)) < 0.3
    free = random.random(sources) < 0.9
    search, given = Searcher(distances), []

    def solve(name, rows, among, count):
        assert not (among & ~free).any()
        kept = match(search, rows, among, np.arange(sources), count, 5).kept
        given.extend((name, source) for source in kept.sources.tolist())
        return kept

    strata = make_strata(("a", "b"), target_has, source_has, desired)
    shares = allocate(strata, np.arange(targets), free, desired, solve)
    taken = [source for _, source in given]
    assert len(taken) == len(set(taken)) == min(desired, free.sum())
    assert free[taken].all()
    rare = source_has.any(axis=1)
    for name, source in given:
        assert {"a": source_has[source, 0], "b": source_has[source, 1], "any": True}.get(name, not rare[source])
    assert [share.stratum.name for share in shares] == ["a", "b", COMMON]
    assert sum(share.stratum.quota for share in shares) == desired
    assert all(share.short >= 0 for share in shares)
