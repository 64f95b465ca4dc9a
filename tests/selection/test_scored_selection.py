"""`select_scored` as a whole: what it finds, what it says, and pools that hardly are any."""

import numpy as np
import pytest

from lookalike.config.schemas import ScoringConfig
from lookalike.errors import ConfigError, VectorError
from lookalike.neighbors.search import nearest_neighbors
from lookalike.selection.choice import BLEND, reason_of, shared
from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.selection.heldout import HeldOut, Option
from lookalike.selection.scored import select_scored
from lookalike.tables.embedding_stream import EmbeddingStream
from support.embeddings import write_embeddings
from support.pools import planted


def precision(found, member):
    return member[found.kept_rows].mean()


def test_auto_finds_what_nearest_does_not():
    target, source, member = planted()
    config = ScoringConfig(budget=40)
    auto = select_scored(target, source, config)
    plain = select_scored(target, source, ScoringConfig(scoring="nearest", budget=40))
    assert precision(plain, member) < 0.25
    assert precision(auto, member) > 0.5
    assert auto.served.all()
    assert auto.choice.option == BLEND
    # The held-out figures are its reason: every candidate, best first, and nearest is one of them.
    figures = [one.log_rank for one in auto.choice.tried]
    assert figures == sorted(figures)
    assert Option("nearest", 0) in [one.option for one in auto.choice.tried]
    assert all(0 <= one.found <= 1 and 1 <= one.rank <= len(source) for one in auto.choice.tried)
    # Without the floor it is at least as precise and serves fewer.
    free = select_scored(target, source, ScoringConfig(budget=40, min_per_target=0))
    assert precision(free, member) >= precision(auto, member)
    assert free.served.sum() <= auto.served.sum()


def test_the_held_out_figures_tell_good_options_from_bad_ones():
    target, source, member = planted(targets=40, members=60)
    auto = select_scored(target, source, ScoringConfig(budget=50))
    found = {}
    for one in auto.choice.tried:
        given = ScoringConfig(
            scoring=one.option.scoring, components=str(one.option.components or "auto"), budget=50, min_per_target=0
        )
        found[one.option] = precision(select_scored(target, source, given), member)
    best = auto.choice.tried[0].option
    assert found[best] >= max(found.values()) - 0.1
    assert found[best] > found[Option("nearest", 0)] + 0.3
    free = select_scored(target, source, ScoringConfig(budget=50, min_per_target=0))
    assert precision(free, member) >= max(found.values()) - 0.05


def test_shares_are_those_of_the_typical_ranks():
    target, source, _ = planted(dimension=140)
    tried = select_scored(target, source, ScoringConfig(splits=4)).choice.tried
    weights = {"nearest": 0.0, "density_ratio": 1.0, "lda": 24 / 60}
    parts = np.array([weights[one.option.scoring] / one.rank ** (24**0.5 / 2) for one in tried])
    parts[parts < max(parts.max() / 10, np.sort(parts)[-5])] = 0
    assert [one.share for one in tried] == pytest.approx(parts / parts.sum(), rel=1e-9)
    assert 2 < np.count_nonzero(parts) < len(parts)


def test_nearest_is_used_where_nothing_else_comes_near():
    near = HeldOut(Option("nearest", 0), np.log(2.0), 0.1, 1.0, 400)
    for rank, expected in ((9.0, [1.0, 0.0]), (3.0, [0.0, 1.0])):
        other = HeldOut(Option("density_ratio", 16), np.log(rank), 0.1, 1.0, 400)
        assert [one.share for one in shared([other, near], 36)] == expected


def test_the_reason_is_true_where_nearest_is_best_and_not_used():
    options = {"nearest": 2.0, "density_ratio": 3.0, "lda": 300.0}
    tried = [
        HeldOut(Option(name, 16 * (name != "nearest")), np.log(rank), 0.1, 1.0, 400) for name, rank in options.items()
    ]
    assert reason_of(shared(tried, 36)) == (
        "no other of 3 options but nearest found hidden targets nearly as well: typical rank of a hidden target 3 "
        "among 400 pool images with density_ratio, 16 components, 300 with the worst option and 2 with nearest, which "
        "cannot be blended"
    )
    assert reason_of(shared(tried[1:], 36)).startswith(
        "no other of 2 options found hidden targets nearly as well: typical rank"
    )


