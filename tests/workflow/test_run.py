"""`lookalike.run`: what the folder holds, what is refused before work starts, and what stopped runs leave."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from lookalike.config.compose import CommandLine, read_spec, spec_text
from lookalike.config.compose import run as compose
from lookalike.config.schemas import ImageEmbeddingsConfig, NearestNeighborsConfig, RunConfig
from lookalike.tables.run_folder import read_record
from lookalike.workflow import run_checks, run_state
from lookalike.workflow.check import check_run
from lookalike.workflow.failures import known_failures
from lookalike.workflow.run_plan import plan_run
from support.counted_run import CountedEncoder
from support.embeddings import identity, write_embeddings
from support.small_images import picture

PROGRAM = Path(__file__).parents[1] / "support" / "stopped_mine.py"
TABLES = ("target_embeddings.parquet", "source_embeddings.parquet", "mined.parquet", "mined_pairs.parquet")


def embedded(place):
    """Numbers of the images that were embedded, in order."""
    log = place / "log"
    return [int(line) for line in log.read_text().split()] if log.exists() else []


#: These tests are about the run itself: the targets stay in the pool, and nothing is scored.
NEAREST = {"scoring": "nearest", "self_match": "keep"}


def mine(targets="targets.parquet", pool="pool.parquet", **settings):
    return lookalike.run(targets, pool, **{"cache_dir": "off", **NEAREST, **settings})


def stopped(place, number, images, *arguments):
    """Run the command in a process that gets a signal before its image number `images`."""
    words = ["mine", "--targets", "targets.parquet", "--pool", "pool.parquet", "--run-dir", "stopped", "shard_rows=4"]
    words += ["batch_size=2", "cache_dir=off", *(f"{key}={value}" for key, value in NEAREST.items()), *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    program = [sys.executable, str(PROGRAM), number, str(images), str(place / "log"), *words]
    return subprocess.run(program, cwd=place, env=environment, capture_output=True, text=True, check=False)


def names(folder):
    return {path.name for path in Path(folder).iterdir()}


# What a run makes


def test_a_real_encoder_fills_the_folder_and_the_second_run_embeds_nothing(clip_snapshot, images, tmp_path):
    targets = pa.table({"filepath": [str(images / "board_00.png"), str(images / "board_01.jpg")]})
    settings = {
        "model": "CLIP",
        "model_path": str(clip_snapshot),
        "topn": 3,
        "cache_dir": str(tmp_path / "cache"),
        **NEAREST,
    }
    first = lookalike.run(targets, images, out=tmp_path / "out", **settings)
    assert first.folder.path.parent == tmp_path / "out" / "mining_results"
    assert check_run(first.folder.path) == []
    assert {"run_settings.yaml", "run.log", "run.json", "targets.parquet", "pool.parquet"} <= names(first.folder.path)
    assert not [name for name in names(first.folder.path) if name.startswith(".")]
    record = read_record(first.folder)
    assert record == first.record
    assert (record.targets.kind, record.pool.kind) == ("table in memory", "folder of images")
    assert (record.targets.rows, record.pool.embedded, record.pool.cached) == (2, 12, 2)
    assert pq.read_table(first.folder.pairs).num_rows == first.counts.pairs == 6
    assert first.report.stat().st_mtime_ns >= first.gallery[0].stat().st_mtime_ns, "the report comes last"
    second = lookalike.run(targets, images, run_dir=tmp_path / "second", **settings)
    assert (second.record.targets.cached, second.record.pool.cached) == (2, 12)
    for name in TABLES:
        assert (first.folder.path / name).read_bytes() == (second.folder.path / name).read_bytes()
    again = lookalike.resume_run(second.folder.path)
    assert (again.record, again.counts, set(again.plots)) == (second.record, second.counts, set(second.plots))


def test_the_specs_reproduce_the_run(clip_snapshot, images, tmp_path):
    """With a folder whose name Hydra would read as something else."""
    model = {"model": "CLIP", "model_path": str(clip_snapshot), "topn": 2, "distance_threshold": 0.8}
    run = lookalike.run(images, images, run_dir=tmp_path / "a 'b', c=[1]", **model)
    head = run.folder.embedding_spec.read_text().splitlines()
    line = next(line for line in head if line.startswith("# targets: embedding image_embeddings -e "))
    overrides = tuple(word for word in shlex.split(line) if word.startswith("input_parquet="))
    out = tmp_path / "again"
    for spec, more, name in (
        (run.folder.embedding_spec, (), "source_embeddings.parquet"),
        (run.folder.embedding_spec, overrides, "target_embeddings.parquet"),
    ):
        line = CommandLine(spec, (*more, f"output_parquet={out / name}"), ())
        compose(ImageEmbeddingsConfig, line, lambda config: lookalike.embed_images(**vars(config)))
        assert (out / name).read_bytes() == (run.folder.path / name).read_bytes()
    line = CommandLine(run.folder.mining_spec, (f"output_parquet={out / 'mined.parquet'}",), ())
    compose(NearestNeighborsConfig, line, lambda config: lookalike.mine(**vars(config)))
    for name in ("mined.parquet", "mined_pairs.parquet"):
        assert (out / name).read_bytes() == (run.folder.path / name).read_bytes()


@pytest.mark.parametrize(
    "path", ["a b", "${a}", "a\\${b}", "\\\\${a}${b}", "1e3", "yes", "null", "'", '"', "# a: b", "图像"]
)
def test_any_path_is_the_same_from_a_spec_again(path, tmp_path):
    config = RunConfig(path, "pool", out=path)
    (tmp_path / "spec.yaml").write_text(spec_text(config), encoding="utf-8")
    assert read_spec(RunConfig, tmp_path / "spec.yaml") == config


def test_images_on_both_sides_find_themselves_and_it_is_said(place):
    run = mine("pool.parquet", "pool.parquet", topn=1)
    assert (run.counts.targets, run.counts.unique) == (20, 20)
    words = "20 of 20 targets are in the pool, too (by path): their nearest image is themselves"
    assert run.warnings == (words,) == tuple(run.record.warnings)
    assert f"Warning: {words}" in run.folder.summary.read_text()
    assert words in run.folder.log.read_text()


def test_one_image_on_each_side(place, capfd):
    Path("one.txt").write_text(str(place / "images" / "targets_1.png"))
    run = mine("one.txt", "one.txt", run_dir="run", filter_by_label=True)
    assert (run.counts.targets, run.counts.topn, run.counts.unique) == (1, 1, 1)
    settings = RunConfig("one.txt", "one.txt", run_dir="run", filter_by_label="True", cache_dir="off", **NEAREST)
    assert run_state.read_settings(run.folder) == settings
    # The file has every line, the application (here: none that set up logging) only what it would have had.
    assert "INFO lookalike.workflow.run_steps: embedding the pool: 1 images" in run.folder.log.read_text()
    assert "embedding the pool" not in capfd.readouterr().err


def test_warnings_of_embedding_reach_summary_record_and_log(place):
    (place / "images" / "pool_103.png").write_bytes(b"rubbish")
    run = mine()
    words = "pool: 1 images were set aside: 1 not_an_image"
    assert words in run.warnings
    assert words in run.folder.summary.read_text()
    assert run.record.pool.quarantined == {"not_an_image": 1}
    assert "1 images were set aside" in run.folder.log.read_text()
    assert check_run(run.folder.path) == []


def test_one_image_that_is_its_own_target(place):
    Path("one.txt").write_text(str(place / "images" / "targets_1.png"))
    run = lookalike.run("one.txt", "one.txt", run_dir="run", cache_dir="off")
    assert (run.counts.targets, run.counts.unique) == (1, 0)
    assert "**The mined table is empty**: the only pool image was left out" in run.report.read_text(encoding="utf-8")
    assert check_run(run.folder.path) == []


# Ready embedding tables


def test_ready_tables_are_linked_and_nothing_is_embedded(place):
    vectors = np.random.default_rng(0).standard_normal((9, 4))
    write_embeddings(place / "a.parquet", vectors[:2], who=identity())
    (place / "b").mkdir()
    for number, part in enumerate((vectors[2:5], vectors[5:])):
        columns = {"column": "vec", "kind": pa.list_(pa.float64()), "labels": ["x"] * len(part)}
        columns["filepaths"] = [f"/pool/{number}/{row}.jpg" for row in range(len(part))]
        write_embeddings(place / "b" / f"{number}.parquet", part, who=identity(), **columns)
    run = mine("a.parquet", "b", pool_vectors="vec", topn=2)
    assert run.folder.targets.read_bytes() == Path("a.parquet").read_bytes()
    assert not run.folder.targets.samefile("a.parquet"), "who writes the input anew does not change the run"
    pool = pq.read_table(run.folder.pool)
    assert pool.column_names == ["filepath", "embedding", "label"]
    assert np.array_equal(np.array(pool.column("embedding").to_pylist()), vectors[2:])
    assert (run.record.targets.kind, run.record.model, embedded(place)) == ("embedding table", "", [])
    assert [finding for finding in check_run(run.folder.path) if finding.severity == "error"] == []


def test_a_ready_pool_with_targets_to_embed(place):
    first = mine(run_dir="first")
    second = mine("pool.parquet", first.folder.pool, run_dir="second")
    assert second.folder.pool.read_bytes() == first.folder.pool.read_bytes()
    assert (second.record.pool.kind, second.record.targets.embedded) == ("embedding table", 20)
    assert "input_parquet: " + str(place / "pool.parquet") in second.folder.embedding_spec.read_text()


# Preflight: refused before a model is loaded, and nothing is written


@pytest.fixture
def refused(place, monkeypatch):
    """Call `run` and return the message; no model may be loaded, nothing may be written."""
    monkeypatch.setattr(run_checks, "open_encoder", lambda *arguments: pytest.fail("the model was loaded"))
    (place / "folder").mkdir()
    picture(place / "folder" / "1.png", 1)
    pq.write_table(pa.table({"filepath": pa.array([], pa.string())}), "empty.parquet")
    pq.write_table(pa.table({"path": ["a"]}), "nameless.parquet")
    pq.write_table(pa.table({"filepath": ["a.png", "b.png"]}), "gone.parquet")
    write_embeddings(place / "one.parquet", np.eye(4), who=identity())
    write_embeddings(place / "two.parquet", np.eye(4), who=identity(weights="c" * 64))
    write_embeddings(place / "three.parquet", np.eye(3))
    (place / "file").touch()
    (place / "full").mkdir()
    (place / "full" / "thesis.txt").touch()
    before = sorted(place.rglob("*"))

    def call(**settings):
        with pytest.raises(lookalike.LookalikeError) as error:
            mine(**settings)
        assert sorted(place.rglob("*")) == before
        return str(error.value)

    return call


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"targets": "empty.parquet"}, "there is no target, so there is nothing to mine"),
        ({"pool": "empty.parquet"}, "there is no pool image"),
        ({"pool": "no.csv"}, "no.csv: does not exist"),
        ({"pool": "nameless.parquet"}, "has no column 'filepath'"),
        ({"pool": "gone.parquet"}, "2 of 2 image files of the pool are not there"),
        ({"pool": "folder", "within_label": True}, "the side of the pool has no column 'label'"),
        ({"model": "SigLap"}, "did you mean SigLIP"),
        ({"model_path": "/no/model"}, "the model folder does not exist"),
        ({"topn": 0}, "topn"),
        ({"image_ext": "jpg"}, "image_ext"),
        ({"device": "cuda:9"}, "device='cuda:9'"),
        ({"search_device": "mps"}, "device='mps'"),
        ({"reuse": "no.parquet"}, "no.parquet"),
        ({"pool": "folder", "run_dir": "folder/run"}, "lies in the input folder"),
        ({"out": "file"}, "is a file"),
        ({"out": "file/results"}, "is a file"),
        ({"out": "s3://bucket/results"}, "URL"),
        ({"run_dir": "full"}, "run_dir is not empty"),
        ({"targets": "one.parquet", "pool": "two.parquet"}, "they differ in weights"),
        ({"targets": "one.parquet", "pool": "three.parquet"}, "4 dimensions"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_work_starts(refused, settings, words):
    assert words in refused(**settings)


def test_a_missing_image_is_refused_where_it_would_end_the_run(refused, place):
    (place / "images" / "pool_110.png").rename(place / "images" / "pool_110.png.bak")
    shutil.copy("pool.parquet", "pool2.parquet")
    with pytest.raises(lookalike.ImagesFailed, match=r"1 of 20 image files of the pool are not there.*pool_110"):
        mine(on_error="raise")


def test_a_disk_that_is_too_small_is_refused_before_a_folder_is_made(place, monkeypatch):
    usage = type("Usage", (), {"free": 100})
    monkeypatch.setattr(run_checks.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(lookalike.TableError, match=r"the disk has 0.00 GiB free, and the vectors of 23 images"):
        mine()
    assert not Path("mining_results").exists()


def test_a_ready_table_of_another_encoder_is_refused_before_the_first_image(place):
    write_embeddings(place / "other.parquet", np.eye(3), who=identity(dimension=3))
    with pytest.raises(lookalike.EncoderMismatch, match="this run"):
        mine(pool="other.parquet")
    write_embeddings(place / "unknown.parquet", np.eye(5))
    with pytest.raises(lookalike.VectorError, match="5 dimensions, and the encoder gives 3"):
        mine(pool="unknown.parquet")
    assert (embedded(place), Path("mining_results").exists()) == ([], False)


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(place):
    before = sorted(place.rglob("*"))
    plan = plan_run(RunConfig("targets.parquet", "pool.parquet", cache_dir=str(place / "cache")))
    assert [side.rows for side in plan.sides] == [3, 20]
    assert (plan.cached, plan.encoder.endswith("corner, 3 dimensions")) == ({"targets": 0, "pool": 0}, True)
    assert plan.cache == "empty"
    assert re.match(r"about \d+ s to embed 23 images, ", plan.estimate)
    assert plan_run(RunConfig("targets.parquet", "pool.parquet", cache_dir="off")).cache == "off"
    assert [path for path in sorted(place.rglob("*")) if path.name != "log"] == before


def test_a_dry_run_knows_what_is_in_the_cache(place):
    for path in (place / "images").iterdir():  # a file that has just changed is known by its content only
        os.utime(path, (1e9, 1e9))
    mine(cache_dir=str(place / "cache"))
    plan = plan_run(RunConfig("targets.parquet", "pool.parquet", cache_dir=str(place / "cache")))
    assert (plan.cache, plan.cached) == ("used", {"targets": 3, "pool": 20})
    assert "all vectors are in the cache" in plan.estimate
    for path in (place / "images").glob("pool_11*"):  # known by their content only
        os.utime(path, (2e9, 2e9))
    plan = plan_run(RunConfig("targets.parquet", "pool.parquet", cache_dir=str(place / "cache")))
    assert plan.cached == {"targets": 3, "pool": 10}
    assert re.match(r"up to \d+ s to embed at most 10 images, ", plan.estimate)


# Folders


def test_runs_of_the_same_second_do_not_collide(tmp_path, monkeypatch):
    monkeypatch.setattr(run_state, "planned_folder", lambda config: tmp_path / "mining_results" / "2026-01-02_030405")
    claimed = []
    threads = [Thread(target=lambda: claimed.append(run_state.claim_folder(RunConfig()).path)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = {"2026-01-02_030405", *(f"2026-01-02_030405_{number}" for number in range(2, 9))}
    assert (names(tmp_path / "mining_results"), len(set(claimed))) == (expected, 8)


def test_a_folder_that_another_process_works_on(place):
    run = mine(run_dir="run")
    run_state.RunState("now", str(place), {}).write(run.folder)
    with run_state.RunLock(run.folder), pytest.raises(lookalike.ConfigError, match="another process"):
        lookalike.resume_run("run")


# What happens on the way


def test_all_targets_bad_is_an_error_and_the_folder_keeps_the_log(place):
    for path in (place / "images").glob("targets_*"):
        path.write_bytes(b"rubbish")
    with pytest.raises(lookalike.ImagesFailed, match="none of the 3 images could be embedded: 3 not_an_image"):
        mine(run_dir="run")
    log = Path("run/run.log").read_text()
    assert "none of the 3 images could be embedded" in log
    assert f"lookalike mine --resume {place / 'run'}" in log
    assert not Path("run/Mining_Report.md").exists()


@pytest.fixture
def vanishing(place, monkeypatch):
    """An encoder that removes a file when it sees its first image."""

    def vanish(path):
        class Vanishing(CountedEncoder):
            def start(self, pixels):
                path.unlink(missing_ok=True)
                return super().start(pixels)

        monkeypatch.setattr(run_checks, "open_encoder", lambda *arguments: Vanishing(place / "log", 0.0))

    return vanish


def test_a_pool_image_that_vanishes_is_set_aside(place, vanishing):
    vanishing(place / "images" / "pool_119.png")
    run = mine()
    assert run.record.pool.quarantined == {"missing": 1}
    assert pq.read_table(run.folder.path / "source_embeddings_quarantine.parquet").num_rows == 1


def test_a_pool_table_that_vanishes_is_named(place, vanishing):
    vanishing(place / "pool.parquet")
    with pytest.raises(lookalike.TableError, match=r"pool\.parquet: does not exist"):
        mine(run_dir="run")
    assert "--resume" in Path("run/run.log").read_text()


# Stopped and continued


def test_a_killed_run_goes_on_and_gives_the_same_tables(place):
    """Killed with the targets done and some of the pool's 5 shards: neither is embedded again."""
    done = stopped(place, "SIGKILL", 3 + 14)
    assert done.returncode == -signal.SIGKILL
    assert Path("stopped/target_embeddings.parquet").exists()
    assert not Path("stopped/mined.parquet").exists()
    before = embedded(place)
    run = lookalike.resume_run("stopped")
    again = embedded(place)[len(before) :]
    assert set(again).isdisjoint({0, 1, 2, *range(100, 104)})
    assert set(again) | set(before) == {0, 1, 2, *range(100, 120)}
    undisturbed = mine(run_dir="undisturbed", shard_rows=4, batch_size=2)
    for name in TABLES:
        assert (run.folder.path / name).read_bytes() == (undisturbed.folder.path / name).read_bytes()
    assert run.record.targets.embedded == 3
    assert run.record.targets.continued == 0
    assert run.record.pool.continued == 20 - len(set(again))
    assert "going on with the run that began at" in run.folder.log.read_text()
    assert not [name for name in names("stopped") if name.startswith(".")]


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_stopped_run_says_how_to_go_on(place, number):
    done = stopped(place, number, 10)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    what = {"SIGTERM": "SIGTERM", "SIGINT": "Ctrl-C"}[number]
    resume = f"  The run is not finished; to go on: lookalike mine --resume {place / 'stopped'}"
    kept = f"  Nothing is lost: what is finished is kept in {place / 'stopped'}"
    lines = done.stderr.splitlines()
    assert lines[-3:] == [f"Error: interrupted ({what})", kept, resume]
    assert all(line.startswith("INFO ") for line in lines[:-3]), "nothing else is said of it"
    assert [failure.code for failure in known_failures("lookalike mine", done.stderr)] == ["unfinished"]
    log = Path("stopped/run.log").read_text()
    assert "stopped by" in log
    assert resume.strip() in log
    with pytest.raises(lookalike.ConfigError, match="holds an unfinished run"):
        mine(run_dir="stopped")


