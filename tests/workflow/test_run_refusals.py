"""What a run refuses before its first image: settings of the selection, images beside the two sides, the ledger."""

from pathlib import Path
from threading import Event, Thread

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from lookalike.config.schemas import RunConfig
from lookalike.workflow import run as run_module
from lookalike.workflow import run_checks
from lookalike.workflow.run_plan import plan_run
from support.embeddings import identity, write_embeddings

LIST = "nowhere/1.png\nnowhere/2.png\n"


def mine(**settings):
    return lookalike.run("targets.parquet", "pool.parquet", **{"cache_dir": "off", "leak_reads": 0, **settings})


def inputs(place):
    """Everything that a setting of the cases below may name."""
    write_embeddings(place / "other.parquet", np.eye(3), who=identity(dimension=3))
    write_embeddings(place / "wider.parquet", np.eye(5))
    (place / "gone.txt").write_text(LIST)
    (place / "file").touch()
    targets = pq.read_table("targets.parquet")
    weights = {"words": ["a", "b", "c"], "holes": [1.0, None, 2.0], "below": [1.0, -1.0, 2.0]}
    for name, column in weights.items():
        targets = targets.append_column(name, pa.array(column))
    pq.write_table(targets, "targets.parquet")
    pq.write_table(targets.drop_columns("label"), "plain.parquet")


CASES = [
    ({"target_weight_column": "weakness"}, "has no column 'weakness'"),
    ({"target_weight_column": "words"}, "holds string, not numbers"),
    ({"target_weight_column": "holes"}, "rows without a number"),
    ({"target_weight_column": "below"}, "target weight"),
    ({"targets": "plain.parquet", "max_per_label": 2}, "max_per_label is on, and the side of the targets"),
    ({"avoid": "other.parquet"}, "different encoders"),
    ({"avoid": "wider.parquet"}, "5 dimensions"),
    ({"avoid": "gone.txt"}, "2 of 2 image files of the images to avoid are not there"),
    ({"protect": "other.parquet"}, "different encoders"),
    ({"protect": "wider.parquet"}, "5 dimensions"),
    ({"protect": "gone.txt"}, "2 of 2 image files of the images to protect are not there"),
    ({"history": "file/ledger.json"}, "is a file, and a folder is needed there"),
    ({"history": "images"}, "is a folder, and a file is to be written"),
]


@pytest.mark.parametrize(("settings", "words"), CASES, ids=str)
def test_what_cannot_work_is_refused_before_the_first_image(place, settings, words):
    inputs(place)
    before = sorted(place.rglob("*"))
    given = {"targets": "targets.parquet", "pool": "pool.parquet", "cache_dir": "off", "leak_reads": 0, **settings}
    for start in (lambda: lookalike.run(**given), lambda: plan_run(RunConfig(**given))):
        with pytest.raises(lookalike.LookalikeError) as error:
            start()
        assert words in str(error.value)
        assert not hasattr(error.value, "__notes__")
        assert [path for path in sorted(place.rglob("*")) if path.name != "log"] == before
        assert (place / "log").read_text() == "" if (place / "log").exists() else True


def test_what_is_ready_is_compared_with_ready_sides(place):
    who = identity(dimension=3, weights="c" * 64)
    write_embeddings(place / "ready.parquet", np.eye(3), who=who)
    write_embeddings(place / "other.parquet", np.eye(3), who=identity(dimension=3))
    for setting in ("avoid", "protect"):
        given = {"cache_dir": "off", "run_dir": "run", setting: "other.parquet"}
        with pytest.raises(lookalike.EncoderMismatch):
            lookalike.run("ready.parquet", "ready.parquet", **given)
    assert not Path("run").exists()
    # Names without files are enough where nothing is embedded: they are compared as they are.
    Path("names.txt").write_text("/pool/0.jpg\n")
    done = lookalike.run("ready.parquet", "ready.parquet", cache_dir="off", run_dir="run", protect="names.txt",
                         self_match="keep", leak_reads=0, scoring="nearest", topn=1)  # fmt: skip
    assert done.counts.excluded == 1


def test_ready_tables_count_for_the_disk(place, monkeypatch):
    write_embeddings(place / "ready.parquet", np.random.default_rng(0).standard_normal((2000, 64)), who=identity())
    free = (place / "ready.parquet").stat().st_size * 3 // 2  # room for one copy, and there are two
    monkeypatch.setattr(run_checks.shutil, "disk_usage", lambda path: type("Usage", (), {"free": free}))
    with pytest.raises(lookalike.TableError, match=r"the disk has 0.00 GiB free, and the vectors of 4000 images"):
        lookalike.run("ready.parquet", "ready.parquet", cache_dir="off")
    assert not Path("mining_results").exists()


def test_a_folder_that_another_run_filled_meanwhile_is_left_alone(place, monkeypatch):
    """The first one looks at the folder, and the second one is through before the first one claims it."""
    waiting, done = Event(), Event()
    claim = run_module.claim_folder

    def late(config):
        if config.topn == 1:
            waiting.set()
            assert done.wait(60)
        return claim(config)

    monkeypatch.setattr(run_module, "claim_folder", late)
    failed = []

    def first():
        try:
            mine(run_dir="same", topn=1)
        except lookalike.LookalikeError as error:
            failed.append(error)

    thread = Thread(target=first)
    thread.start()
    assert waiting.wait(60)
    mine(run_dir="same", topn=3)
    before = {path: path.read_bytes() for path in Path("same").rglob("*") if path.is_file()}
    done.set()
    thread.join()
    assert "run_dir is not empty" in str(failed[0])
    assert not hasattr(failed[0], "__notes__")
    assert {path: path.read_bytes() for path in Path("same").rglob("*") if path.is_file()} == before


def test_a_folder_that_is_not_writable(place, locked):
    with locked() as folder:
        for settings in ({"out": folder}, {"run_dir": folder / "run"}, {"out": folder / "a" / "b"}):
            with pytest.raises(lookalike.TableError, match="not writable"):
                mine(**settings)
        assert not list(folder.iterdir())