def test_a_part_is_enough_where_there_is_very_much(monkeypatch):
    target, source, member = planted(targets=60, members=60)
    whole = select_scored(target, source, ScoringConfig(budget=50))
    monkeypatch.setattr("lookalike.selection.heldout._MOST_RANKED", 200)
    part = select_scored(target, source, ScoringConfig(budget=50))
    assert {one.among for one in whole.choice.tried} == {600}
    assert {one.among for one in part.choice.tried} == {200}
    for one in part.choice.tried:
        other = next(other for other in whole.choice.tried if other.option == one.option)
        assert one.rank / 200 == pytest.approx(other.rank / 600, rel=0.8)
        assert one.found == pytest.approx(other.found, abs=0.2)
    monkeypatch.setattr("lookalike.selection.heldout._MOST_TARGETS", 30)
    fewer = select_scored(target, source, ScoringConfig(budget=50))
    assert fewer.choice != part.choice
    assert precision(fewer, member) > 0.5


def test_plain_nearest_widens_rank_by_rank():
    target, source, _ = planted()
    found = select_scored(target, source, ScoringConfig(scoring="nearest", min_per_target=0))
    top = nearest_neighbors(target, source, 5, "cosine").rows
    assert found.budget == len(np.unique(top)) == len(found.kept_rows)
    assert set(found.kept_rows) == set(top.ravel())
    wide = select_scored(target, source, ScoringConfig(scoring="nearest", min_per_target=0, budget=500))
    assert len(wide.kept_rows) == 500
    assert set(found.kept_rows) <= set(wide.kept_rows)
    best = {row: 1 / rank for row, rank in zip(found.rows[::-1], found.ranks[::-1], strict=True)}
    for row, rank in zip(found.rows, found.ranks, strict=True):
        best[row] = max(best[row], 1 / rank)
    assert all(found.pool_scores[row] == np.float32(score) for row, score in best.items())


def test_distances_and_ranks_are_those_of_the_search():
    target, source, _ = planted()
    for metric in ("cosine", "euclidean", "manhattan"):
        config = ScoringConfig(knn_metric=metric, scoring="density_ratio", components="16", candidates=10)
        found = select_scored(target, source, config)
        neighbours = nearest_neighbors(target, source, 10, metric)
        listed = found.ranks > 0
        assert listed.sum() == neighbours.rows.size
        places = (found.targets[listed], found.ranks[listed] - 1)
        np.testing.assert_array_equal(neighbours.rows[places], found.rows[listed])
        np.testing.assert_array_equal(neighbours.distances[places], found.distances[listed])
        # An image that is no target's neighbour stands with its nearest target.
        every = nearest_neighbors(source[found.rows[~listed]], target, 1, metric)
        np.testing.assert_array_equal(every.rows[:, 0], found.targets[~listed])
        np.testing.assert_allclose(every.distances[:, 0], found.distances[~listed], rtol=1e-6, atol=1e-7)
        assert (~listed).any()


