"""What a run says of its pool: what it lacks, what is used up, hubs, and what changed since the last iteration."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from lookalike.reports.report import write_report
from lookalike.workflow.check import check_run
from lookalike.workflow.diagnosis import SCHEMA
from lookalike.workflow.drift import Iterated
from support.embeddings import identity, write_embeddings
from support.report_contract import check_report
from support.runs import make_run


def clusters(random, centres, each, spread=0.05):
    return np.concatenate([centre + spread * random.standard_normal((each, len(centre))) for centre in centres])


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Targets of three kinds: of 30 pool images, of none, and of five that an earlier run mined."""
    random = np.random.default_rng(0)
    centres = 5 * np.eye(12)[:6]
    pool = np.concatenate([clusters(random, centres[:1], 30), clusters(random, centres[1:2], 5),
                           clusters(random, centres[3:6], 30)])  # fmt: skip
    targets = clusters(random, centres[:3], 4, 0.01)  # nearer to their kind than the pool images are to each other
    who = identity(dimension=12)
    labels = ["many"] * 4 + ["used"] * 4 + ["none"] * 4
    write_embeddings(tmp_path / "targets.parquet", targets, filepaths=[f"/nowhere/t{n}.png" for n in range(12)],
                     labels=labels, who=who)  # fmt: skip
    write_embeddings(
        tmp_path / "pool.parquet", pool, filepaths=[f"/nowhere/p{n}.png" for n in range(len(pool))], who=who
    )
    used = pa.table({"filepath": [f"/nowhere/p{n}.png" for n in range(30, 35)]})
    pq.write_table(used, tmp_path / "used.parquet")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("settings", [{}, {"scoring": "nearest"}], ids=str)
def test_what_the_pool_lacks_and_what_is_used_up(place, settings):
    done = lookalike.run("targets.parquet", "pool.parquet", run_dir="run", leak_reads=0, exclude="used.parquet",
                         topn=2, **settings)  # fmt: skip
    table = pq.read_table(done.folder.target_outcomes)
    assert table.schema.equals(SCHEMA)
    rows = table.to_pylist()
    assert [row["region"] for row in rows] == [None] * 4 + ["exhausted"] * 4 + ["nothing_near"] * 4
    assert all(row["near_left_out"] for row in rows[4:8])
    assert all(row["near"] == row["near_left_out"] == 0 for row in rows[8:])
    assert all(row["nearest_quantile"] == 1 for row in rows[8:]), "no pool image is so far from all others"
    assert [row["label"] for row in rows[::4]] == ["many", "used", "none"]
    pairs = pq.read_table(done.folder.pairs).to_pylist()
    for row in rows:
        own = [pair for pair in pairs if pair["target_row"] == row["target_row"]]
        assert row["mined"] == sum(pair["outcome"] == "kept" for pair in own)
        nearest = min(own, key=lambda pair: pair["distance"])
        assert (row["nearest_filepath"], row["nearest_distance"]) == (nearest["source_filepath"], nearest["distance"])
    found = json.loads(done.folder.record.read_text())["diagnosis"]
    assert found["nothing_near"]["count"] == found["exhausted"]["count"] == 4
    assert found["nothing_near"]["labels"] == {"NONE": 4}
    assert found["drift"] is None
    text = done.report.read_text()
    check_report(text)
    assert "**The pool lacks what 4 targets show**" in text
    assert "**4 targets are in an exhausted region**" in text
    assert "The pool lacks what 4 targets show" in done.folder.gallery.read_text()
    assert [one for one in check_run(done.folder.path) if one.severity == "error"] == []


