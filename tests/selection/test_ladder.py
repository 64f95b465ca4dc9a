"""A ladder counts what every rung would keep, from one search; each rung is what mining with its settings gives."""

import numpy as np
import pyarrow.parquet as pq
import pytest

from lookalike.config.schemas import ScoringConfig
from lookalike.selection import scored as scored_module
from lookalike.selection.given import check_given
from lookalike.selection.ladder import Rung, ladder
from lookalike.selection.scored import select_scored
from lookalike.workflow.mining import mine
from support.embeddings import write_embeddings
from support.pools import planted

LABELS = (["a"] * 7 + ["b"] * 7, ["a", "b", "c"] * 100)


def given_of(targets, pool, settings, labels=None, **more):
    left, right = labels or (None, None)
    values = {"target_weights": None, "excluded": None, "keys": None, "avoid": None, **more}
    return check_given(targets, pool, settings, values["target_weights"], left, values["excluded"],
                       right if settings.filters_by_label else None, values["keys"], values["avoid"])  # fmt: skip


@pytest.mark.parametrize(
    "rules",
    [
        {}, {"scoring": "nearest"}, {"scoring": "lda", "components": "8", "max_per_target": 3},
        {"dedup_threshold": 0.05, "min_similarity": 0.2}, {"diversity": 0.5, "filter_by_label": "true"},
    ],
    ids=str,
)  # fmt: skip
def test_every_scored_rung_is_a_selection_of_its_own(rules):
    targets, pool, _ = planted(targets=14, pool=300)
    settings = ScoringConfig(**{"components": "8", **rules})
    keys, excluded = np.arange(300) // 2, np.arange(300) % 7 == 0
    rungs = [
        Rung(True, topn, budget, threshold) for topn in (1, 5, 25) for budget in (0, 9, 0.1) for threshold in (-1, 0.3)
    ]
    weights = np.arange(14) + 1
    found = ladder(
        given_of(targets, pool, settings, LABELS, keys=keys, excluded=excluded, target_weights=weights), settings, rungs
    )
    assert [one.rung for one in found.yields] == rungs
    for one in found.yields:
        rung = one.rung
        alone = ScoringConfig(
            **{"components": "8", **rules, "topn": rung.topn, "budget": rung.budget,
               "distance_threshold": rung.threshold}
        )  # fmt: skip
        single = select_scored(
            targets, pool, alone, target_labels=LABELS[0], pool_labels=LABELS[1], keys=keys, excluded=excluded,
            target_weights=weights,
        )  # fmt: skip
        assert (one.budget, one.images, one.served) == (single.budget, len(single.kept_rows), single.served.sum())
        assert found.choice.option == single.choice.option


@pytest.mark.parametrize(
    "settings", [{}, {"distance_threshold": 0.3}, {"filter_by_label": True}, {"min_similarity": 0.6}]
)
def test_every_rung_by_distance_is_what_mining_gives(settings, tmp_path):
    targets, pool, _ = planted(targets=14, pool=300)
    write_embeddings(tmp_path / "t.parquet", targets, labels=LABELS[0])
    write_embeddings(tmp_path / "p.parquet", pool, labels=LABELS[1])
    by_label = bool(settings.get("filter_by_label"))
    scored = ScoringConfig(filter_by_label=str(by_label).lower(), min_similarity=settings.get("min_similarity", -1.0))
    rungs = [Rung(False, topn, 0, settings.get("distance_threshold", -1.0)) for topn in (1, 3, 30)]
    found = ladder(given_of(targets, pool, scored, LABELS), scored, rungs, same_label=by_label)
    assert found.choice is None
    for one in found.yields:
        mined = mine(tmp_path / "p.parquet", tmp_path / "t.parquet", tmp_path / "m.parquet", topn=one.rung.topn,
                     knn_metric="cosine", **settings)  # fmt: skip
        assert one.images == mined.counts.unique
        assert one.images == pq.read_table(mined.path).num_rows


def test_one_search_and_one_choice_serve_all(monkeypatch):
    calls = []
    real = scored_module.search
    monkeypatch.setattr(scored_module, "search", lambda *given: calls.append(given) or real(*given))
    targets, pool, _ = planted(targets=14, pool=300)
    settings = ScoringConfig()
    rungs = [Rung(scored, topn, 0, -1.0) for scored in (True, False) for topn in (1, 2, 40)]
    found = ladder(given_of(targets, pool, settings), settings, rungs, shares=(0.5,))
    assert len(calls) == 1
    assert len(found.yields) == 7
    threshold = found.yields[-1].rung.threshold
    assert 0 < threshold < 1
    assert found.yields[-1].images <= found.yields[0].images


def test_what_several_rungs_meet_is_said_once():
    targets, pool, _ = planted(targets=14, pool=300)
    settings = ScoringConfig(scoring="lda", components="8", budget=1000)
    rungs = [Rung(True, 5, 1000, -1.0), Rung(True, 5, 1000, 0.3)]
    found = ladder(given_of(targets, pool, settings), settings, rungs)
    assert sum("clamped to 300" in note for note in found.notes) == 1


def test_pools_that_hardly_are_any():
    for targets, pool in ((np.ones((1, 3)), np.ones((1, 3))), (np.ones((2, 3)), np.ones((5, 3)))):
        settings = ScoringConfig()
        rungs = [Rung(scored, topn, 0, -1.0) for scored in (True, False) for topn in (1, 20)]
        found = ladder(given_of(targets, pool, settings), settings, rungs, shares=(0.9, 0.5))
        assert all(0 <= one.images <= len(pool) for one in found.yields)
