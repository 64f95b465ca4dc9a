"""Near-duplicates and diversity against plain NumPy, and what they do to a selection."""

import numpy as np
import pytest
from scipy.sparse.csgraph import connected_components

from lookalike.config.schemas import ScoringConfig
from lookalike.neighbors.sides import ArraySide
from lookalike.selection import diversity, twins
from lookalike.selection.diversity import Diverse, FacilityLocation, MarginalRelevance
from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.selection.keeping import Keeper
from lookalike.selection.pairs import Images, Limits, Pairs
from lookalike.selection.result import Diary
from lookalike.selection.scored import select_scored
from lookalike.selection.twins import Twins
from lookalike.tables.embedding_stream import EmbeddingStream
from support.embeddings import write_embeddings
from support.pools import planted


def units_of(vectors):
    vectors = vectors.astype(float)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_brute_force(vectors, threshold, keys):
    units = units_of(vectors)
    links = (1 - units @ units.T <= threshold) | (keys[:, None] == keys)
    labels = connected_components(links, directed=False)[1]
    groups, numbers = np.full(len(vectors), -1), {}
    for row, label in enumerate(labels):
        if (labels == label).sum() > 1:
            groups[row] = numbers.setdefault(label, len(numbers))
    return groups


@pytest.mark.parametrize("threshold", [0.001, 0.02, 0.1])
@pytest.mark.parametrize("parts", [1, 4])
def test_groups_are_connected_whatever_is_seen_first(threshold, parts, monkeypatch):
    monkeypatch.setattr(twins, "_AT_A_TIME", 16)
    random = np.random.default_rng(1)
    centres = random.standard_normal((40, 8))
    vectors = centres[random.integers(0, 40, 120)] * random.uniform(0.5, 2, (120, 1))
    vectors += random.uniform(0, 0.3, (120, 1)) * random.standard_normal((120, 8))
    vectors[5], vectors[6] = vectors[80], -0.0 * vectors[6]
    vectors[7] = 0
    keys = np.arange(120)
    keys[100] = 3
    seen = Twins(ArraySide(vectors.astype(np.float32), "pool"), threshold, keys)
    for part in np.array_split(random.permutation(120), parts):
        seen.see(part)
    expected_of = vectors.astype(np.float32).copy()
    expected_of[6:8] = 0
    with np.errstate(invalid="ignore"):
        expected = by_brute_force(np.where(expected_of == 0, 0, expected_of), threshold, np.r_[keys[:7], 6, keys[8:]])
    np.testing.assert_array_equal(seen.groups(), expected)
    assert seen.held == 118  # 80 is 5, and 6 and 7 are both zero


def chain():
    """Ten images around a circle, each near the next, the first one best; and ten that are far from everything."""
    angles = np.arange(10) * 0.1
    near = np.c_[np.cos(angles), np.sin(angles), np.zeros((10, 10))]
    return np.concatenate([near, 3 * np.eye(12)[2:]]).astype(np.float32), np.eye(12, dtype=np.float32)[:1]


def test_a_group_collapses_to_its_best_and_frees_the_budget_for_others():
    pool, target = chain()
    config = ScoringConfig(scoring="nearest", budget=5, dedup_threshold=0.006)  # a step is 0.005
    found = select_scored(target, pool, config)
    assert found.kept_rows.tolist() == [0, 10, 11, 12, 13]
    assert [OUTCOMES[code] for code in found.pool_outcomes[1:10]] == [Outcome.NEAR_DUPLICATE] * 9
    assert found.pool_instead[:10].tolist() == [0] * 10
    assert set(found.pool_groups[:10]) == {0}
    assert (found.pool_groups[10:] == -1).all()
    first = found.rows == 4
    assert found.groups[first].tolist() == [0]
    assert found.instead[first].tolist() == [0]
    assert not any("into one group" in note for note in found.notes)
    config.budget = 20
    every = select_scored(target, pool, config)
    assert len(every.kept_rows) == 11
    config.dedup_threshold = 1.5
    assert any("links 20 of 20 images" in note for note in select_scored(target, pool, config).notes)
    config.budget = 5
    # Off, and too small for the steps.
    for threshold in (-1, 0.004):
        config.dedup_threshold = threshold
        assert select_scored(target, pool, config).kept_rows.tolist() == [0, 1, 2, 3, 4]


