"""The report of a default run: images scored, the targets left out, a budget; and of runs that leave images out."""

import re
import shlex

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

import lookalike
from lookalike.reports.report import write_report
from support.embeddings import identity, write_embeddings
from support.recommended import mined_by, recommended
from support.report_contract import check_report, sections, table
from support.runs import make_run


def near(targets, pool, dimension=16, alike=30):
    """Targets, and a pool whose first images are like them."""
    random = np.random.default_rng(0)
    shift = np.r_[np.full(3, 4.0), np.zeros(dimension - 3)]
    vectors = random.standard_normal((targets, dimension)) + shift, random.standard_normal((pool, dimension))
    vectors[1][:alike] += shift
    return vectors


def paths(targets, pool):
    return {
        "target_paths": [f"/nowhere/t{number}.png" for number in range(targets)],
        "pool_paths": [f"/nowhere/p{number}.png" for number in range(pool)],
    }


def scored(place, targets=12, pool=120, vectors=None, **settings):
    return make_run(place, **paths(targets, pool), vectors=vectors or near(targets, pool),
                    **{"scoring": "auto", "topn": 2, **settings})  # fmt: skip


def report_of(folder):
    text = write_report(folder).read_text(encoding="utf-8")
    check_report(text)
    return text


@pytest.fixture(scope="module")
def protected(tmp_path_factory):
    """Inputs of a run: the targets are in the pool, and ten of its images are of the evaluation set."""
    place = tmp_path_factory.mktemp("protected")
    random = np.random.default_rng(0)
    targets, pool = random.standard_normal((12, 32)), random.standard_normal((108, 32))
    pool[:10] = targets[:10] + 0.3 * random.standard_normal((10, 32))
    who, named = identity(dimension=32), paths(12, 108)
    write_embeddings(place / "targets.parquet", targets, filepaths=named["target_paths"], who=who)
    everything = [*named["pool_paths"], *named["target_paths"]]
    write_embeddings(place / "pool.parquet", np.r_[pool, targets], filepaths=everything, who=who)
    pq.write_table(pq.read_table(place / "pool.parquet").slice(0, 10), place / "protect.parquet")
    return place, {*named["pool_paths"][:10], *named["target_paths"]}


@pytest.mark.parametrize("settings", [{}, {"scoring": "nearest"}, {"budget": 20, "distance_threshold": 0.0}])
def test_no_recommended_search_brings_back_what_was_left_out(settings, protected, tmp_path):
    place, barred = protected
    done = lookalike.run(
        str(place / "targets.parquet"), str(place / "pool.parquet"), protect=str(place / "protect.parquet"),
        run_dir=str(tmp_path / "run"), topn=2, leak_reads=0, **settings,
    )  # fmt: skip
    text = done.report.read_text(encoding="utf-8")
    found = recommended(check_report(text)["Recommended Actions"])
    assert found
    for settings_again in found:
        got = mined_by(settings_again)
        assert got
        assert not got & barred
    left_out = done.counts.excluded
    assert left_out >= len(barred)
    assert f"searched {120 - left_out} pool images ({left_out} others were left out: " in text