def test_a_changed_input_is_said_and_embedded_again(place):
    stopped(place, "SIGKILL", 3 + 10)
    table = pq.read_table("targets.parquet")
    pq.write_table(table.slice(0, 2), "targets.parquet")
    run = lookalike.resume_run("stopped")
    assert run.record.targets.rows == run.counts.targets == 2
    assert "the targets were changed after this run began" in run.folder.log.read_text()


def test_going_on_from_another_folder(place, monkeypatch):
    stopped(place, "SIGKILL", 5)
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    with pytest.raises(lookalike.ConfigError, match="relative paths") as error:
        lookalike.resume_run(place / "stopped")
    assert f"go to {place}" in str(error.value)


def test_going_on_with_what_is_no_run(place):
    with pytest.raises(lookalike.ConfigError, match="is not a run"):
        lookalike.resume_run("images")


def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_later(place):
    """A file size limit stands in for a full disk: the same OSError from the same write."""
    words = ["mine", "--targets", "targets.parquet", "--pool", "pool.parquet", "--run-dir", "stopped", "cache_dir=off"]
    limited = ["bash", "-c", 'ulimit -f 4; exec "$@"', "bash", sys.executable, str(PROGRAM), "SIGKILL", "1000", "log"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([*limited, *words], cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be written" in done.stderr
    assert "File too large" in done.stderr
    assert done.stderr.splitlines()[-1].endswith(f"to go on: lookalike mine --resume {place / 'stopped'}")
    assert "Traceback" not in done.stderr
    assert not list(Path("stopped").rglob("*.tmp"))
    assert json.loads(Path("stopped/.run_state.json").read_text())
    assert lookalike.resume_run("stopped").counts.targets == 3


def test_a_run_that_is_stopped_right_after_its_beginning_goes_on(place, monkeypatch, caplog):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("lookalike.workflow.run.write_inputs", stop)
        with pytest.raises(KeyboardInterrupt):
            mine(run_dir="stopped")
    caplog.clear()
    run = lookalike.resume_run("stopped")
    assert "were changed" not in caplog.text
    assert run.report.is_file()
    assert check_run(run.folder.path) == []
