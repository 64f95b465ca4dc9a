"""Every number of the report against the tables, for every way to choose: each case is a setting or two of `mine`."""

import numpy as np
import pyarrow.parquet as pq
import pytest

import lookalike
from lookalike.reports.report import write_report
from lookalike.tables.run_folder import RunFolder
from support.embeddings import identity, write_embeddings
from support.report_contract import check_report
from support.report_truth import check_truth
from support.runs import make_run

TARGETS, POOL = 14, 160
LABELS = ("scratch", "dent", "stain")


def paths(stem, count):
    return [f"/nowhere/{stem}{number:03d}.png" for number in range(count)]


def vectors():
    """Targets, pool images like them, copies of each other among these, and others."""
    random = np.random.default_rng(3)
    shift = np.r_[np.full(4, 3.0), np.zeros(20)]
    targets, pool = random.standard_normal((TARGETS, 24)) + shift, random.standard_normal((POOL, 24))
    pool[:60] += shift
    pool[40:60] = pool[:20] + 0.01 * random.standard_normal((20, 24))
    return targets, pool


def labels(count, names=LABELS):
    return [names[number % len(names)] for number in range(count)]


CASES = {
    "nothing": {},
    "lda": {"scoring": "lda"},
    "one component": {"scoring": "density_ratio", "components": "4"},
    "a budget": {"budget": 25},
    "a share": {"budget": 0.25},
    "a budget that is more than the pool": {"budget": 1.0},
    "no claim": {"budget": 5, "min_per_target": 0},
    "few candidates": {"budget": 20, "candidates": 3},
    "full targets": {"budget": 60, "max_per_target": 2},
    "full labels": {"budget": 60, "max_per_label": 5},
    "near-duplicates": {"budget": 40, "dedup_threshold": 0.02},
    "diversity": {"budget": 30, "diversity": 0.5},
    "labels": {"filter_by_label": "true"},
    "labels within": {"within_label": True},
    "threshold": {"distance_threshold": 0.3},
    "floor": {"min_similarity": 0.75},
    "everything": {"filter_by_label": "true", "distance_threshold": 0.4, "min_similarity": 0.7, "max_per_target": 1},
    "left out": {"barred": {row: ("excluded", "protected_path", "self_match")[row % 3] for row in range(30)}},
    "all but two left out": {"barred": dict.fromkeys(range(2, POOL), "already_mined")},
}


@pytest.mark.parametrize("scoring", ["nearest", "auto"])
@pytest.mark.parametrize("case", CASES)
def test_every_number_of_every_case(case, scoring, tmp_path):
    settings = {"scoring": scoring, **CASES[case]}
    folder = make_run(
        tmp_path / "run", target_paths=paths("t", TARGETS), pool_paths=paths("p", POOL), vectors=vectors(),
        target_labels=[*labels(TARGETS - 1), None], pool_labels=labels(POOL, (*LABELS, "hole")), topn=4, **settings,
    )  # fmt: skip
    check_report(write_report(folder).read_text(encoding="utf-8"))
    check_truth(folder)


@pytest.fixture
def ready(tmp_path, monkeypatch):
    """Ready tables: the pool holds three targets, copies of two, five images to protect and four to avoid."""
    monkeypatch.chdir(tmp_path)
    who, named = identity(dimension=24), paths("p", POOL)
    targets, pool = vectors()
    pool[100:103], pool[103:105] = targets[:3], targets[:2]
    named[100:103] = paths("t", 3)
    write_embeddings(
        tmp_path / "targets.parquet", targets, filepaths=paths("t", TARGETS), labels=labels(TARGETS), who=who
    )
    write_embeddings(tmp_path / "pool.parquet", pool, filepaths=named, labels=labels(POOL), who=who)
    for name, rows in (("protect", range(5)), ("avoid", range(5, 9)), ("exclude", range(9, 12))):
        pq.write_table(pq.read_table("pool.parquet").take(list(rows)), f"{name}.parquet")
    return tmp_path


FILES = {"protect": "protect.parquet", "avoid": "avoid.parquet", "exclude": "exclude.parquet"}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"self_match": "keep", "scoring": "nearest"},
        FILES,
        {**FILES, "scoring": "nearest", "filter_by_label": "true"},
    ],
    ids=str,
)
def test_every_number_of_whole_runs(ready, settings):
    """With a ledger: the second run leaves out what the first one mined."""
    given = {"history": "ledger.json", "topn": 3, "leak_reads": 0, **settings}
    for name in ("first", "second"):
        done = lookalike.run("targets.parquet", "pool.parquet", run_dir=name, **given)
        check_report(done.report.read_text(encoding="utf-8"))
        check_truth(done.folder)
    assert RunFolder(ready / "second").excluded.is_file()
    rules = done.record.excluded["rules"]
    assert "already_mined" in rules
    assert sum(rules.values()) == pq.read_metadata(done.folder.excluded).num_rows