def test_a_recommended_search_works_from_anywhere_and_after_a_move(tmp_path, run_command):
    folder = scored(
        tmp_path / "run", barred={0: "protected_path", 1: "self_match"}, min_per_target=2, avoid_weight=0.25
    )
    folder.path.rename(tmp_path / "moved run")
    moved = type(folder)(tmp_path / "moved run")
    (line,) = re.findall(r"^ +(tmm nearest_neighbors .+)$", report_of(moved), re.MULTILINE)
    done = run_command(*shlex.split(line), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    got = pd.read_parquet(tmp_path / "moved run_again" / "mined.parquet").filepath
    assert len(got) > len(pd.read_parquet(moved.mined))
    assert not {"/nowhere/p0.png", "/nowhere/p1.png"} & set(got)
    (again,) = recommended(report_of(moved))
    assert (again["min_per_target"], again["avoid_weight"], again["scoring"]) == (2, 0.25, "auto")


def test_a_run_that_its_budget_ended_did_not_exhaust_the_pool(tmp_path):
    folder = scored(tmp_path / "run")
    pairs = pd.read_parquet(folder.pairs)
    mined = (pairs.outcome == "kept").sum()
    assert (pairs.outcome == "duplicate").sum() > mined, "kept images are candidates of several targets"
    text = report_of(folder)
    assert "exhausted**" not in text
    assert f"No: {120 - mined} pool images that may be mined are not mined yet" in text
    (again,) = recommended(text)
    assert again["topn"] == 4
    assert len(mined_by(again)) > mined


def test_where_a_budget_is_set_a_larger_one_gives_more(tmp_path):
    folder = scored(tmp_path / "run", budget=20)
    text = report_of(folder)
    (again,) = recommended(text)
    assert (again["budget"], again["topn"]) == (40, 2)
    assert len(mined_by(again)) == 40
    text = report_of(scored(tmp_path / "share", budget=0.5))
    (again,) = recommended(text)
    assert again["budget"] == 120


def test_limits_that_allow_no_more_are_told(tmp_path):
    folder = scored(tmp_path / "run", budget=100, max_per_target=2)
    text = report_of(folder)
    assert "**The pool is nearly exhausted**" in sections(text)["Verdict"]
    assert "24 of the 100 images that the budget allows" in text
    assert "over_target_limit" in sections(text)["Recommended Actions"]
    assert "are kept of a budget of" not in sections(text)["Verdict"], "told twice"
    assert not recommended(text)


def test_what_was_left_out_does_not_count_as_pool_that_is_left(tmp_path):
    barred = dict.fromkeys(range(100), "already_mined")
    used = scored(tmp_path / "used", barred=barred, budget=18)
    text = report_of(used)
    assert "**The pool is nearly exhausted**" in text
    assert "90% of the 20 pool images that may be mined" in text
    assert "not mined yet" not in text
    nearest = make_run(tmp_path / "nearest", **paths(12, 120), vectors=near(12, 120), barred=barred, topn=15)
    assert "of the 20 pool images that may be mined" in report_of(nearest)


def test_nothing_mined_since_all_is_left_out(tmp_path):
    vectors = near(12, 12)
    folder = scored(tmp_path / "run", pool=12, vectors=vectors, barred=dict.fromkeys(range(12), "self_match"))
    text = report_of(folder)
    assert "**The mined table is empty**: all 12 pool images were left out before the search" in text
    assert "searched 0 pool images" in text
    assert "not mined yet" not in text
    assert "self_match=keep" in sections(text)["Recommended Actions"]
    assert "every row of the pool is excluded" not in text, "told twice"
    other = scored(tmp_path / "other", pool=12, vectors=vectors, barred=dict.fromkeys(range(12), "protected_path"))
    actions = sections(report_of(other))["Recommended Actions"]
    assert "self_match=keep" not in actions
    assert "another pool" in actions


@pytest.mark.parametrize("setting", [{"filter_by_label": "true"}, {"within_label": True}])
def test_nothing_mined_since_no_label_is_common(setting, tmp_path):
    folder = scored(tmp_path / "run", target_labels=["a"] * 12, pool_labels=["b"] * 120, **setting)
    text = report_of(folder)
    assert f"no target's label occurs in the pool, and `{next(iter(setting))}` allows no other" in text
    actions = sections(text)["Recommended Actions"]
    assert "see the counts above" not in actions
    assert "among all labels" in actions
    (again,) = recommended(text)
    assert mined_by(again)


@pytest.mark.parametrize(
    ("setting", "off"),
    [
        ({"distance_threshold": 0.0}, {"distance_threshold": -1.0}),
        ({"min_similarity": 0.9999}, {"min_similarity": -1.0}),
    ],
)
def test_every_rule_that_left_nothing_can_be_switched_off(setting, off, tmp_path):
    for name, scoring in (("scored", "auto"), ("nearest", "nearest")):
        text = report_of(scored(tmp_path / name, scoring=scoring, **setting))
        assert "Augment: not yet" in text
        (again,) = recommended(text)
        assert off.items() <= again.items()
        assert mined_by(again)


def test_the_label_filter_of_a_scored_run_is_told_as_it_works(tmp_path):
    labels = {"target_labels": ["a", "b"] * 6, "pool_labels": ["a", "b", "c"] * 40}
    for name, setting in (("one", {"filter_by_label": "true"}), ("two", {"within_label": True})):
        found = sections(report_of(scored(tmp_path / name, **labels, **setting)))
        assert "inside the search" in found["Mining Run"] + found["Recommended Actions"]
        assert "may differ" not in found["Recommended Actions"]
        assert "see the counts above" not in found["Recommended Actions"]


def test_labels_that_act_inside_the_search_are_no_noop(tmp_path):
    """Both settings at once: the filter has nothing left to drop, and nobody has to look at that."""
    labels = {"target_labels": ["a"] * 12, "pool_labels": ["a", "b"] * 60}
    text = report_of(scored(tmp_path / "run", scoring="nearest", within_label=True, filter_by_label="true", **labels))
    assert "was a no-op" not in text
    assert "No: `within_label` acts inside the search" in text


def test_the_words_are_those_of_a_selection_by_score(tmp_path):
    folder = scored(tmp_path / "run")
    text = report_of(folder)
    found = sections(text)
    pairs = pd.read_parquet(folder.pairs)
    kept = (pairs.outcome == "kept").sum()
    assert re.search(rf"selected by score.*budget of {kept}", found["Verdict"], re.DOTALL)
    assert re.search(r"^Settings: .*`scoring` auto.*`budget` .*`candidates` 20", found["Mining Run"], re.MULTILINE)
    counts = {row["count"]: row["number"] for row in table(found["Mining Run"], "count")}
    assert counts["Target queries"] == "12"
    assert "nearest first" not in text
    assert "candidates" in found["Mining Run"]
    nearest = make_run(tmp_path / "nearest", **paths(12, 120), vectors=near(12, 120))
    assert "`scoring`" not in report_of(nearest)
    assert "`budget`" not in report_of(nearest)


def test_a_claim_that_no_target_had_is_not_told(tmp_path):
    assert "claim on its own" in report_of(scored(tmp_path / "with"))
    assert "claim on its own" not in report_of(scored(tmp_path / "without", min_per_target=0))


def test_targets_left_with_nothing_by_a_small_budget(tmp_path):
    random = np.random.default_rng(0)
    vectors = random.standard_normal((12, 32)), random.standard_normal((300, 32))
    text = report_of(scored(tmp_path / "run", pool=300, vectors=vectors, budget=2, candidates=5))
    assert "left with nothing**" in text
    (again,) = [one for one in recommended(text) if one.get("min_per_target") == 1]
    assert again["budget"] == 12
    mined_by(again)
    own = pd.read_parquet(tmp_path / "run_again" / "mined_pairs.parquet")
    assert own[own.outcome.isin(["kept", "duplicate"])].target_row.nunique() == 12
