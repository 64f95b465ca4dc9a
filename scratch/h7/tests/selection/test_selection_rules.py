"""The rules of `select_scored`, all together on any pool: what is kept breaks none, what is not names one it breaks."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.config.schemas import ScoringConfig
from lookalike.errors import ConfigError, VectorError
from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.selection.scored import select_scored
from support.pools import RaggedSide, planted

#: What of a result must not depend on how the pool is read.
ARRAYS = (
    "targets", "rows", "ranks", "distances", "scores", "outcomes", "own", "kept_for", "groups", "instead",
    "pool_scores", "pool_outcomes", "pool_targets", "pool_distances", "pool_instead", "pool_groups",
)  # fmt: skip
#: Rounding that the plain NumPy distances of this file may have.
SLACK = 2e-6


def cosine_distances(left, right):
    left, right = (np.asarray(side, float) for side in (left, right))
    left, right = (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-300) for side in (left, right))
    return 1 - left @ right.T


@st.composite
def cases(draw):
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    count, rows, dimension = draw(st.integers(1, 5)), draw(st.integers(2, 50)), 5
    # A few centres with images close to them, some exactly equal: there is something to collapse.
    centres = random.standard_normal((draw(st.integers(2, 12)), dimension)) + draw(st.sampled_from([0.0, 2.0]))
    noise = draw(st.sampled_from([0.05, 0.5]))
    pool = centres[random.integers(0, len(centres), rows)] + noise * random.standard_normal((rows, dimension))
    copies = random.integers(0, rows, rows // 4)
    pool[copies] = pool[random.integers(0, rows, len(copies))]
    targets = centres[random.integers(0, len(centres), count)] + noise * random.standard_normal((count, dimension))
    excluded = random.random(rows) < draw(st.sampled_from([0.0, 0.3]))
    excluded[0] = False
    labels = draw(st.sampled_from([0, 2, 3]))
    config = ScoringConfig(
        scoring=draw(st.sampled_from(["nearest", "lda", "density_ratio"])),
        components="4",
        knn_metric=draw(st.sampled_from(["cosine", "euclidean"])),
        candidates=draw(st.integers(1, 10)),
        topn=3,
        budget=draw(st.sampled_from([0, 1, 3, 10, 30])),
        min_per_target=draw(st.sampled_from([0, 1])),
        max_per_target=draw(st.sampled_from([0, 0, 3])),
        max_per_label=draw(st.sampled_from([0, 0, 4])),
        filter_by_label="yes" if labels and draw(st.booleans()) else "false",
        distance_threshold=draw(st.sampled_from([-1, -1, 0.3, 1.0])),
        min_similarity=draw(st.sampled_from([-1, -1, 0.3, 0.8])),
        dedup_threshold=draw(st.sampled_from([-1, 0, 0.02, 0.2])),
        diversity=draw(st.sampled_from([0, 0, 0.4, 1])),
        diversity_method=draw(st.sampled_from(["mmr", "facility_location"])),
    )
    names = np.array(["a", "B ", "c"])
    given = {
        "excluded": excluded,
        "target_labels": names[random.integers(0, max(labels, 1), count)].tolist(),
        "pool_labels": np.char.upper(names[random.integers(0, max(labels, 1), rows)]).tolist(),
        "keys": random.integers(0, rows, rows) if draw(st.booleans()) else None,
        "avoid": centres[:2] if draw(st.booleans()) else None,
    }
    return targets.astype(np.float32), pool.astype(np.float32), config, given


@settings(max_examples=250, deadline=None)
@given(cases())
def test_a_kept_row_breaks_no_rule_and_every_other_names_one_that_it_breaks(case):
    targets, pool, config, given_ = case
    found = select_scored(targets, pool, config, **given_)
    outcomes = [OUTCOMES[code] for code in found.pool_outcomes]
    kept = np.flatnonzero(found.pool_outcomes == 0)
    labels = [np.array([text.strip().upper() for text in given_[f"{side}_labels"]]) for side in ("target", "pool")]
    same = labels[0][:, None] == labels[1][None, :] if config.filters_by_label else np.ones((len(targets), len(pool)))
    cosine = cosine_distances(targets, pool)
    distances = cosine if config.knn_metric == "cosine" else np.linalg.norm(targets[:, None] - pool[None], axis=2)
    own = np.where(same, distances, np.inf)
    keys = np.arange(len(pool)) if given_["keys"] is None else given_["keys"]
    threshold = config.distance_threshold if config.distance_threshold >= 0 else np.inf
    among = cosine_distances(pool, pool)
    avoided = np.zeros(len(pool), bool)
    if given_["avoid"] is not None and config.scoring == "nearest":
        to_avoid = given_["avoid"].astype(np.float32)
        measure = (
            cosine_distances(to_avoid, pool)
            if config.knn_metric == "cosine"
            else np.linalg.norm(to_avoid[:, None] - pool[None], axis=2)
        )
        avoided = distances.min(axis=0) - measure.min(axis=0)

    # Both views of the result agree.
    listed = found.outcomes == 0
    assert sorted(found.rows[listed]) == kept.tolist()
    assert len(kept) == len(found.kept_rows) <= found.budget
    np.testing.assert_array_equal(found.pool_instead[kept], kept)
    # What is kept breaks no rule.
    assert len(np.unique(keys[kept])) == len(kept)
    assert not given_["excluded"][kept].any()
    for target, row in zip(found.targets[listed], found.rows[listed], strict=True):
        assert same[target, row]
        assert distances[target, row] <= threshold + SLACK
    assert (1 - cosine.min(axis=0)[kept] >= config.min_similarity - SLACK).all()
    assert (avoided[kept] <= SLACK).all()
    if config.dedup_threshold >= 0:
        near = among[np.ix_(kept, kept)] <= config.dedup_threshold - SLACK
        np.fill_diagonal(near, False)
        assert not near.any()
        assert len({pool[row].tobytes() for row in kept}) == len(kept)
    if config.max_per_target:
        assert found.kept_for.max() <= config.max_per_target
    # What is not kept names a rule that it breaks.
    full = found.kept_for >= (config.max_per_target or 10**9)
    of_label = np.array([found.kept_for[labels[0] == label].sum() for label in labels[0]])
    for row, outcome in enumerate(outcomes):
        instead = found.pool_instead[row]
        if outcome is Outcome.EXCLUDED:
            assert given_["excluded"][row]
        elif outcome is Outcome.LABEL_MISMATCH:
            assert not same[:, row].any()
        elif outcome is Outcome.OVER_DISTANCE:
            assert own[:, row].min() > threshold - SLACK
        elif outcome is Outcome.UNDER_SIMILARITY:
            assert 1 - cosine[:, row].min() < config.min_similarity + SLACK
        elif outcome is Outcome.AVOIDED:
            assert avoided[row] > -SLACK
        elif outcome is Outcome.DUPLICATE:
            assert keys[row] == keys[instead]
            assert outcomes[instead] is Outcome.KEPT
        elif outcome is Outcome.NEAR_DUPLICATE:
            assert keys[row] != keys[instead]
            assert outcomes[instead] is Outcome.KEPT
            # Linked by a chain within the group; a row that was not looked at is there by its path.
            if found.pool_groups[row] >= 0:
                assert is_chained(row, instead, found.pool_groups, among, keys, config.dedup_threshold, pool)
            else:
                assert keys[row] in keys[found.pool_groups == found.pool_groups[instead]]
        elif outcome is Outcome.OVER_BUDGET:
            assert len(kept) == found.budget
            assert not found.pool_scores[row] > found.cutoff
        elif outcome is Outcome.LESS_DIVERSE:
            assert config.diversity
            assert len(kept) == found.budget
        elif outcome is Outcome.OVER_TARGET_LIMIT:
            assert full.any()
        elif outcome is Outcome.OVER_LABEL_LIMIT:
            assert (of_label >= config.max_per_label).any()
            assert config.max_per_label
    # Every pair that is listed and not kept names a rule, too.
    for target, row, code in zip(found.targets, found.rows, found.outcomes, strict=True):
        if OUTCOMES[code] is Outcome.OVER_DISTANCE:
            assert distances[target, row] > threshold - SLACK
        elif OUTCOMES[code] in (Outcome.DUPLICATE, Outcome.NEAR_DUPLICATE):
            assert found.pool_instead[row] >= 0
        elif OUTCOMES[code] is not Outcome.KEPT:
            assert OUTCOMES[code] is outcomes[row] or row not in kept
    # The nearest target.
    there = ~given_["excluded"]
    nearest = np.where(np.isfinite(own.min(axis=0)), own.min(axis=0), distances.min(axis=0))
    np.testing.assert_allclose(found.pool_distances[there], nearest[there], atol=1e-5)
    assert (found.pool_targets[~there] == -1).all()
    # The same again, whatever the pieces are that the pool comes in.
    other = select_scored(targets, RaggedSide(pool, [3, 1, 20]), config, **given_)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(found, name), getattr(other, name), err_msg=name)


def is_chained(row, other, groups, among, keys, threshold, pool):
    members = np.flatnonzero(groups == groups[row])
    assert other in members
    links = among[np.ix_(members, members)] <= threshold + SLACK
    links |= keys[members][:, None] == keys[members]
    links |= (pool[members][:, None] == pool[members]).all(axis=2)
    reached = members == row
    for _ in members:
        reached |= links[reached].any(axis=0)
    return bool(reached[members == other][0])


def test_labels_that_must_agree_are_searched_within_and_refilled():
    target, source, _ = planted()
    labels = np.arange(len(source)) % 3
    config = ScoringConfig(scoring="nearest", budget=60, filter_by_label="yes", candidates=7)
    found = select_scored(target, source, config, target_labels=np.ones(len(target), int), pool_labels=labels)
    assert (labels[found.kept_rows] == 1).all()
    assert len(found.kept_rows) == 60
    # Every target has its full list among the images of its label, and their ranks are within it.
    alone = select_scored(
        target, source, ScoringConfig(scoring="nearest", budget=60, candidates=7), excluded=labels != 1
    )
    np.testing.assert_array_equal(found.kept_rows, alone.kept_rows)
    np.testing.assert_array_equal(found.ranks, alone.ranks)
    assert (found.pool_outcomes[labels != 1] == OUTCOMES.index(Outcome.LABEL_MISMATCH)).all()
    assert (found.pool_targets[labels != 1] >= 0).all()
    # As texts they agree without case and blanks; numbers on one side are texts, too.
    texts = select_scored(
        target, source, config, target_labels=[" 1"] * len(target), pool_labels=[f"{label} " for label in labels]
    )
    np.testing.assert_array_equal(found.kept_rows, texts.kept_rows)


def test_the_nearest_target_is_that_of_the_label():
    target = np.array([[1, 0], [0, 1]], np.float32)
    pool = np.array([[1, 0.1], [0.1, 1], [1, 0.2]], np.float32)
    given_ = {"target_labels": ["x", "y"], "pool_labels": ["y", "y", "x"]}
    found = select_scored(target, pool, ScoringConfig(scoring="nearest", filter_by_label="true"), **given_)
    assert found.pool_targets.tolist() == [1, 1, 0]
    far = ScoringConfig(scoring="nearest", filter_by_label="true", distance_threshold=0.5, budget=3)
    found = select_scored(target, pool, far, **given_)
    assert [OUTCOMES[code] for code in found.pool_outcomes] == [Outcome.OVER_DISTANCE, Outcome.KEPT, Outcome.KEPT]
    # The labels differ, and nothing asks.
    assert len(select_scored(target, pool, ScoringConfig(scoring="nearest", budget=3), **given_).kept_rows) == 3


def test_what_a_threshold_drops_is_refilled_within_it():
    target, source, _ = planted()
    free = select_scored(target, source, ScoringConfig(scoring="lda", components="16", budget=100))
    limit = float(np.median(free.pool_distances))
    found = select_scored(
        target, source, ScoringConfig(scoring="lda", components="16", budget=100, distance_threshold=limit)
    )
    assert len(found.kept_rows) == 100
    assert set(found.kept_rows) != set(free.kept_rows)
    assert (found.distances[found.kept] <= np.float32(limit)).all()
    # As many images are within the threshold as the threshold is a median for, and then no more are kept.
    every = select_scored(
        target, source, ScoringConfig(scoring="lda", components="16", budget=600, distance_threshold=limit)
    )
    assert set(every.kept_rows) == set(np.flatnonzero(free.pool_distances <= np.float32(limit)))
    assert any("of a budget of 600" in note for note in every.notes)


def test_a_path_is_kept_once_and_serves_the_targets_of_all_its_rows():
    random = np.random.default_rng(0)
    pool = random.standard_normal((60, 6)).astype(np.float32)
    pool = np.concatenate([pool, pool])
    keys = np.tile(np.arange(60) * 10**12, 2)
    target = pool[:20] + 0.01
    found = select_scored(target, pool, ScoringConfig(scoring="nearest", candidates=1, budget=20), keys=keys)
    assert sorted(found.kept_rows) == list(range(20))
    assert found.served.all()
    copies = found.pool_outcomes[60:80] == OUTCOMES.index(Outcome.DUPLICATE)
    assert copies.all()
    np.testing.assert_array_equal(found.pool_instead[60:80], np.arange(20))
    # The budget that is not given counts paths.
    free = select_scored(target, pool, ScoringConfig(scoring="nearest", topn=4), keys=keys)
    single = select_scored(target, pool[:60], ScoringConfig(scoring="nearest", topn=2))
    assert free.budget == single.budget


def test_wrong_arguments_are_refused():
    target, source, _ = planted()
    labels = {"target_labels": ["a"] * len(target)}
    with pytest.raises(ConfigError, match="the pool has none"):
        select_scored(target, source, ScoringConfig(filter_by_label="1"), **labels)
    with pytest.raises(ConfigError, match="the targets have none"):
        select_scored(target, source, ScoringConfig(filter_by_label="1"), pool_labels=["a"] * len(source))
    with pytest.raises(ConfigError, match="600 rows of the pool and 1 labels"):
        select_scored(target, source, ScoringConfig(filter_by_label="1"), pool_labels=["a"], **labels)
    with pytest.raises(ConfigError, match="keys have shape"):
        select_scored(target, source, ScoringConfig(), keys=[1, 2])
    with pytest.raises(ConfigError, match="keys have"):
        select_scored(target, source, ScoringConfig(), keys=np.ones(len(source)))
    with pytest.raises(VectorError, match="to avoid have 5 dimensions"):
        select_scored(target, source, ScoringConfig(), avoid=source[:, :5])


@pytest.mark.parametrize(
    "wrong",
    [
        {"distance_threshold": float("nan")}, {"min_similarity": 1.5}, {"min_similarity": float("nan")},
        {"dedup_threshold": -0.5}, {"dedup_threshold": 2.5}, {"dedup_threshold": float("nan")}, {"diversity": 1.1},
        {"diversity": float("nan")}, {"diversity_method": "random"}, {"avoid_weight": -1},
        {"avoid_weight": float("inf")},
    ],
    ids=str,
)  # fmt: skip
def test_settings_of_rules_that_cannot_be_right_are_refused(wrong):
    with pytest.raises(ConfigError):
        ScoringConfig(**wrong).validate()
