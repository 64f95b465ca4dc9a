"""Images to avoid: the formulas in plain float64 NumPy, and what they do."""

import numpy as np
import pytest

from lookalike.config.schemas import ScoringConfig
from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.selection.scored import select_scored
from support.pools import RaggedSide, planted


def whitened(pool, components, *sides):
    centre = pool.astype(float).mean(axis=0)
    _, singular, axes = np.linalg.svd(pool.astype(float) - centre, full_matrices=False)
    deviations = singular[:components] / np.sqrt(len(pool))
    sides = [(side.astype(float) - centre) @ axes[:components].T / deviations for side in sides]
    return [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]


def near_mean(cosines):
    return np.sort(cosines, axis=1)[:, ::-1][:, :50].mean(axis=1)


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("avoided", [1, 70])
def test_scores_are_those_of_the_formulas(weight, avoided):
    target, source, _ = planted(30, 300)
    avoid = planted(avoided, 1, 1, seed=9)[0][:, ::-1].copy()
    weights = np.arange(30) % 3 + 0.0
    scaled = weights / weights[weights > 0].mean()
    targets, pool, others = whitened(source, 16, target, source, avoid)
    counted = weights > 0

    def scores(scoring):
        config = ScoringConfig(scoring=scoring, components="16", avoid_weight=weight)
        found = select_scored(target, source, config, target_weights=weights, avoid=avoid)
        pieces = select_scored(target, RaggedSide(source, [7, 100]), config, target_weights=weights, avoid=avoid)
        np.testing.assert_array_equal(found.pool_scores, pieces.pool_scores)
        return found.pool_scores

    mean = (scaled[:, None] * targets)[counted].mean(axis=0) - weight * others.mean(axis=0)
    np.testing.assert_allclose(scores("lda"), pool @ mean / np.linalg.norm(mean), atol=2e-6)
    like = near_mean((pool @ targets.T * scaled)[:, counted])
    among = pool @ pool.T
    np.fill_diagonal(among, -np.inf)
    expected = like - near_mean(among) - weight * np.maximum(near_mean(pool @ others.T), 0)
    np.testing.assert_allclose(scores("density_ratio"), expected, atol=2e-6)


@pytest.mark.parametrize("scoring", ["density_ratio", "lda", "nearest"])
def test_images_like_the_avoided_ones_are_not_kept(scoring):
    random = np.random.default_rng(0)
    pool = random.standard_normal((500, 12)).astype(np.float32)
    good, bad = np.arange(500) < 40, (np.arange(500) >= 40) & (np.arange(500) < 80)
    pool[good | bad, 0] += 6  # alike in what the targets are taken for
    pool[bad, 1] += 6
    target = random.standard_normal((20, 12)).astype(np.float32)
    target[:, 0] += 6
    target[:, 1] += 2
    avoid = random.standard_normal((20, 12)).astype(np.float32)
    avoid[:, :2] += 6
    config = ScoringConfig(scoring=scoring, components="12", budget=60, min_per_target=0, knn_metric="euclidean")
    free = select_scored(target, pool, config)
    found = select_scored(target, pool, config, avoid=avoid)
    assert bad[free.kept_rows].sum() > 5
    assert bad[found.kept_rows].sum() < bad[free.kept_rows].sum() / 3
    assert len(found.kept_rows) == 60
    dropped = found.pool_outcomes == OUTCOMES.index(Outcome.AVOIDED)
    distance = [np.linalg.norm(pool[:, None] - side[None], axis=2).min(axis=1) for side in (avoid, target)]
    expected = distance[0] < distance[1] if scoring == "nearest" else np.zeros(500, bool)
    np.testing.assert_array_equal(dropped, expected)
    # Nothing to avoid is nothing.
    none = select_scored(target, pool, config, avoid=avoid[:0])
    np.testing.assert_array_equal(none.pool_scores, free.pool_scores)
    np.testing.assert_array_equal(none.kept_rows, free.kept_rows)


def test_avoiding_the_targets_themselves_leaves_no_direction():
    target, source, _ = planted()
    found = select_scored(target, source, ScoringConfig(scoring="lda", components="8", avoid_weight=1), avoid=target)
    assert (found.pool_scores == 0).all()
    # As near to both is not nearer.
    plain = select_scored(target, source, ScoringConfig(scoring="nearest"), avoid=target)
    assert plain.count(Outcome.AVOIDED) == 0