def test_the_targets_own_images_are_no_exhausted_region(tmp_path, monkeypatch):
    """A target that lies in the pool was taken away by nobody."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    pool = random.standard_normal((60, 6))
    paths = [f"/nowhere/p{number}.png" for number in range(60)]
    who = identity(dimension=6)
    write_embeddings(tmp_path / "targets.parquet", pool[:6], filepaths=paths[:6], who=who)
    write_embeddings(tmp_path / "pool.parquet", pool, filepaths=paths, who=who)
    done = lookalike.run("targets.parquet", "pool.parquet", run_dir="run", leak_reads=0)
    rows = pq.read_table(done.folder.target_outcomes).to_pylist()
    assert not any(row["near_left_out"] or row["near_mined_before"] for row in rows)
    assert {row["region"] for row in rows} == {None}


def test_iterations_are_compared(place):
    """The second run gets what the first left, of fewer images of its kind; the third has other targets."""
    settings = {"leak_reads": 0, "history": "ledger.json", "scoring": "nearest", "topn": 6}
    runs = [lookalike.run("targets.parquet", "pool.parquet", run_dir=f"run{n}", **settings) for n in (1, 2)]
    records = [json.loads(run.folder.record.read_text())["diagnosis"]["drift"] for run in runs]
    assert records[0] is None
    drift = records[1]
    assert drift["iteration"] == 1
    assert drift["mined"] == [run.counts.unique for run in runs]
    nearest = [
        np.median(pq.read_table(run.folder.target_outcomes).column("nearest_distance").to_numpy()) for run in runs
    ]
    assert (drift["nearest"]["then"], drift["nearest"]["now"]) == tuple(map(pytest.approx, nearest))
    assert drift["nearest"]["superiority"] > 0.5
    assert drift["targets"]["distance"] == 0
    assert {one["label"] for one in drift["labels"]} == {"MANY", "USED", "NONE"}
    assert (
        f"Since iteration 1: {runs[1].counts.unique} images after {runs[0].counts.unique}" in runs[1].report.read_text()
    )
    rows = pq.read_table(runs[1].folder.target_outcomes).to_pylist()
    assert all(row["near_mined_before"] for row in rows[:8])
    random = np.random.default_rng(1)
    write_embeddings(place / "others.parquet", clusters(random, 5 * np.eye(12)[3:4], 12),
                     filepaths=[f"/nowhere/o{n}.png" for n in range(12)], who=identity(dimension=12))  # fmt: skip
    third = lookalike.run("others.parquet", "pool.parquet", run_dir="run3", **settings)
    assert "**The targets are others than in iteration 2**" in third.report.read_text()


def test_what_cannot_be_compared_is_said(place, tmp_path):
    one = make_run(tmp_path / "one", targets=6)
    for name, other, words in (
        ("gone", tmp_path / "nothing", "its run folder is not there"),
        ("metric", make_run(tmp_path / "e", targets=6, knn_metric="euclidean").path, "its distances are euclidean"),
        ("encoder", make_run(tmp_path / "d", targets=6, dimension=5).path, "another encoder"),
    ):
        folder = make_run(tmp_path / name, targets=6, last=Iterated(type(one)(other), 3))
        drift = json.loads(folder.record.read_text())["diagnosis"]["drift"]
        assert words in drift["unknown"]
        text = write_report(folder).read_text()
        check_report(text)
        assert "Since iteration 3: nothing can be compared" in text


def test_labels_that_gave_more_before_are_named(tmp_path):
    labels = {"target_labels": ["a"] * 10 + ["b"] * 10, "targets": 20, "pool": 200, "scoring": "nearest"}
    random = np.random.default_rng(0)
    targets = clusters(random, 5 * np.eye(8)[:2], 10)
    pool = clusters(random, 5 * np.eye(8)[:2], 100)
    one = make_run(tmp_path / "one", vectors=(targets, pool), **labels)
    two = make_run(tmp_path / "two", vectors=(targets, pool), last=Iterated(one, 1),
                   barred=dict.fromkeys(range(100, 199), "already_mined"), **labels)  # fmt: skip
    text = write_report(two).read_text()
    check_report(text)
    assert "**1 label gives less than half of what iteration 1 gave**: B (" in text
    assert "are in an exhausted region" in text


@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
def test_pools_that_hardly_are_any(shape, tmp_path):
    targets, pool = shape
    folder = make_run(tmp_path / "run", targets=targets, pool=pool, dimension=2, topn=1)
    found = json.loads(folder.record.read_text())["diagnosis"]
    assert (found["near"] is None) == (pool < 2)
    check_report(write_report(folder).read_text())
    everything = dict.fromkeys(range(pool), "excluded")
    folder = make_run(tmp_path / "none", targets=targets, pool=pool, dimension=2, topn=1, barred=everything)
    assert json.loads(folder.record.read_text())["diagnosis"]["k"] == 0
    check_report(write_report(folder).read_text())


def test_a_record_of_an_older_version_has_no_diagnosis(tmp_path):
    folder = make_run(tmp_path / "run")
    record = json.loads(folder.record.read_text())
    del record["diagnosis"]
    folder.record.write_text(json.dumps(record))
    text = write_report(folder).read_text()
    check_report(text)
    assert "target_outcomes" not in text
