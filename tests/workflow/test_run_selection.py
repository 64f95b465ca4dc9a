"""A run that selects by score: its record, its tables, what became of every pool image, and the history."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import lookalike
from lookalike.workflow.check import check_run
from lookalike.workflow.mining import mine
from lookalike.workflow.why import explain, sentence
from support.embeddings import identity, write_embeddings
from support.runs import make_images


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Twelve targets of a kind that 30 of 120 pool images are of, too; the pool holds one of the targets itself."""
    random = np.random.default_rng(0)
    kind = np.r_[np.ones(3), np.zeros(9)] * 4
    targets = random.standard_normal((12, 12)) + kind
    pool = random.standard_normal((120, 12))
    pool[:30] += kind
    pool[119] = targets[0]
    who = identity(dimension=12)
    paths = make_images(tmp_path / "images", 12, "target"), make_images(tmp_path / "images", 119, "pool")
    write_embeddings(tmp_path / "targets.parquet", targets, filepaths=paths[0], labels=["weak"] * 12, who=who)
    pool_paths = [*paths[1], paths[0][0]]
    write_embeddings(
        tmp_path / "pool.parquet", pool, filepaths=pool_paths, labels=["weak"] * 30 + ["fine"] * 90, who=who
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(**settings):
    return lookalike.run("targets.parquet", "pool.parquet", leak_reads=0, **settings)


def errors(folder):
    return [finding for finding in check_run(folder.path) if finding.severity == "error"]


def mined(folder):
    return pq.read_table(folder.mined).column("filepath").to_pylist()


def test_a_run_selects_by_score_and_says_why(place):
    done = run(run_dir="run", topn=2)
    selection = json.loads((place / "run" / "run.json").read_text())["selection"]
    assert selection["scoring"] in ("blend", "density_ratio", "lda")
    assert {one["scoring"] for one in selection["tried"]} == {"nearest", "density_ratio", "lda"}
    assert selection["tried"] == sorted(selection["tried"], key=lambda one: one["log_rank"])
    assert errors(done.folder) == []
    report = done.report.read_text()
    assert "Images were selected by score" in report
    assert "typical rank" in report
    assert "Chosen" in done.folder.gallery.read_text()
    good = sum("pool_0" in path and int(path[-7:-4]) < 30 for path in mined(done.folder))
    assert good / done.counts.unique > 0.8  # by chance: 0.25


@pytest.mark.parametrize("settings", [{"topn": 2}, {"budget": 24, "max_per_target": 2}], ids=str)
def test_every_pool_image_has_an_outcome(place, settings):
    """With a limit a target, images are kept for targets that are not their nearest."""
    done = run(run_dir="run", **settings)
    outcomes = pq.read_table(done.folder.outcomes).to_pylist()
    pool = pq.read_table(done.folder.pool).column("filepath").to_pylist()
    assert [row["filepath"] for row in outcomes] == pool
    kept = {row["filepath"] for row in outcomes if row["outcome"] == "kept"}
    assert kept == set(mined(done.folder))
    pairs = {
        row["source_filepath"]: row for row in pq.read_table(done.folder.pairs).to_pylist() if row["outcome"] == "kept"
    }
    for row in outcomes:
        if row["outcome"] == "kept":
            assert (row["target_row"], row["distance"]) == tuple(
                pairs[row["filepath"]][key] for key in ("target_row", "distance")
            )
            assert "mined for" in sentence(row)
        else:
            assert "not mined" in sentence(row)
    itself = explain(done.folder.path, ["target_000.png"])
    assert [(row["outcome"], row["rule"]) for row in itself] == [("excluded", "self_match")]
    assert "it is a target itself" in sentence(itself[0])
    with pytest.raises(lookalike.TableError, match=r"not in the pool of this run: nothing\.png"):
        explain(done.folder.path, ["nothing.png"])


def test_the_spec_reproduces_a_run_with_all_rules(place):
    pq.write_table(pq.read_table("pool.parquet").slice(100, 5), "avoid.parquet")
    pq.write_table(pq.read_table("pool.parquet", columns=["filepath"]).slice(0, 3), "unwanted.parquet")
    done = run(
        run_dir="run", budget=15, dedup_threshold=0.01, diversity=0.2, avoid="avoid.parquet", max_per_target=3,
        exclude="unwanted.parquet", filter_by_label=True,
    )  # fmt: skip
    assert errors(done.folder) == []
    before = mined(done.folder)
    assert 0 < len(before) <= 15
    left = {path.rsplit("/")[-1] for path in before}
    assert not {f"pool_{number}.png" for number in range(100, 105)} & left, "images to avoid"
    assert not {"pool_000.png", "pool_001.png", "pool_002.png"} & left
    rules = {row["rule"] for row in pq.read_table(done.folder.excluded).to_pylist()}
    assert rules == {"excluded", "self_match"}
    spec = str(done.folder.mining_spec)
    program = "import sys; sys.argv = ['tmm', *sys.argv[1:]]; from lookalike.cli.dropin import tmm; tmm()"
    words = ["nearest_neighbors", "-e", spec, "output_parquet=again/mined.parquet"]
    again = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert pq.read_table("again/mined.parquet").column("filepath").to_pylist() == before


def test_with_every_rule_on_the_folder_answers_for_every_image(place, run_command):
    """Mined or not, for which target, at what distance and score, and which rule with which setting stopped it."""
    run(run_dir="first", budget=3, history="history.json")
    pq.write_table(pq.read_table("pool.parquet").slice(100, 5), "avoid.parquet")
    pq.write_table(pq.read_table("pool.parquet").slice(90, 4), "tests.parquet")
    pq.write_table(pq.read_table("pool.parquet", columns=["filepath"]).slice(40, 3), "unwanted.parquet")
    targets = pq.read_table("targets.parquet")
    pq.write_table(targets.append_column("weakness", pa.array(np.linspace(0.1, 1, 12))), "targets.parquet")
    done = run(
        run_dir="run", budget=18, history="history.json", avoid="avoid.parquet", protect="tests.parquet",
        exclude="unwanted.parquet", target_weight_column="weakness", dedup_threshold=0.02, diversity=0.3,
        max_per_target=3, max_per_label=12, filter_by_label=True, distance_threshold=0.6, min_similarity=0.3,
    )  # fmt: skip
    assert errors(done.folder) == []
    settings = done.record.settings
    rows = pq.read_table(done.folder.outcomes).to_pylist()
    told = {row["filepath"]: sentence(row, settings) for row in rows}
    kept = [row for row in rows if row["outcome"] == "kept"]
    assert {row["filepath"] for row in kept} == set(mined(done.folder))
    for row in rows:
        text = told[row["filepath"]]
        if row["outcome"] == "kept":
            assert f"mined for {row['target_filepath']} (" in text
            assert f"distance {row['distance']:.4g}, score {row['score']:.4g})" in text
        else:
            assert f"(rule {row['rule'] or row['outcome']})" in text
            assert (row["rule"] is not None) == (row["outcome"] == "excluded")
    rules = {row["rule"] for row in rows} - {None}
    assert rules == {"already_mined", "excluded", "protected_path", "self_match"}
    assert {row["outcome"] for row in rows} > {"kept", "excluded", "label_mismatch"}
    limited = [text for text in told.values() if "(rule over_label_limit)" in text]
    assert limited
    assert all("(max_per_label=12)" in text for text in limited)
    words = run_command("lookalike", "why", "run", kept[0]["filepath"], cwd=place)
    assert words.stdout.strip() == told[kept[0]["filepath"]]


def test_a_large_setting_is_told_as_it_is():
    fate = {"outcome": "over_budget", "filepath": "a.png", "target_filepath": None, "because_of": None, "rule": None}
    assert "the budget was full (budget=1234567) (rule over_budget)" in sentence(fate, {"budget": 1234567.0})
    assert "(distance_threshold=0.3)" in sentence({**fate, "outcome": "over_distance"}, {"distance_threshold": 0.3})


def test_a_pool_of_targets_only(place):
    done = lookalike.run("targets.parquet", "targets.parquet", run_dir="run", leak_reads=0)
    assert done.counts.unique == 0
    assert {row["rule"] for row in pq.read_table(done.folder.outcomes).to_pylist()} == {"self_match"}
    assert errors(done.folder) == []
    both = lookalike.run("targets.parquet", "targets.parquet", run_dir="both", leak_reads=0, self_match="keep")
    assert 0 < both.counts.unique <= 12
    assert errors(both.folder) == []


def test_iterations_bring_new_images(place):
    first = run(run_dir="one", history="ledger/history.json", topn=2)
    second = run(run_dir="two", history="ledger/history.json", iteration=2, topn=2)
    assert not set(mined(first.folder)) & set(mined(second.folder))
    ledger = json.loads((place / "ledger" / "history.json").read_text())
    assert [one["selected_filepaths"] for one in ledger["iterations"]] == [mined(first.folder), mined(second.folder)]
    known = explain(second.folder.path, mined(first.folder)[:1])
    assert [row["rule"] for row in known] == ["already_mined"]
    assert sentence(known[0]).endswith(": not mined: an earlier iteration mined it (iteration 1) (rule already_mined)")
    with pytest.raises(lookalike.ConfigError, match="iteration=2 was mined already"):
        run(run_dir="three", history="ledger/history.json", iteration=2)
    with pytest.raises(lookalike.ConfigError, match="needs a history"):
        run(run_dir="three", iteration=2)
    assert not (place / "three").exists()


def test_a_poor_iteration_is_a_warning(place):
    run(run_dir="one", history="history.json", budget=100, min_per_target=0)
    second = run(run_dir="two", history="history.json", budget=100, min_per_target=0)
    assert any("the pool may be exhausted" in warning for warning in second.warnings)


def test_labels_that_the_pool_lacks(place):
    targets = pq.read_table("targets.parquet").drop_columns("label")
    targets = targets.append_column("label", [["weak"] * 10 + ["lifted lead", "short"]])
    pq.write_table(targets, "targets.parquet")
    done = run(run_dir="run")
    assert any("no image of 2 of the targets' 3 labels: 'LIFTED LEAD', 'SHORT'" in one for one in done.warnings)


def test_nearest_stays_as_the_contract_has_it(place):
    done = run(run_dir="run", scoring="nearest", self_match="keep", topn=2)
    assert done.record.selection is None
    plain = mine("pool.parquet", "targets.parquet", "plain/mined.parquet", topn=2, knn_metric="cosine")
    assert mined(done.folder) == pq.read_table(plain.path).column("filepath").to_pylist()
    outcomes = pq.read_table(done.folder.outcomes).column("outcome").to_pylist()
    assert {"kept", "beyond_topn"} <= set(outcomes)


def test_weights_that_are_no_numbers(place):
    for settings, words in (
        ({"target_weight_column": "label"}, "holds string, not numbers"),
        ({"target_weight_column": "weakness"}, "has no column 'weakness'"),
        ({"target_weight_column": "label", "scoring": "nearest"}, "scoring=nearest has none"),
    ):
        with pytest.raises(lookalike.LookalikeError, match=words):
            run(run_dir=f"run-{len(words)}", **settings)


def test_a_column_that_is_missing_and_a_ledger_that_cannot_be_are_refused_before_any_work(place):
    (place / "file").write_text("in the way")
    for settings, words in (
        ({"target_weight_column": "weakness"}, "has no column 'weakness'"),
        ({"history": "file/history.json"}, "file"),
    ):
        with pytest.raises(lookalike.LookalikeError, match=words) as error:
            run(run_dir="run", **settings)
        assert "--resume" not in " ".join(getattr(error.value, "__notes__", []))
        assert not (place / "run").exists()


def test_a_dry_run_makes_no_folder_for_the_ledger(place, run_command):
    words = ("--targets", "targets.parquet", "--pool", "pool.parquet", "--dry-run", "history=ledger/history.json")
    assert run_command("lookalike", "mine", *words, cwd=place).returncode == 0
    assert not (place / "ledger").exists()


def commands_of(report):
    """The searches that a report recommends."""
    lines = (line.strip() for line in report.read_text().splitlines())
    return [shlex.split(line) for line in lines if line.startswith("tmm nearest_neighbors")]


@pytest.mark.parametrize("settings", [{"scoring": "nearest", "topn": 1}, {"budget": 20}, {}], ids=str)
def test_a_search_that_the_report_recommends_keeps_out_what_the_run_kept_out(place, settings, run_command):
    tests = pq.read_table("pool.parquet").slice(0, 10)
    pq.write_table(tests, "tests.parquet")
    done = run(run_dir="run", protect="tests.parquet", **{"topn": 2, **settings})
    barred = set(pq.read_table(done.folder.excluded).column("filepath").to_pylist())
    assert barred > set(tests.column("filepath").to_pylist())
    (command,) = commands_of(done.report)
    assert run_command(*command, cwd=place).returncode == 0
    again = next(Path(word.partition("=")[2]) for word in command if word.startswith("output_parquet="))
    found = pq.read_table(again).column("filepath").to_pylist()
    assert len(found) > done.counts.unique
    assert not barred & set(found)
    report = done.report.read_text()
    assert f"searched {120 - len(barred)} pool images ({len(barred)} others were left out: " in report
    for rule, number in done.record.excluded["rules"].items():
        assert re.search(rf"{number} `?{rule}`?", report), rule
    assert f"No: {120 - len(barred) - done.counts.unique} pool images that may be mined are not mined yet" in report
    assert "nearly exhausted" not in report


def test_a_report_tells_labels_that_do_not_meet_and_a_pool_that_is_barred(place):
    targets = pq.read_table("targets.parquet").drop_columns("label")
    pq.write_table(targets.append_column("label", [["other"] * 12]), "targets.parquet")
    report = run(run_dir="labels", filter_by_label="true").report.read_text()
    assert "no target's label occurs in the pool, and `filter_by_label` allows no other" in report
    assert "The same search among all labels:" in report
    report = run(run_dir="barred", exclude="pool.parquet").report.read_text()
    assert "all 120 pool images were left out" in report
    assert "Yes: nothing is left that may be mined" in report


def test_a_run_that_the_ledger_stopped_is_unfinished(place, monkeypatch):
    from lookalike.workflow import run_steps

    def late(*arguments):
        raise lookalike.TableError("another run", where="ledger")

    with monkeypatch.context() as patch:
        patch.setattr(run_steps, "remember", late)
        with pytest.raises(lookalike.TableError):
            run(run_dir="run", history="history.json")
    assert not (place / "run" / "Mining_Report.md").exists()
    assert "unfinished" in [finding.rule for finding in check_run("run")]


def test_a_pool_that_is_excluded_as_a_whole(place):
    done = run(run_dir="run", exclude="pool.parquet")
    assert done.counts.unique == 0
    assert any("every row of the pool is" in warning for warning in done.warnings)
    assert errors(done.folder) == []
    report = done.report.read_text(encoding="utf-8")
    assert "were left out before the search" in report
    assert "every row of the pool is" not in report, "told twice"


def test_a_target_in_the_pool_is_left_out_and_that_is_said(place):
    done = run(run_dir="run")
    words = "1 of 12 targets are in the pool, too (by path): they are left out (self_match=exclude)"
    assert words in done.warnings
    assert not set(mined(done.folder)) & set(pq.read_table("targets.parquet").column("filepath").to_pylist())


def test_two_runs_on_one_ledger_never_mine_the_same(place, monkeypatch):
    """The second one adds its iteration while the first one draws; the first one stops, and goes on without it."""
    from lookalike.workflow import run_steps

    remember = run_steps.remember

    def late(*arguments):
        with monkeypatch.context() as patch:
            patch.setattr(run_steps, "remember", remember)
            run(run_dir="other", history="history.json", topn=2)
        remember(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(run_steps, "remember", late)
        with pytest.raises(lookalike.TableError, match="another run added an iteration"):
            run(run_dir="first", history="history.json", topn=2)
    ledger = json.loads((place / "history.json").read_text())
    assert len(ledger["iterations"]) == 1
    done = lookalike.resume_run("first")
    ledger = json.loads((place / "history.json").read_text())
    assert ledger["iterations"][1]["selected_filepaths"] == mined(done.folder)
    assert not set(mined(done.folder)) & set(ledger["iterations"][0]["selected_filepaths"])


def test_images_to_avoid_are_not_mined_themselves(place):
    first = mined(run(run_dir="first", topn=2, scoring="lda").folder)[:3]
    pool = pq.read_table("pool.parquet")
    rows = [row for row, path in enumerate(pool.column("filepath").to_pylist()) if path in first]
    pq.write_table(pool.take(rows), "avoid.parquet")
    done = run(run_dir="second", topn=2, scoring="lda", avoid="avoid.parquet", avoid_weight=0)
    assert not set(first) & set(mined(done.folder))


def test_a_path_that_the_pool_has_twice_is_mined_once(place):
    pool = pq.read_table("pool.parquet")
    pq.write_table(pa.concat_tables([pool, pool.slice(0, 30)]), "pool.parquet")
    done = run(run_dir="run", topn=2)
    assert len(mined(done.folder)) == len(set(mined(done.folder))) == done.counts.unique
    assert errors(done.folder) == []


def test_the_gallery_shows_what_is_kept_and_the_nearest_only(place):
    done = run(run_dir="run", topn=1)
    pairs = pq.read_table(done.folder.pairs).to_pylist()
    shown = {row["source_filepath"] for row in pairs if row["outcome"] == "kept" or row["rank"] == 1}
    hidden = {row["source_filepath"] for row in pairs} - shown
    page = done.folder.gallery.read_text()
    assert hidden
    assert all(path.rsplit("/")[-1] in page for path in shown)
    assert not any(path.rsplit("/")[-1] in page for path in hidden)
