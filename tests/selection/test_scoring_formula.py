"""Scores against their formulas, written once more in plain float64 NumPy, and what they must not depend on."""

import numpy as np
import pytest

from lookalike.config.schemas import ScoringConfig
from lookalike.errors import ConfigError, VectorError
from lookalike.selection.scored import select_scored
from lookalike.selection.scoring import checked_weights
from support.pools import RaggedSide, planted


def whitened(targets, pool, components):
    """Centred, on the leading principal components, each divided by its deviation, rows normalised: by SVD."""
    centre = pool.astype(float).mean(axis=0)
    _, singular, axes = np.linalg.svd(pool.astype(float) - centre, full_matrices=False)
    deviations = singular[:components] / np.sqrt(len(pool))
    sides = [(side.astype(float) - centre) @ axes[:components].T / deviations for side in (targets, pool)]
    return [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]


def by_formula(scoring, targets, pool, components, weights):
    targets, pool = whitened(targets, pool, components)
    weights = weights / weights[weights > 0].mean()
    if scoring == "lda":
        mean = (weights[:, None] * targets).sum(axis=0)
        return pool @ mean / np.linalg.norm(mean)
    counted = weights > 0
    scores = []
    for row, image in enumerate(pool):
        to_targets = targets[counted] @ image
        near = np.argsort(-to_targets)[:50]
        like = (to_targets[near] * weights[counted][near]).mean()
        others = np.delete(pool @ image, row)
        scores.append(like - np.sort(others)[::-1][:50].mean())
    return np.array(scores)


@pytest.mark.parametrize("scoring", ["density_ratio", "lda"])
@pytest.mark.parametrize(("targets", "pool"), [(70, 300), (5, 300), (7, 30)])
@pytest.mark.parametrize("weighted", [False, True])
def test_scores_are_those_of_the_formula(scoring, targets, pool, weighted):
    target, source, _ = planted(targets, pool, members=10)
    weights = np.random.default_rng(1).integers(0, 4, targets) + 0.0 if weighted else np.ones(targets)
    config = ScoringConfig(scoring=scoring, components="16")
    found = select_scored(target, source, config, target_weights=weights if weighted else None)
    expected = by_formula(scoring, target, source, 16, weights)
    np.testing.assert_allclose(found.pool_scores, expected, atol=2e-6)
    np.testing.assert_array_equal(found.scores, found.pool_scores[found.rows])


@pytest.mark.parametrize("scoring", ["auto", "lda"])
def test_a_blend_is_the_mean_of_its_scores_on_one_scale(scoring):
    target, source, _ = planted(dimension=40)
    found = select_scored(target, source, ScoringConfig(scoring=scoring, splits=3))
    shares = {one.option: one.share for one in found.choice.tried if one.share}
    assert found.choice.option.scoring == "blend"
    assert len(shares) > 1
    assert sum(shares.values()) == pytest.approx(1)
    expected = np.zeros(len(source))
    for (name, components), share in shares.items():
        scores = by_formula(name, target, source, components, np.ones(len(target)))
        expected += share * (scores - scores.mean()) / scores.std()
    np.testing.assert_allclose(found.pool_scores, expected, atol=2e-5)


def test_weights_change_nothing_by_their_scale():
    target, source, _ = planted()
    weights = np.arange(len(target)) + 1.0
    config = ScoringConfig(scoring="density_ratio", components="16")
    one, other = (select_scored(target, source, config, target_weights=given) for given in (weights, weights * 1e300))
    np.testing.assert_allclose(one.pool_scores, other.pool_scores, rtol=1e-6)


def test_heavy_targets_draw_images_to_themselves():
    random = np.random.default_rng(0)
    pool = random.standard_normal((400, 8))
    pool[:20, 0] += 9
    pool[20:40, 1] += 9
    target = np.r_[pool[:8] + 0.1, pool[20:28] + 0.1]
    config = ScoringConfig(scoring="density_ratio", components="8", budget=12, min_per_target=0)
    for first, second, group in ((9, 1, range(20)), (1, 9, range(20, 40))):
        found = select_scored(target, pool, config, target_weights=[first] * 8 + [second] * 8)
        assert set(found.kept_rows) <= set(group)


