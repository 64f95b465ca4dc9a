"""Floor, limits and budget: each alone, and all together as properties of any pool."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.selection.coverage import Images, Limits, Pairs, cover
from lookalike.selection.filters import OUTCOMES, Outcome


@st.composite
def cases(draw):
    count, images = draw(st.integers(1, 6)), draw(st.integers(1, 20))
    random = np.random.default_rng(draw(st.integers(0, 10**6)))
    allowed = random.random(images) < draw(st.sampled_from([0.5, 1.0]))
    allowed[0] = True
    distances = random.integers(0, draw(st.sampled_from([3, 100])), (count, images)).astype(np.float32)
    near = min(draw(st.integers(1, 8)), int(allowed.sum()))
    rows = np.array([[row for row in np.argsort(line, kind="stable") if allowed[row]][:near] for line in distances])
    targets = np.repeat(np.arange(count), near)
    pairs = Pairs(
        targets, rows.ravel(), np.tile(np.arange(1, near + 1, dtype=np.int32), count), distances[targets, rows.ravel()]
    )
    scores = random.integers(0, draw(st.sampled_from([1, 4, 1000])), images).astype(np.float32)
    labels = random.integers(0, draw(st.integers(1, 3)), count)
    limits = Limits(
        draw(st.integers(1, 25)), draw(st.integers(0, 3)), draw(st.sampled_from([0, 0, 3, 5])),
        draw(st.sampled_from([0, 0, 1, 4])), draw(st.integers(1, 8)),
    )  # fmt: skip
    return pairs, Images(scores, distances.argmin(axis=0), distances.min(axis=0), allowed), labels, limits


@settings(max_examples=300, deadline=None)
@given(cases())
def test_every_pair_is_kept_by_the_rules_or_breaks_the_one_that_it_names(case):
    pairs, images, labels, limits = case
    covered = cover(*case)
    outcomes = [OUTCOMES[code] for code in covered.outcomes]
    listed = list(zip(covered.pairs.targets.tolist(), covered.pairs.rows.tolist(), outcomes, strict=True))
    kept = {row: target for target, row, outcome in listed if outcome is Outcome.KEPT}
    of_target = [list(kept.values()).count(target) for target in range(len(labels))]
    of_label = {code: sum(labels[target] == code for target in kept.values()) for code in labels.tolist()}
    # What is kept breaks no rule.
    assert sum(outcome is Outcome.KEPT for outcome in outcomes) == len(kept) <= limits.budget
    assert all(images.allowed[row] for row in kept)
    assert not limits.per_target or max(of_target) <= limits.per_target
    assert not limits.per_label or max(of_label.values()) <= limits.per_label
    assert covered.kept_for.tolist() == of_target
    # What is not kept names a rule that it breaks.
    for target, row, outcome in listed:
        full_target = limits.per_target and of_target[target] >= limits.per_target
        full_label = limits.per_label and of_label[int(labels[target])] >= limits.per_label
        if outcome is Outcome.DUPLICATE:
            assert kept[row] != target
        elif outcome is Outcome.OVER_BUDGET:
            assert row not in kept
            assert len(kept) == limits.budget
            assert not images.scores[row] > covered.cutoff
        elif outcome is Outcome.OVER_TARGET_LIMIT:
            assert row not in kept
            assert full_target
        elif outcome is Outcome.OVER_LABEL_LIMIT:
            assert row not in kept
            assert full_label
        else:
            assert outcome is Outcome.KEPT
    # All pairs that were given are there, and best scores stand first.
    given_pairs = set(zip(pairs.targets.tolist(), pairs.rows.tolist(), strict=True))
    assert given_pairs <= {(target, row) for target, row, _ in listed}
    assert (np.diff(images.scores[covered.pairs.rows]) <= 0).all()
    # An image better than the cutoff is kept, or every target that it could be kept for is full.
    # Where the budget is not used up, this is so for all images.
    for row in np.flatnonzero(images.allowed).tolist():
        if row not in kept and (len(kept) < limits.budget or images.scores[row] > covered.cutoff):
            targets = {target for target, other in given_pairs if other == row} or {int(images.targets[row])}
            for target in targets:
                assert (limits.per_target and of_target[target] >= limits.per_target) or (
                    limits.per_label and of_label[int(labels[target])] >= limits.per_label
                )
    # The floor.
    for target in range(len(labels)):
        own = pairs.rows[(pairs.targets == target) & (pairs.ranks <= limits.candidates)].tolist()
        assert covered.own[target] == sum(row in kept for row in own)
        if covered.own[target] < limits.floor and len(kept) < limits.budget:
            assert (
                all(row in kept for row in own)
                or (limits.per_target and of_target[target] >= limits.per_target)
                or (limits.per_label and of_label[int(labels[target])] >= limits.per_label)
            )


@settings(max_examples=50, deadline=None)
@given(cases(), st.integers(0, 1000))
def test_the_order_of_the_pairs_does_not_matter(case, seed):
    pairs, *rest = case
    mixed = pairs.at(np.random.default_rng(seed).permutation(len(pairs.rows)))
    one, other = cover(pairs, *rest), cover(mixed, *rest)
    np.testing.assert_array_equal(one.outcomes, other.outcomes)
    np.testing.assert_array_equal(one.pairs.rows, other.pairs.rows)
    np.testing.assert_array_equal(one.pairs.targets, other.pairs.targets)


def three():
    """Two targets with two candidates each, and a fifth image that is nobody's but scores best."""
    pairs = Pairs(
        np.array([0, 0, 1, 1]), np.array([0, 1, 2, 3]), np.array([1, 2, 1, 2], np.int32),
        np.array([0.1, 0.2, 0.1, 0.2], np.float32),
    )  # fmt: skip
    scores = np.array([1, 5, 2, 3, 9], np.float32)
    nearest = Images(
        scores, np.array([0, 0, 1, 1, 0]), np.array([0.1, 0.2, 0.1, 0.2, 0.9], np.float32), np.ones(5, bool)
    )
    return pairs, nearest, np.array([0, 1])


def kept(**limits):
    covered = cover(*three(), Limits(**limits))
    chosen = covered.outcomes == OUTCOMES.index(Outcome.KEPT)
    return covered.pairs.rows[chosen].tolist(), covered


def test_each_rule_alone():
    assert kept(budget=2, floor=0)[0] == [4, 1]
    assert kept(budget=2)[0] == [1, 3]  # the floor comes before the best score
    assert kept(budget=3)[0] == [4, 1, 3]
    assert kept(budget=5, floor=2)[0] == [4, 1, 3, 2, 0]
    assert kept(budget=1)[0] == [1]  # best score first, and the second target is not served
    assert kept(budget=1)[1].own.tolist() == [1, 0]
    assert kept(budget=5, per_target=1)[0] == [1, 3]
    assert kept(budget=5, floor=0, per_target=1)[0] == [4, 3]
    assert kept(budget=5, floor=0, per_target=2)[0] == [4, 1, 3, 2]
    assert kept(budget=5, floor=0, per_label=1)[0] == [4, 3]
    assert kept(budget=2, candidates=1)[0] == [2, 0]


def test_an_image_that_came_to_its_turn_without_a_pair_gets_one():
    rows, covered = kept(budget=3)
    assert covered.pairs.rows[0] == 4
    assert (covered.pairs.targets[0], covered.pairs.ranks[0]) == (0, -1)
    assert covered.pairs.distances[0] == np.float32(0.9)
    assert covered.cutoff == 9
    assert len(rows) == 3