def test_zero_drops_exact_copies_only():
    random = np.random.default_rng(0)
    pool = np.repeat(random.standard_normal((30, 6)), 4, axis=0).astype(np.float32)
    pool[::4] *= 2  # the same direction
    pool[1::4] += 1e-3
    found = select_scored(pool[:10], pool, ScoringConfig(scoring="nearest", budget=100, dedup_threshold=0))
    assert len(found.kept_rows) == 60
    assert len(np.unique(np.round(units_of(pool[found.kept_rows]), 5), axis=0)) == 60
    assert any("60 images are kept of a budget of 100" in note for note in found.notes)


def test_very_many_copies_are_looked_through_in_few_rounds(monkeypatch):
    random = np.random.default_rng(0)
    centres = random.standard_normal((60, 16))
    pool = (np.repeat(centres, 50, axis=0) + 1e-4 * random.standard_normal((3000, 16))).astype(np.float32)
    rounds = []
    see = Twins.see
    monkeypatch.setattr(Twins, "see", lambda self, rows: (rounds.append(len(rows)), see(self, rows)))
    found = select_scored(centres[:5], pool, ScoringConfig(scoring="lda", budget=55, dedup_threshold=0.001))
    assert len(np.unique(found.kept_rows // 50)) == 55
    assert len(rounds) <= 8


def test_memory_bounds_what_is_looked_at():
    random = np.random.default_rng(0)
    pool = np.repeat(random.standard_normal((100, 16)), 40, axis=0) + 1e-4 * random.standard_normal((4000, 16))
    diary, config = Diary(), ScoringConfig(dedup_threshold=0.001)
    config.memory_limit = 4 * 1000 * 16 * 8
    nobody = np.empty(0, np.int64)
    pairs = Pairs(nobody, nobody, nobody.astype(np.int32), nobody.astype(np.float32))
    scores = -np.arange(4000.0).astype(np.float32)
    images = Images(scores, np.zeros(4000, np.int64), np.zeros(4000, np.float32), np.ones(4000, bool))
    covered = Keeper(ArraySide(pool, "pool"), None, np.zeros(1, np.int64), config, diary).keep(
        pairs, images, Limits(50, 0), None
    )
    kept = np.flatnonzero(covered.pool_outcomes == 0)
    assert len(kept) == len(np.unique(kept // 40)) == 25
    assert kept.max() < 1000
    assert "among 1000 images only" in diary.notes[0]


def test_the_floor_is_first_and_a_twin_of_a_kept_image_serves_its_targets():
    random = np.random.default_rng(3)
    pool = np.repeat(random.standard_normal((40, 8)), 2, axis=0).astype(np.float32)
    pool[1::2] += 0.001
    target = np.concatenate([pool[0:20:2], pool[1:20:2]])
    found = select_scored(
        target,
        pool,
        ScoringConfig(scoring="density_ratio", components="8", budget=20, candidates=1, dedup_threshold=0.01),
    )
    groups = found.kept_rows // 2
    assert len(np.unique(groups)) == len(groups) == 20
    assert set(range(10)) <= set(groups.tolist())
    assert found.served.all()


def mmr(units, share, budget, kept=()):
    """Carbonell and Goldstein's rule, one image at a time, with all cosines in float64."""
    relevance = 1 - np.arange(len(units)) / (len(units) - 1)
    chosen = list(kept)
    while len(chosen) < budget:
        others = (units @ units[chosen].T).max(axis=1) if chosen else np.zeros(len(units))
        worth = (1 - share) * relevance - share * others
        worth[chosen] = -np.inf
        chosen.append(int(worth.argmax()))
    return chosen[len(kept) :]


def facility(units, share, budget, kept=()):
    relevance = 1 - np.arange(len(units)) / (len(units) - 1)
    cosines = np.maximum(units @ units.T, 0)
    chosen = list(kept)

    def value(some):
        covered = cosines[some].max(axis=0) if some else np.zeros(len(units))
        return (1 - share) / budget * relevance[some].sum() + share / relevance.sum() * (relevance @ covered)

    while len(chosen) < budget:
        worth = [-np.inf if one in chosen else value([*chosen, one]) for one in range(len(units))]
        chosen.append(int(np.argmax(worth)))
    return chosen[len(kept) :]


def clustered(count=150):
    random = np.random.default_rng(5)
    centres = random.standard_normal((12, 10))
    return (centres[random.integers(0, 12, count)] + 0.4 * random.standard_normal((count, 10))).astype(np.float32)


def turns(vectors, aim, budget, kept=()):
    order = Diverse(np.arange(len(vectors)), len(vectors), lambda rows: vectors[rows], aim)
    chosen = []
    for row in order.turns(np.array(kept, np.int64)):
        if len(chosen) + len(kept) == budget:
            break
        chosen.append(row)
        order.keep(row)
    return chosen


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("kept", [(), (140, 3)])
def test_the_lazy_ways_choose_what_the_formulas_choose(share, kept, monkeypatch):
    monkeypatch.setattr(diversity, "_AT_A_TIME", 7)
    vectors = clustered() + np.float32(5)  # an offset that all have in common does not count
    units = units_of(vectors - vectors.mean(axis=0, dtype=float))
    found = turns(vectors, lambda given: MarginalRelevance(given, share), 40, kept)
    assert found == mmr(units, share, 40, kept)
    found = turns(vectors, lambda given: FacilityLocation(given, share, 25), 25, kept)
    assert found == facility(units, share, 25, kept)
    monkeypatch.setattr(diversity, "MOST_COVERED", 10)  # cosines are not held
    assert turns(vectors, lambda given: FacilityLocation(given, share, 25), 25, kept) == found


@pytest.mark.parametrize("method", ["mmr", "facility_location"])
def test_more_diversity_is_less_redundancy(method):
    target, source, _ = planted(dimension=12)
    source = np.repeat(source, 2, axis=0) + 0.3 * np.random.default_rng(0).standard_normal((1200, 12)).astype(
        np.float32
    )
    figures = []
    for share in (0.0, 0.5, 1.0):
        config = ScoringConfig(
            scoring="density_ratio", components="8", budget=60, diversity=share, diversity_method=method
        )
        found = select_scored(target, source, config)
        units = units_of(source[found.kept_rows])
        cosines = units @ units.T - 2 * np.eye(60)
        figures.append((cosines.max(axis=1).mean(), found.scores[found.kept].mean(), found.served.all()))
    redundancy, scores, served = zip(*figures, strict=True)
    assert redundancy[0] > redundancy[1] > redundancy[2]
    assert scores[0] > scores[1] > scores[2]
    assert all(served)  # the floor comes first
    assert found.count(Outcome.LESS_DIVERSE) > 0


@pytest.mark.parametrize(
    "rules", [{"dedup_threshold": 0.05}, {"diversity": 0.6}, {"dedup_threshold": 0.05, "diversity": 0.6}]
)
def test_a_table_gives_what_an_array_gives(rules, tmp_path):
    target, source, _ = planted()
    table = EmbeddingStream(str(write_embeddings(tmp_path / "pool.parquet", source, row_group_size=70)), "embedding")
    config = ScoringConfig(scoring="lda", components="8", budget=50, **rules)
    one, other = select_scored(target, source, config), select_scored(target, table, config)
    np.testing.assert_array_equal(one.kept_rows, other.kept_rows)
    np.testing.assert_array_equal(one.pool_outcomes, other.pool_outcomes)
    plain = select_scored(target, source, ScoringConfig(scoring="lda", components="8", budget=50))
    assert set(plain.kept_rows) != set(one.kept_rows)


@pytest.mark.parametrize("scoring", ["nearest", "density_ratio", "lda"])
@pytest.mark.parametrize("method", ["mmr", "facility_location"])
def test_pools_that_hardly_are_any_with_all_rules_on(scoring, method):
    random = np.random.default_rng(0)
    target = random.standard_normal((12, 6))
    pools = {
        "all equal": np.ones((40, 6)),
        "all zero": np.zeros((40, 6)),
        "one image": random.standard_normal((1, 6)),
        "every image a target": target.copy(),
        "every image many times": np.repeat(random.standard_normal((5, 6)), 30, axis=0),
        "tiny values": random.standard_normal((50, 6)) * 1e-30,
    }
    different = {"all equal": 1, "all zero": 1, "one image": 1, "every image a target": 12, "every image many times": 5}
    for name, pool in pools.items():
        for share in (0.0, 0.5, 1.0):
            config = ScoringConfig(
                scoring=scoring, splits=2, budget=30, dedup_threshold=1e-6, diversity=share, diversity_method=method
            )
            found = select_scored(target, pool, config, keys=np.arange(len(pool)), avoid=target[:0])
            assert len(found.kept_rows) == min(30, different.get(name, len(pool))), name