def test_the_same_from_a_table(tmp_path):
    target, source, _ = planted()
    pool = EmbeddingStream(str(write_embeddings(tmp_path / "pool.parquet", source, row_group_size=70)), "embedding")
    targets = EmbeddingStream(str(write_embeddings(tmp_path / "targets.parquet", target)), "embedding")
    config = ScoringConfig(splits=3)
    one, other = select_scored(target, source, config), select_scored(targets, pool, config)
    for name in ("targets", "rows", "ranks", "distances", "scores", "outcomes"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_budgets_and_limits():
    target, source, _ = planted()
    assert len(select_scored(target, source, ScoringConfig(scoring="lda", budget=0.1)).kept_rows) == 60
    everything = select_scored(target, source, ScoringConfig(scoring="lda", budget=10_000))
    assert len(everything.kept_rows) == len(source)
    assert any("clamped to 600" in note for note in everything.notes)
    few = select_scored(target, source, ScoringConfig(scoring="lda", budget=200, max_per_target=2))
    assert few.kept_for.max() == 2
    assert few.count(Outcome.OVER_TARGET_LIMIT) > 0
    labels = ["a", " A ", *"b" * (len(target) - 2)]
    limited = select_scored(
        target, source, ScoringConfig(scoring="lda", budget=200, max_per_label=7), target_labels=labels
    )
    assert len(limited.kept_rows) <= 14
    assert limited.kept_for[:2].sum() <= 7
    assert any("the limits allow no more" in note for note in limited.notes)
    short = select_scored(target, source, ScoringConfig(scoring="lda", budget=3))
    assert any("fewer than min_per_target=1" in note for note in short.notes)
    assert not short.served.all()


def test_too_few_targets_to_choose():
    target, source, _ = planted(targets=9)
    found = select_scored(target, source, ScoringConfig())
    assert not found.choice.tried
    assert found.choice.option.scoring == "density_ratio"
    assert any("9 targets are too few" in note for note in found.notes)
    weights = np.r_[np.ones(8), np.zeros(16)]
    weighted = select_scored(*planted()[:2], ScoringConfig(), target_weights=weights)
    assert any("8 targets are too few" in note for note in weighted.notes)


def test_settings_leave_open_what_they_leave_open():
    target, source, _ = planted()
    found = select_scored(target, source, ScoringConfig(scoring="lda", splits=3))
    assert {one.option.scoring for one in found.choice.tried} <= {"lda"}
    fixed = select_scored(target, source, ScoringConfig(components="7", splits=3))
    assert {one.option for one in fixed.choice.tried} == {
        Option("nearest", 0), Option("density_ratio", 7), Option("lda", 7),
    }  # fmt: skip
    many = select_scored(target, source, ScoringConfig(scoring="lda", components="999"))
    assert many.choice.option == Option("lda", 24)
    assert any("components=999 is more than the pool has: 24" in note for note in many.notes)


def test_the_seed_decides():
    target, source, _ = planted()
    one, same, other = (select_scored(target, source, ScoringConfig(seed=seed, splits=2)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(one.kept_rows, same.kept_rows)
    assert one.choice == same.choice != other.choice


SCORINGS = ["auto", "nearest", "density_ratio", "lda"]


@pytest.mark.parametrize("scoring", SCORINGS)
def test_pools_that_hardly_are_any(scoring):
    random = np.random.default_rng(0)
    target = random.standard_normal((12, 6))
    pools = {
        "all equal": np.ones((40, 6)),
        "all zero": np.zeros((40, 6)),
        "one image": random.standard_normal((1, 6)),
        "two images": random.standard_normal((2, 6)),
        "fewer rows than components": random.standard_normal((4, 6)),
        "every image a target": target.copy(),
        "every image many times": np.repeat(random.standard_normal((5, 6)), 30, axis=0),
        "one component": np.outer(random.standard_normal(50), np.ones(6)),
        "tiny values": random.standard_normal((50, 6)) * 1e-30,
        "an offset far larger than what differs": 1e6 + random.standard_normal((50, 6)),
    }
    for name, pool in pools.items():
        for targets in (target, target[:1]):
            found = select_scored(targets, pool, ScoringConfig(scoring=scoring, splits=2))
            assert 1 <= len(found.kept_rows) == len(np.unique(found.kept_rows)) == found.budget, name
            assert np.isfinite(found.pool_scores).all(), name
            assert {OUTCOMES[code] for code in found.outcomes} <= {
                Outcome.KEPT, Outcome.DUPLICATE, Outcome.OVER_BUDGET,
            }, name  # fmt: skip
            if name in ("all equal", "all zero", "one image") and scoring != "nearest":
                assert found.choice.option.scoring == "nearest"
                assert any("do not differ" in note for note in found.notes)


def test_what_cannot_be_is_refused():
    target, source, _ = planted()
    with pytest.raises(VectorError, match="24 dimensions"):
        select_scored(target, source[:, :5], ScoringConfig())
    with pytest.raises(VectorError, match="no targets"):
        select_scored(target[:0], source, ScoringConfig())
    with pytest.raises(VectorError, match="no row that may be mined"):
        select_scored(target, source, ScoringConfig(), excluded=np.ones(len(source), bool))
    with pytest.raises(ConfigError, match="excluded"):
        select_scored(target, source, ScoringConfig(), excluded=np.ones(3, bool))
    with pytest.raises(ConfigError, match="max_per_label"):
        select_scored(target, source, ScoringConfig(max_per_label=2))
    with pytest.raises(ConfigError, match="labels"):
        select_scored(target, source, ScoringConfig(max_per_label=2), target_labels=["a"])


@pytest.mark.parametrize(
    "wrong",
    [
        {"scoring": "best"}, {"components": "0"}, {"components": "many"}, {"budget": -1}, {"budget": 2.5},
        {"budget": float("nan")}, {"budget": float("inf")}, {"candidates": 0}, {"min_per_target": -1},
        {"min_per_target": 21}, {"max_per_target": 1, "min_per_target": 2}, {"splits": 1}, {"background": 10},
        {"seed": -1}, {"topn": 0}, {"knn_metric": "jaccard"}, {"memory_limit": 5},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_right_are_refused(wrong):
    with pytest.raises(ConfigError):
        select_scored(*planted()[:2], ScoringConfig(**wrong))
