"""`lookalike mine --dry-run`: how many images a ladder of settings would give, where the vectors are there."""

import os
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from support.embeddings import identity, write_embeddings
from support.inprocess import call_lookalike
from support.pools import planted

TABLES = ("--targets", "targets.parquet", "--pool", "pool.parquet")
ROW = re.compile(r"^  (\*?) +(.+?)  +(\d+|-) +(\d+|-) +(off|[\d.e-]+) +(\d+) +([\d.]+)% +(\d+) of (\d+)$")


@pytest.fixture
def dry(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    targets, pool, member = planted(targets=14, pool=300)
    who = identity(dimension=24)
    write_embeddings("targets.parquet", targets, filepaths=[f"/t/{row}.jpg" for row in range(14)], who=who,
                     labels=["bad"] * 14)  # fmt: skip
    write_embeddings("pool.parquet", pool, who=who, labels=np.where(member, "bad", "good").tolist())

    def call(*words, status=0):
        before = everything(tmp_path)
        done = call_lookalike(monkeypatch, capsys, "mine", *words, "--dry-run")
        assert done.returncode == status, done.stderr
        assert everything(tmp_path) == before, "a dry run writes nothing"
        return done

    return call


def everything(place):
    """All files with their bytes' age."""
    return {str(path): path.stat().st_mtime_ns for path in place.rglob("*")}


def rungs(done):
    found = [match.groups() for match in map(ROW.match, done.lines) if match]
    assert found, done.stdout
    return [
        {"own": own == "*", "scoring": scoring, "topn": topn, "budget": budget, "threshold": threshold,
         "images": int(images), "share": float(share), "served": int(served)}
        for own, scoring, topn, budget, threshold, images, share, served, _ in found
    ]  # fmt: skip


def run(**settings):
    return lookalike.run("targets.parquet", "pool.parquet", leak_reads=0, **settings)


def mined(**settings):
    return lookalike.mine("pool.parquet", "targets.parquet", "mined.parquet", knn_metric="cosine", **settings)


def test_the_ladder_tells_what_runs_would_mine(dry):
    done = dry(*TABLES, "topn=3")
    assert "Yield:     one search for 14 targets in 300 pool images" in done.stdout
    assert "Nothing was written" in done.stdout
    found = rungs(done)
    (own,) = [one for one in found if one["own"]]
    real = run(run_dir="own", topn=3)
    assert own["images"] == real.counts.unique
    assert own["served"] == real.record.selection["served"]
    assert own["share"] == pytest.approx(100 * own["images"] / 300, abs=0.06)
    assert {one["topn"] for one in found if one["scoring"] == own["scoring"]} >= {"1", "2", "3", "5", "10", "20"}
    assert {one["budget"] for one in found if one["topn"] == "-"} == {"3", "6", "15", "30"}
    assert len({one["threshold"] for one in found} - {"off"}) == 3
    for one in found[1::3]:
        settings = {} if one["threshold"] == "off" else {"distance_threshold": float(one["threshold"])}
        settings["budget" if one["topn"] == "-" else "topn"] = int(one["budget" if one["topn"] == "-" else "topn"])
        scoring = "nearest"
        if one["scoring"] != "nearest of each":
            scoring, _, components = one["scoring"].partition(", ")
            if scoring == "auto (blend)":
                scoring, components = "auto", "auto"
            settings["components"] = components.split()[0]
        assert mined(scoring=scoring, **{"topn": 3, **settings}).counts.unique == one["images"], one


def test_what_may_not_be_mined_is_not_counted(dry, tmp_path):
    pool = pq.read_table("pool.parquet")
    pq.write_table(pa.table({"filepath": pool.column("filepath")[:40]}), "unwanted.parquet")
    settings = {"exclude": "unwanted.parquet", "topn": 3, "filter_by_label": "true", "dedup_threshold": 0.01,
                "max_per_target": 4, "diversity": 0.2}  # fmt: skip
    done = dry(*TABLES, *(f"{name}={value}" for name, value in settings.items()))
    assert "note: 40 pool images are left out by their paths" in done.stdout
    found = rungs(done)
    assert {one["scoring"] for one in found} != {"nearest of each"}
    (own,) = [one for one in found if one["own"]]
    settings["exclude_path"] = settings.pop("exclude")
    assert own["images"] == mined(scoring="auto", **settings).counts.unique
    relative = [os.path.relpath(str(path)) for path in pool.column("filepath")[:7]]
    (tmp_path / "relative.txt").write_text("\n".join(relative))
    assert "note: 7 pool images are left out by their paths" in dry(*TABLES, "exclude=relative.txt").stdout
    run(run_dir="first", topn=3, history="ledger.json")
    done = dry(*TABLES, "history=ledger.json", "topn=3", "scoring=nearest", "filter_by_label=true")
    (own,) = [one for one in rungs(done) if one["own"]]
    second = run(run_dir="second", topn=3, history="ledger.json", scoring="nearest", filter_by_label="true")
    assert own["images"] == second.counts.unique
    every = dry(*TABLES, "exclude=pool.parquet")
    assert "Yield:     nothing: " in every.stdout
    assert "every pool image is left out" in every.stdout


def test_weights_and_images_to_avoid_count(dry, tmp_path):
    table = pq.read_table("targets.parquet")
    pq.write_table(table.append_column("weakness", pa.array([5.0, 0.1] * 7)), "targets.parquet")
    pq.write_table(pq.read_table("pool.parquet").slice(0, 30), "avoid.parquet")
    settings = {"target_weight_column": "weakness", "avoid": "avoid.parquet", "budget": 20}
    (own,) = [one for one in rungs(dry(*TABLES, *(f"{key}={value}" for key, value in settings.items()))) if one["own"]]
    pool = pq.read_table("pool.parquet", columns=["filepath"]).column(0).to_pylist()
    settings["avoid_parquet"] = settings.pop("avoid")
    real = mined(scoring="auto", exclude_paths=pool[:30], **settings)
    assert (own["images"], own["served"]) == (real.counts.unique, real.scored.served.sum())


def test_images_need_their_vectors_in_the_cache(dry, images, clip_snapshot, tmp_path):
    """Before anything is embedded the yield is not known; afterwards it is, and nothing is embedded for it."""
    (tmp_path / "pool").mkdir()
    for number in range(3):
        for path in sorted(images.iterdir()):
            (tmp_path / "pool" / f"{number}_{path.name}").write_bytes(path.read_bytes() + bytes(number))
    weak = sorted((tmp_path / "pool").iterdir())[:2]
    (tmp_path / "weak.txt").write_text("".join(f"{path}\n" for path in weak))
    for path in (tmp_path / "pool").iterdir():
        os.utime(path, (1e9, 1e9))
    settings = {"model": "CLIP", "model_path": str(clip_snapshot), "topn": 2, "cache_dir": str(tmp_path / "cache")}
    words = ("--targets", "weak.txt", "--pool", "pool", *(f"{key}={value}" for key, value in settings.items()))
    count = len(list((tmp_path / "pool").iterdir()))
    before = dry(*words)
    assert (
        f"Yield:     not known: the cache has no vector of 2 of 2 targets and {count} of {count} pool" in before.stdout
    )
    assert "embed them first" in before.stdout
    done = lookalike.run("weak.txt", "pool", run_dir="run", **settings)
    again = dry(*words)
    (own,) = [one for one in rungs(again) if one["own"]]
    assert own["images"] == done.counts.unique
    assert "2 pool images are left out by their paths" in again.stdout
    assert "copies under other paths are found only when files are read" in again.stdout
    # New images, and some that cannot be read, do not hide the rest; many do.
    (tmp_path / "pool" / "new.png").write_bytes(b"rubbish")
    new = dry(*words)
    assert f"1 of {count + 1} pool images have no vector in the cache and are not counted in" in new.stdout
    assert rungs(new) == rungs(again)
    off = dry(*words[:-1], "cache_dir=off")
    assert "Yield:     not known: the targets and pool have no vectors yet" in off.stdout