@pytest.mark.parametrize(
    "weights", [[1.0], [[1.0]] * 3, [1, -1, 1], [1, np.nan, 1], [1, np.inf, 1], [0, 0, 0], ["a", "b", "c"], [None] * 3]
)
def test_what_are_no_weights_is_refused(weights):
    with pytest.raises(ConfigError):
        checked_weights(weights, 3)


@pytest.mark.parametrize("scoring", ["auto", "density_ratio", "lda", "nearest"])
def test_chunks_do_not_matter(scoring):
    target, source, _ = planted(pool=900)
    config = ScoringConfig(scoring=scoring, components="auto" if scoring == "auto" else "16", splits=3)
    whole = select_scored(target, source, config)
    for sizes in ([1, 7, 300], [899]):
        other = select_scored(target, RaggedSide(source, sizes), config)
        for name in ("targets", "rows", "ranks", "distances", "scores", "outcomes", "pool_scores"):
            np.testing.assert_array_equal(getattr(whole, name), getattr(other, name), err_msg=name)
        assert whole.choice == other.choice


def test_many_blocks_give_what_one_gives():
    """5,000 rows are two blocks; the formula knows none."""
    target, source, _ = planted(pool=5000, dimension=12)
    found = select_scored(
        target, RaggedSide(source, [999, 4096]), ScoringConfig(scoring="density_ratio", components="8")
    )
    expected = by_formula("density_ratio", target, source, 8, np.ones(len(target)))
    np.testing.assert_allclose(found.pool_scores, expected, atol=2e-6)


def test_a_sample_is_the_background_of_a_large_pool():
    target, source, member = planted(pool=3000, members=60)
    config = ScoringConfig(scoring="density_ratio", components="16", background=1000, budget=40)
    found = select_scored(target, source, config)
    assert (found.background, found.exact_background) == (1000, False)
    assert any("random sample of 1000 of 3000" in note for note in found.notes)
    again = select_scored(target, RaggedSide(source, [77]), config)
    np.testing.assert_array_equal(found.pool_scores, again.pool_scores)
    config.seed = 1
    assert (select_scored(target, source, config).pool_scores != found.pool_scores).any()
    # The formula, with the sample as background: an image of the sample is not its own neighbour.
    rows = np.sort(np.random.default_rng(0).choice(3000, 1000, replace=False))
    targets, pool = whitened(target, source, 16)
    for row in (int(rows[3]), next(row for row in range(3000) if row not in rows)):
        near = np.sort(pool[rows[rows != row]] @ pool[row])[::-1][:50].mean()
        expected = np.sort(targets @ pool[row])[::-1][:50].mean() - near
        assert found.pool_scores[row] == pytest.approx(expected, abs=2e-6)
    assert member[found.kept_rows].mean() > 0.6
    config.scoring = "auto"
    blend = select_scored(target, source, config)
    assert any("random sample of 1000 of 3000" in note for note in blend.notes)
    assert member[blend.kept_rows].mean() > 0.6


def test_excluded_rows_are_as_if_they_were_not_there():
    target, source, _ = planted()
    excluded = np.zeros(len(source), bool)
    excluded[::3] = True
    for scoring in ("auto", "density_ratio", "nearest"):
        config = ScoringConfig(scoring=scoring, splits=3)
        found = select_scored(target, source, config, excluded=excluded)
        without = select_scored(target, source[~excluded], config)
        places = np.flatnonzero(~excluded)
        np.testing.assert_array_equal(found.rows, places[without.rows])
        np.testing.assert_array_equal(found.outcomes, without.outcomes)
        np.testing.assert_array_equal(found.pool_scores[~excluded], without.pool_scores)
        assert np.isnan(found.pool_scores[excluded]).all()


def test_vectors_that_are_no_numbers_are_refused():
    target, source, _ = planted()
    for side in (target, source):
        damaged = side.copy()
        damaged[5, 3] = np.nan
        sides = (damaged, source) if side is target else (target, damaged)
        with pytest.raises(VectorError, match=r"rows \[5\]"):
            select_scored(*sides, ScoringConfig())
    with pytest.raises(VectorError, match="beyond"):
        select_scored(target * 1e20, source * 1e20, ScoringConfig())
