"""The held-out figures against their definition, written once more with plain loops."""

import numpy as np
import pytest

from lookalike.config.schemas import ScoringConfig
from lookalike.selection.arithmetic import HostArithmetic
from lookalike.selection.heldout import Option, Sample, hide
from lookalike.selection.scored import select_scored
from support.pools import planted

SPLITS, SEED, BUDGET, NEAR = 4, 5, 30, 50


def units(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def best_mean(cosines, weights=None):
    near = np.argsort(-cosines)[:NEAR]
    return (cosines[near] * (1 if weights is None else weights[near])).mean()


def scores_of(option, image, visible, weights, others):
    """Of one image: `others` are all images of the pool but itself."""
    if option.scoring == "lda":
        return image @ (weights[:, None] * visible).sum(axis=0)
    return best_mean(visible @ image, weights / weights.mean()) - best_mean(others @ image)


def by_nearest(targets, pool, hidden, visible):
    """The best rank of every image among the pool, over the visible targets."""
    cosines = units(pool) @ units(targets).T
    own = units(targets) @ units(targets).T
    of_pool = [min((cosines[:, t] > cosines[i, t]).sum() for t in visible) for i in range(len(pool))]
    of_hidden = [min((cosines[:, t] > own[h, t]).sum() for t in visible) for h in hidden]
    return -np.array(of_pool), -np.array(of_hidden)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_figures_are_those_of_the_definition(weighted):
    targets, pool, _ = planted(targets=13, pool=130, members=15, dimension=20)
    weights = np.r_[1.0, 3.0, np.ones(10), 2.0] if weighted else np.ones(13)
    config = ScoringConfig(splits=SPLITS, seed=SEED, budget=BUDGET)
    found = select_scored(targets, pool, config, target_weights=weights if weighted else None)
    # The space is that of the pool and all targets.
    both = np.concatenate([pool, targets]).astype(float)
    _, singular, axes = np.linalg.svd(both - both.mean(axis=0), full_matrices=False)
    random = np.random.default_rng(SEED)
    drawn = [random.permutation(13) for _ in range(SPLITS)]
    assert len(found.choice.tried) == 3  # 16 of 20 components, for two scorings, and nearest
    for tried in found.choice.tried:
        d = tried.option.components
        space = units((both - both.mean(axis=0)) @ axes[:d].T / singular[:d]) if d else None
        figures, shares = [], []
        for order in drawn:
            hidden, visible = order[:6], order[6:]
            if tried.option.scoring == "nearest":
                of_pool, of_hidden = by_nearest(targets.astype(float), pool.astype(float), hidden, visible)
            else:
                whole = np.concatenate([space[:130], space[130:][hidden]])
                of_all = np.array([
                    scores_of(
                        tried.option, image, space[130:][visible], weights[visible], np.delete(whole, number, axis=0)
                    )
                    for number, image in enumerate(whole)
                ])  # fmt: skip
                of_pool, of_hidden = of_all[:130], of_all[130:]
            ranks = [1 + (of_pool > one).sum() + (of_pool == one).sum() / 2 for one in of_hidden]
            figures.append(np.average(np.log(ranks), weights=weights[hidden]))
            shares.append(np.average(np.array(ranks) <= BUDGET, weights=weights[hidden]))
        assert tried.log_rank == pytest.approx(np.mean(figures), abs=1e-3)
        assert tried.spread == pytest.approx(np.std(figures), abs=1e-3)
        assert tried.found == pytest.approx(np.mean(shares), abs=1e-3)


def test_the_ranks_of_a_blend_are_those_of_its_definition():
    """The mean, by their shares, of scores that have a mean of 0 and a deviation of 1 over the pool."""
    targets, pool, _ = planted(targets=13, pool=130, members=15, dimension=20)
    arithmetic = HostArithmetic(["cpu"])
    sample = Sample(pool, targets, pool, targets, np.ones(13), np.arange(130))
    hidden = hide(sample, SPLITS, SEED)
    shares = {Option("lda", 16): 0.25, Option("density_ratio", 8): 0.75}
    found = hidden.blended_ranks(shares, arithmetic)
    for half, ranks in zip(hidden.halves, found, strict=True):
        total = np.zeros(130 + len(half.hidden))
        for option, share in shares.items():
            space = [units(side[:, : option.components].astype(float)) for side in (pool, targets)]
            whole = np.concatenate([space[0], space[1][half.hidden]])
            scores = np.array([
                scores_of(option, image, space[1][half.visible], np.ones(len(half.visible)),
                          np.delete(whole, number, axis=0))
                for number, image in enumerate(whole)
            ])  # fmt: skip
            total += share * (scores - scores[:130].mean()) / scores[:130].std()
        np.testing.assert_array_equal(ranks, [1 + (total[:130] > one).sum() for one in total[130:]])
    alone = hidden.blended_ranks({Option("lda", 16): 1.0}, arithmetic)
    for one, other in zip(alone, hidden.ranks(Option("lda", 16), "cosine", arithmetic), strict=True):
        np.testing.assert_array_equal(one, other)
