"""Going on with runs that were stopped: late, early, without their inputs, and where going on cannot help."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from lookalike.tables.run_folder import RunFolder
from lookalike.workflow import run_steps
from lookalike.workflow.check import check_run
from support.counted_run import CountedEncoder
from support.embeddings import write_embeddings

PLAIN = {"cache_dir": "off", "leak_reads": 0, "scoring": "nearest", "self_match": "keep"}


def stop(*_, **__):
    raise KeyboardInterrupt


def stopped(monkeypatch, step, targets="targets.parquet", pool="pool.parquet", **settings):
    """A run that ends where a step of it begins."""
    with monkeypatch.context() as patch:
        patch.setattr(f"lookalike.workflow.{step}", stop)
        with pytest.raises(KeyboardInterrupt):
            lookalike.run(targets, pool, run_dir="stopped", **{**PLAIN, **settings})


def mined(folder):
    return pq.read_table(Path(folder) / "mined.parquet").column("filepath").to_pylist()


@pytest.mark.parametrize("pool", ["images/pool", "pool.csv", "pool.parquet", "vectors.parquet"])
def test_what_is_embedded_needs_its_images_and_its_table_no_more(place, monkeypatch, caplog, pool):
    Path("images/pool").mkdir()
    paths = []
    for path in sorted((place / "images").glob("pool_*")):
        paths.append(str(path.rename(place / "images" / "pool" / path.name)))
    Path("pool.csv").write_text("filepath\n" + "\n".join(paths) + "\n")
    pq.write_table(pa.table({"filepath": paths}), "pool.parquet")
    vectors = [[1.0, 2.0, float(row)] for row in range(20)]
    write_embeddings(place / "vectors.parquet", vectors, filepaths=paths, who=CountedEncoder.identity)
    lookalike.run("targets.parquet", pool, run_dir="undisturbed", **PLAIN)
    stopped(monkeypatch, "run_steps._draw", pool=pool)
    (place / "images").rename(place / "elsewhere")
    (place / "images").mkdir()
    if not pool.startswith("images"):
        Path(pool).rename(f"{pool}.bak")
    (place / "log").unlink()
    run = lookalike.resume_run("stopped")
    assert (place / "log").read_text() == "", "nothing is embedded again"
    assert mined("stopped") == mined("undisturbed")
    assert (run.record.pool.rows, run.record.pool.embedded) == (20, 20)
    assert run.record.pool.kind == json.loads(Path("undisturbed/run.json").read_text())["pool"]["kind"]
    assert "their vectors are there already" in caplog.text
    assert [one for one in check_run("stopped") if one.severity == "error"] == []


def test_a_pool_that_was_changed_is_embedded_again_and_must_have_its_images(place, monkeypatch):
    stopped(monkeypatch, "run_steps._draw")
    pq.write_table(pa.table({"filepath": ["nowhere/1.png"]}), "pool.parquet")
    with pytest.raises(lookalike.ImagesFailed, match="of the pool are not there"):
        lookalike.resume_run("stopped")


def test_a_table_in_memory_goes_on_from_the_first_moment(place, monkeypatch):
    table = pq.read_table("targets.parquet")
    for step in ("run.write_inputs", "run.work"):
        stopped(monkeypatch, step, targets=table)
        run = lookalike.resume_run("stopped")
        assert run.counts.targets == 3
        assert check_run("stopped") == []
        run.folder.path.rename(step)


def test_no_advice_to_go_on_where_that_leads_to_the_same_error(place, monkeypatch):
    stopped(monkeypatch, "run.work", max_per_label=2, scoring="auto")
    pq.write_table(pq.read_table("targets.parquet").drop_columns("label"), "targets.parquet")
    with pytest.raises(lookalike.ConfigError, match="max_per_label") as error:
        lookalike.resume_run("stopped")
    assert not any("--resume" in note for note in getattr(error.value, "__notes__", ()))
    assert "max_per_label" in Path("stopped/run.log").read_text()


def test_the_ledger_comes_before_the_report(place, monkeypatch):
    def late(*_):
        raise lookalike.TableError("another run added an iteration")

    with monkeypatch.context() as patch:
        patch.setattr(run_steps, "remember", late)
        with pytest.raises(lookalike.TableError, match="another run"):
            lookalike.run("targets.parquet", "pool.parquet", run_dir="stopped", history="ledger.json", **PLAIN)
    assert not Path("stopped/Mining_Report.md").exists()
    run = lookalike.resume_run("stopped")
    assert run.report.is_file()
    assert len(json.loads(Path("ledger.json").read_text())["iterations"]) == 1


def test_a_ledger_that_went_on_is_not_written_again(place, monkeypatch):
    """The run is in the ledger, its report is not written, and another run follows it."""
    settings = {**PLAIN, "history": "ledger.json", "topn": 1}
    with monkeypatch.context() as patch:
        patch.setattr("lookalike.reports.report.store_report", stop)
        with pytest.raises(KeyboardInterrupt):
            lookalike.run("targets.parquet", "pool.parquet", run_dir="stopped", **settings)
    lookalike.run("targets.parquet", "pool.parquet", run_dir="next", **settings)
    before = Path("ledger.json").read_bytes(), mined("stopped")
    with pytest.raises(lookalike.ConfigError, match="a later iteration"):
        lookalike.resume_run("stopped")
    assert (Path("ledger.json").read_bytes(), mined("stopped")) == before


def test_an_unfinished_run_is_a_finding_whatever_else_is_there(place):
    run = lookalike.run("targets.parquet", "pool.parquet", run_dir="run", **PLAIN)
    assert check_run("run") == []
    Path("run/.run_state.json").write_text("{}")
    (finding,) = check_run(RunFolder(run.folder.path).path)
    assert (finding.severity, finding.rule) == ("error", "unfinished")
    assert "lookalike mine --resume" in finding.hint


def test_what_could_not_be_packaged_is_logged(place, monkeypatch, caplog):
    kept = run_steps.package_run

    def package(folder):
        folder.embedding_spec.rename(folder.path / "away")
        lines = kept(folder)
        (folder.path / "away").rename(folder.embedding_spec)
        return lines

    monkeypatch.setattr(run_steps, "package_run", package)
    lookalike.run("targets.parquet", "pool.parquet", run_dir="run", **PLAIN)
    assert "WARNING lookalike.workflow.run_steps: not packaged: embedding_spec.yaml" in Path("run/run.log").read_text()
