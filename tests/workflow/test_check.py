"""`lookalike check`: a run in order has no findings; whatever is broken is found, and nothing else is."""

import json
import os
import re
import shutil
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

import lookalike
from lookalike.errors import TableError
from lookalike.tables.run_folder import FileRecord, RunFolder, file_record, read_record
from lookalike.workflow.check import check_run, run_notes
from lookalike.workflow.gallery import remake_gallery
from lookalike.workflow.review import review
from lookalike.workflow.run_state import RunState
from lookalike.workflow.viewer import open_site
from support.embeddings import identity, write_embeddings
from support.reports import FILLER, make_finished_run, report_text
from support.runs import make_images

LABELS = {"target_labels": ["ok", "bad", "ok", "bad"], "pool_labels": ["ok", "bad"] * 10}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run in order, with both filters on. Read only."""
    folder = tmp_path_factory.mktemp("runs") / "2026-11-23_120000"
    return make_finished_run(folder, filter_by_label="true", distance_threshold=0.9, **LABELS)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of that run elsewhere, to be broken: moving a run breaks nothing."""
    shutil.copytree(finished.path, tmp_path / "moved")
    return RunFolder(tmp_path / "moved")


def rules(run):
    return {str(finding.rule) for finding in check_run(run.path)}


def accept(run, *paths):
    """Write the digests of changed files into the record, so that only their contents can be found wrong."""
    record = read_record(run)
    changed = {path.name: file_record(path) for path in paths}
    replace(record, files={**record.files, **changed}).write(run)


def rewrite(run, path, change):
    """Change a table, and accept its digest."""
    pq.write_table(change(pq.read_table(path)), path)
    accept(run, path)


def rewrite_text(run, path, *pairs):
    """Replace text in a file, and accept its digest where it has one."""
    text = path.read_text(encoding="utf-8")
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")
    if path.name in read_record(run).files:
        accept(run, path)


def with_column(name, values):
    """A change of a table that puts other values into a column."""

    def change(table):
        place = table.column_names.index(name)
        column = values(table.column(name)) if callable(values) else values
        return table.set_column(place, table.schema.field(name), column.cast(table.schema.field(name).type))

    return change


def edited_record(run, **changes):
    replace(read_record(run), **changes).write(run)


def test_a_run_in_order_has_no_findings_and_may_be_moved(finished, run):
    assert check_run(finished.path) == []
    assert check_run(run.path) == []


@pytest.mark.parametrize("settings", [{}, {"topn": 30}, {"targets": 1, "topn": 1}, {"distance_threshold": 0.0}])
def test_runs_of_other_shapes_have_no_findings(tmp_path, settings):
    """No labels, topn beyond the pool, one target, nothing mined."""
    run = make_finished_run(tmp_path / "run", **{"targets": 3, "pool": 8, **settings})
    assert check_run(run.path) == []


# Files


@pytest.mark.parametrize(
    "name",
    ["Mining_Report.md", "gallery.html", "plots/distances.png", "mined.parquet", "mined_pairs.parquet",
     "mining_summary.txt", "target_embeddings.parquet", "source_embeddings.parquet", "embedding_spec.yaml",
     "mining_spec.yaml", "run.log"],
)  # fmt: skip
def test_a_missing_file_is_named_once(run, name):
    (run.path / name).unlink()
    (found,) = check_run(run.path)
    assert (found.rule, found.where, found.message) == ("artifact", name, "is missing")
    assert found.severity == ("warning" if name in ("gallery.html", "plots/distances.png") else "error")


@pytest.mark.parametrize("name", ["gallery.html", "plots/distances.png", "mined.parquet"])
def test_a_file_that_is_cut_off(run, name):
    path = run.path / name
    path.write_bytes(path.read_bytes()[:-20])
    if name == "mined.parquet":
        accept(run, path)
    assert rules(run) <= {"artifact", "table"}
    assert any(found.where == name and "no whole" in found.message for found in check_run(run.path))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
@pytest.mark.parametrize("name", ["Mining_Report.md", "mining_summary.txt", "mining_spec.yaml", "run.json"])
def test_a_pipe_is_not_waited_for(run, name):
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    assert [(finding.where, finding.message) for finding in check_run(run.path)] == [(name, "is not a file")]


def test_an_empty_file_and_a_folder_in_the_place_of_a_file(run):
    run.gallery.write_text("")
    assert [found.message for found in check_run(run.path)] == ["is empty"]
    run.gallery.unlink()
    run.gallery.mkdir()
    assert [found.message for found in check_run(run.path)] == ["is not a file"]


def test_a_file_that_was_changed_after_the_run(run):
    with run.mining_spec.open("a") as stream:
        stream.write("# a remark\n")
    (found,) = check_run(run.path)
    assert (found.rule, found.where) == ("changed", "mining_spec.yaml")


def test_a_file_that_only_the_record_names(run):
    files = read_record(run).files
    edited_record(run, files={**files, "extra.txt": FileRecord(1, "0" * 64)})
    (found,) = check_run(run.path)
    assert (found.rule, found.where) == ("artifact", "extra.txt")


def test_a_record_that_names_files_outside_the_folder(run):
    files = read_record(run).files
    for name in ("../../secret", "/plots/map.png", "a\0b"):
        edited_record(run, files={**files, name: FileRecord(1, "0" * 64)})
        assert rules(run) == {"record"}


# What is drawn, and what later commands make again


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A run of `lookalike.run` from ready tables: the record has its plots, gallery and report. Read only."""
    place = tmp_path_factory.mktemp("drawn")
    random = np.random.default_rng(0)
    for name, count in (("target", 5), ("pool", 20)):
        paths, labels = make_images(place / "images", count, name), ["ok", "bad", "bad", "ok", "bad"] * (count // 5)
        vectors = random.standard_normal((count, 8))
        write_embeddings(place / f"{name}.parquet", vectors, filepaths=paths, labels=labels, who=identity(dimension=8))
    return lookalike.run(place / "target.parquet", place / "pool.parquet", run_dir=place / "run", topn=3).folder


@pytest.fixture
def drawn_copy(drawn, tmp_path):
    """A copy of that run, to be changed."""
    shutil.copytree(drawn.path, tmp_path / "moved")
    return RunFolder(tmp_path / "moved")


DRAWN = ("plots/distances.png", "plots/labels.png", "plots/map.png", "gallery.html", "Mining_Report.md")


def test_the_record_has_what_is_drawn_and_the_report_with_their_times(drawn):
    record = read_record(drawn)
    assert {name: record.files[name] for name in DRAWN} == {name: file_record(drawn.path / name) for name in DRAWN}
    assert list(record.seconds)[-5:] == ["mine", "diagnose", "plots", "gallery", "report"]
    assert all(record.seconds[step] > 0 for step in ("plots", "gallery", "report"))
    written = [path.stat().st_mtime_ns for path in drawn.path.rglob("*") if path.is_file() and path != drawn.log]
    assert drawn.report.stat().st_mtime_ns == max(written), "the report is written last"
    assert "gallery" in drawn.report.read_text().split("Time: ")[1].split(".\n")[0]
    assert check_run(drawn.path) == []


@pytest.mark.parametrize("name", DRAWN)
def test_a_picture_or_report_that_was_changed_or_removed(drawn_copy, name):
    path = drawn_copy.path / name
    content = path.read_bytes()
    path.write_bytes(content[:-9] + content[-9:].swapcase() if path.suffix == ".html" else content[:40] + content[41:])
    found = [finding for finding in check_run(drawn_copy.path) if finding.rule == "changed"]
    assert [finding.where for finding in found] == [name]
    assert ("lookalike gallery" in found[0].hint) == (name == "gallery.html")
    path.unlink()
    (found,) = check_run(drawn_copy.path)
    assert (found.rule, found.where, found.message) == ("artifact", name, "is missing")
    assert found.severity == ("error" if name == "Mining_Report.md" else "warning")


def test_a_gallery_that_is_made_again_is_that_of_the_run(drawn_copy, run_command, monkeypatch, tmp_path):
    drawn_copy.gallery.write_text("<html>an older look</html>")
    assert [finding.rule for finding in check_run(drawn_copy.path)] == ["changed"]
    done = run_command("lookalike", "gallery", drawn_copy.path, cwd=tmp_path)
    assert (done.returncode, done.last_line) == (0, str(drawn_copy.gallery))
    assert check_run(drawn_copy.path) == []
    # Of a large run: more pages, and fewer again.
    monkeypatch.setattr("lookalike.reports.gallery_data.MOST_TARGETS", 2)
    remake_gallery(drawn_copy.path, every=True)
    assert {"gallery.html", "gallery_2.html", "gallery_3.html"} <= set(read_record(drawn_copy).files)
    assert check_run(drawn_copy.path) == []
    drawn_copy.path.joinpath("gallery_3.html").unlink()
    assert [(one.severity, one.where) for one in check_run(drawn_copy.path)] == [("warning", "gallery_3.html")]
    remake_gallery(drawn_copy.path)
    assert "gallery_2.html" not in read_record(drawn_copy).files
    assert check_run(drawn_copy.path) == []


def test_a_review_is_that_of_the_run(drawn_copy, tmp_path):
    mined = pq.read_table(drawn_copy.mined)["filepath"].to_pylist()
    for dropped in (mined[:1], mined[1:3]):  # the second one takes the place of the first
        rows = "".join(f"{path},drop\n" for path in dropped)
        (tmp_path / "decisions.csv").write_text("filepath,decision\n" + rows)
        assert review(drawn_copy.path, tmp_path / "decisions.csv").dropped == len(dropped)
        assert check_run(drawn_copy.path) == []
    pq.write_table(pq.read_table(drawn_copy.mined), drawn_copy.reviewed)
    (found,) = check_run(drawn_copy.path)
    assert (found.rule, found.where) == ("changed", "mined_reviewed.parquet")
    assert "lookalike review" in found.hint
    drawn_copy.reviewed.unlink()
    (found,) = check_run(drawn_copy.path)
    assert (found.severity, found.rule, found.where) == ("warning", "artifact", "mined_reviewed.parquet")


def test_a_run_that_did_not_end_is_not_shown_or_reviewed(drawn_copy, run_command, tmp_path):
    RunState("now", str(tmp_path), {}).write(drawn_copy)
    before = drawn_copy.record.read_bytes()
    for command in (["gallery"], ["export", "atlas"]):
        done = run_command("lookalike", *command, drawn_copy.path, cwd=tmp_path)
        assert done.returncode == 1
        assert f"this run is not finished\n  What to do: finish it: lookalike mine --resume {drawn_copy.path}\n" in (
            done.stderr
        )
    for call in (lambda: review(drawn_copy.path, tmp_path / "none.csv"), lambda: open_site(drawn_copy.path)):
        with pytest.raises(TableError, match="is not finished"):
            call()
    assert drawn_copy.record.read_bytes() == before


# What the run itself warned of


def test_the_warnings_of_the_run_are_notes_and_no_findings(run_command, tmp_path):
    warnings = ["2 zero vectors in the source table: their cosine distance is 1 to everything", "odd: \x1b[31mred"]
    run = make_finished_run(tmp_path / "run", warnings=warnings)
    assert check_run(run.path) == []
    assert run_notes(run.path) == warnings
    done = run_command("lookalike", "check", run.path, cwd=tmp_path)
    assert done.returncode == 0
    assert done.lines[0] == f"note     the run warned: {warnings[0]}"
    assert "\x1b" not in done.stdout
    assert done.last_line == f"0 errors, 0 warnings, 2 notes in {run.path}"
    done = run_command("lookalike", "check", run.path, "--json", cwd=tmp_path)
    content = json.loads(done.stdout)
    assert (done.returncode, content["ok"], content["warnings"], content["findings"]) == (0, True, 0, [])
    assert content["notes"] == warnings
    edited_record(run, warnings=[{"not": "text"}])
    assert rules(run) == {"record"}
    assert run_notes(run.path) == []
    run.record.unlink()
    assert run_notes(run.path) == []


def test_what_was_packaged_is_that_of_the_run_and_the_transcript_is_private(run):
    run.config.mkdir()
    shutil.copy(run.mining_spec, run.config)
    run.transcript.write_text("{}\n")
    run.transcript.chmod(0o600)
    assert check_run(run.path) == []
    (run.config / run.mining_spec.name).write_text("topn: 4\n")
    run.transcript.chmod(0o644)
    assert [(found.rule, found.where) for found in check_run(run.path)] == [
        ("package", "mining_config/mining_spec.yaml"), ("package", "claude_session.jsonl"),
    ]  # fmt: skip


# The record


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1}', '{"version": 99}', "\ud800"])
def test_a_record_that_cannot_be_read(run, text):
    run.record.write_bytes(text.encode("utf-8", "surrogatepass"))
    assert rules(run) == {"record"}


@pytest.mark.parametrize("field", ["settings", "counts", "model"])
def test_a_record_with_a_field_of_a_wrong_kind(run, field):
    content = json.loads(run.record.read_text())
    content[field] = ["wrong"]
    run.record.write_text(json.dumps(content))
    assert rules(run) == {"record"}


def test_a_record_that_was_removed_from_a_run_of_ours(run):
    run.record.unlink()
    (found,) = check_run(run.path)
    assert (found.severity, found.rule) == ("error", "record")


def test_labels_that_the_record_denies(run):
    record = read_record(run)
    edited_record(run, targets=replace(record.targets, has_label=False))
    assert rules(run) == {"record"}


def test_a_run_that_did_not_end_is_told_plainly(run):
    run.record.unlink()
    run.report.unlink()
    (found,) = check_run(run.path)
    assert found.rule == "unfinished"
    assert "did not end" in found.message
    assert "--resume" in found.hint


def test_a_run_made_elsewhere_is_checked_as_far_as_can_be(run):
    """As NVIDIA TAO's workflow leaves it: no record, pair table, log, gallery, plots or encoder identity."""
    for path in (run.record, run.pairs, run.log, run.gallery):
        path.unlink()
    shutil.rmtree(run.plots)
    for path in (run.targets, run.pool):
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    (found,) = check_run(run.path)
    assert (found.severity, found.rule) == ("warning", "made-elsewhere")
    pq.write_table(pa.table({"filepath": ["/elsewhere.png"] * 2}), run.mined)
    assert rules(run) == {"made-elsewhere", "mined", "counts", "path-missing"}


def test_what_is_no_run_folder_is_refused(run, tmp_path):
    (tmp_path / "empty").mkdir()
    for path, words in ((tmp_path / "nowhere", "does not exist"), (run.report, "is not a folder"),
                        (tmp_path / "empty", "holds no file of a mining run")):  # fmt: skip
        with pytest.raises(TableError, match=words):
            check_run(path)
    with pytest.raises(TableError, match=r"check .*moved"):
        check_run(tmp_path)


# Tables


def test_a_file_that_is_no_table(run):
    run.pairs.write_bytes(b"PAR1 not a table PAR1")
    accept(run, run.pairs)
    assert rules(run) == {"table"}


def test_a_table_that_is_damaged_in_the_middle(run):
    content = bytearray(run.pairs.read_bytes())
    content[20:200] = bytes(180)
    run.pairs.write_bytes(content)
    accept(run, run.pairs)
    assert rules(run) == {"table"}


@pytest.mark.parametrize(
    ("path", "change"),
    [
        ("mined", lambda table: table.append_column("extra", table.column(0))),
        ("mined", lambda table: table.rename_columns(["path"])),
        ("mined", lambda table: pa.table({"filepath": pa.array(range(table.num_rows))})),
        ("pairs", lambda table: table.drop_columns(["score"])),
        ("pairs", lambda table: table.set_column(6, "rank", table.column("rank").cast(pa.float64()))),
        ("targets", lambda table: table.rename_columns(["path", *table.column_names[1:]])),
        ("pool", lambda table: table.drop_columns(["embedding"])),
        ("pool", lambda table: table.set_column(1, "embedding", pa.array(["no vector"] * table.num_rows))),
    ],
)
def test_columns_that_readers_do_not_expect(run, path, change):
    rewrite(run, getattr(run, path), change)
    assert rules(run) == {"table"}


@pytest.mark.parametrize("vector", [None, [1.0], [float("nan")] * 8, [None] * 8])
def test_vectors_that_are_none(run, vector):
    def spoil(column):
        return pa.array([*column.to_pylist()[:-1], vector], column.type)

    rewrite(run, run.pool, with_column("embedding", spoil))
    assert rules(run) == {"vectors"}


def test_vectors_of_another_length(run):
    rewrite(run, run.pool, with_column("embedding", lambda column: pa.array([[1.0]] * len(column), column.type)))
    found = check_run(run.path)
    assert {finding.rule for finding in found} == {"vectors"}
    assert any("1 values a vector in source_embeddings.parquet" in finding.message for finding in found)


# Encoders


def signed(who):
    return lambda table: table.replace_schema_metadata({b"lookalike": who.to_json().encode()} if who else None)


def test_tables_of_two_encoders(run):
    other = identity(dimension=8, weights="c" * 64)
    rewrite(run, run.pool, signed(other))
    record = read_record(run)
    edited_record(run, pool=replace(record.pool, identity={"fingerprint": other.fingerprint, **asdict(other)}))
    (found,) = check_run(run.path)
    assert (found.severity, found.rule) == ("error", "encoder")
    assert "differ in weights" in found.message


def test_tables_of_one_encoder_that_is_not_the_one_in_the_record(run):
    other = signed(identity(dimension=8, weights="c" * 64))
    rewrite(run, run.pool, other)
    rewrite(run, run.targets, other)
    found = check_run(run.path)
    assert [(finding.rule, finding.where) for finding in found] == [
        ("encoder", "target_embeddings.parquet"), ("encoder", "source_embeddings.parquet"),
    ]  # fmt: skip


def test_encoders_that_round_otherwise_are_unknown_or_damaged(run):
    rewrite(run, run.pool, signed(identity(dimension=8, runtime="openvino")))
    (found,) = check_run(run.path)
    assert (found.severity, found.rule) == ("warning", "encoder")
    rewrite(run, run.pool, signed(None))
    (found,) = check_run(run.path)
    assert (found.severity, found.rule) == ("warning", "encoder")
    rewrite(run, run.pool, lambda table: table.replace_schema_metadata({b"lookalike": b"{}"}))
    (found,) = check_run(run.path)
    assert (found.severity, found.rule) == ("error", "encoder")


# Pairs and the mined table


def test_a_mined_table_that_does_not_follow_from_the_pairs(run):
    rewrite(run, run.mined, lambda table: table.take(list(range(table.num_rows))[::-1]))
    (found,) = check_run(run.path)
    assert found.rule == "mined"
    assert "another order" in found.message
    outside = [path for path in pq.read_table(run.pool)["filepath"].to_pylist()
               if path not in pq.read_table(run.mined)["filepath"].to_pylist()]  # fmt: skip
    rewrite(
        run,
        run.mined,
        with_column("filepath", lambda column: pa.chunked_array([[*column.to_pylist()[1:], outside[0]]])),
    )
    assert rules(run) == {"mined"}


def test_a_mined_path_that_is_there_twice(run):
    rewrite(
        run,
        run.mined,
        with_column("filepath", lambda column: pa.array([column[0].as_py(), *column.to_pylist()[:-1]])),
    )
    assert {finding.message.partition(" ")[0] for finding in check_run(run.path)} == {"has", "is"}
    assert rules(run) == {"mined"}


def test_a_reviewed_path_that_was_not_mined(run):
    pq.write_table(pq.read_table(run.mined).slice(0, 2), run.reviewed)
    assert check_run(run.path) == []
    pq.write_table(pa.table({"filepath": ["/not/mined.png"]}), run.reviewed)
    (found,) = check_run(run.path)
    assert (found.rule, found.where) == ("mined", "mined_reviewed.parquet")


def dropped_place(run):
    """The place of a pair that was dropped by its label."""
    return pq.read_table(run.pairs)["outcome"].to_pylist().index("label_mismatch")


@pytest.mark.parametrize(
    ("outcome", "words"), [("bewitched", "not known: bewitched"), (None, "1 pairs have no outcome")]
)
def test_a_pair_without_a_known_outcome(run, outcome, words):
    place = dropped_place(run)

    def spoil(column):
        values = column.to_pylist()
        values[place] = outcome
        return pa.array(values).dictionary_encode()

    rewrite(run, run.pairs, with_column("outcome", spoil))
    found = check_run(run.path)
    assert {finding.rule for finding in found} == {"outcome", "counts"}  # one mismatch fewer than the summary says
    assert any(words in finding.message for finding in found)


def test_a_kept_pair_beyond_the_threshold(run):
    nearest = min(pq.read_table(run.pairs).filter(pa.compute.field("outcome") == "kept")["distance"].to_pylist())
    threshold = nearest / 2
    rewrite_text(run, run.mining_spec, ("distance_threshold: 0.9", f"distance_threshold: {threshold!r}"))
    record = read_record(run)
    edited_record(run, settings={**record.settings, "distance_threshold": threshold})
    assert rules(run) == {"outcome"}


@pytest.mark.parametrize("column", ["target_row", "source_row"])
@pytest.mark.parametrize("row", [-1, 1_000_000, None])
def test_a_pair_of_a_row_that_is_not_there(run, column, row):
    place = pq.read_table(run.pairs).num_rows - 1
    rewrite(run, run.pairs, with_column(column, lambda values: pa.array([*values.to_pylist()[:place], row])))
    found = [finding.message for finding in check_run(run.path) if finding.rule == "bounds"]
    assert len(found) == 1
    assert f"1 pairs have a {column}" in found[0]


def test_pairs_whose_paths_are_not_those_of_their_rows(run):
    """The pool was put in another order after the search."""
    rewrite(run, run.pool, lambda table: table.take(list(range(table.num_rows))[::-1]))
    (found,) = check_run(run.path)
    assert found.rule == "bounds"
    assert "12 pairs have a source_filepath" in found.message


@pytest.mark.parametrize(
    ("column", "change", "words"),
    [
        ("distance", lambda values: [values[1], values[0], *values[2:]], "first for target row 0"),
        ("distance", lambda values: [*values[:-1], float("nan")], "no distance that is possible"),
        ("distance", lambda values: [-0.5, *values[1:]], "no distance that is possible"),
        ("distance", lambda values: [*values[:-1], 2.5], "over 2"),
        ("rank", lambda values: [1, 1, *values[2:]], "there twice"),
        ("rank", lambda values: [rank + 1 for rank in values], "missing"),
    ],
)
def test_ranks_and_distances_that_do_not_agree(run, column, change, words):
    # The last pair of a target must be one that is not kept, or a distance over the threshold is found as well.
    rewrite_text(run, run.mining_spec, ("distance_threshold: 0.9", "distance_threshold: -1.0"))
    record = read_record(run)
    edited_record(run, settings={**record.settings, "distance_threshold": -1.0})
    rewrite(run, run.pairs, with_column(column, lambda values: pa.array(change(values.to_pylist()))))
    found = check_run(run.path)
    assert {finding.rule for finding in found} == {"order"}
    assert any(words in finding.message for finding in found)


# Counts


def test_a_summary_without_its_lines(run):
    rewrite_text(run, run.summary, ("Total candidates", "All candidates"))
    (found,) = check_run(run.path)
    assert found.rule == "summary"
    assert "Total candidates" in found.message


@pytest.mark.parametrize(
    "line", ["Target queries", "Similar items per query", "Total pairs", "Duplicates removed", "Unique items saved"]
)
def test_a_summary_with_another_number(run, line):
    text = run.summary.read_text()
    number = int(text.split(f"{line}: ")[1].split()[0])
    rewrite_text(run, run.summary, (f"{line}: {number}\n", f"{line}: {number + 1}\n"))
    found = rules(run) - {"summary", "report-numbers"}  # sums and the verdict go with them
    assert found == {"counts"}


def test_summary_lines_that_do_not_agree(run):
    text = run.summary.read_text()
    line = next(line for line in text.splitlines() if "After label mismatch" in line)
    rewrite_text(run, run.summary, (line, line.replace("dropped ", "dropped 1")))
    assert any("do not agree" in finding.message for finding in check_run(run.path))
    assert any("add up" in finding.message for finding in check_run(run.path))


def test_the_summary_of_the_older_release_is_read(run):
    """No `Total pairs`, no `After ...` lines, `Label filtering:` at the end."""
    for path in (run.record, run.pairs, run.log):
        path.unlink()
    lines = run.summary.read_text().splitlines()
    kept = [line for line in lines if "Total pairs" not in line and "  After" not in line]
    run.summary.write_text("\n".join(kept) + "\n")
    found = check_run(run.path)
    # The distance filter is not told in that layout, so that its pairs are missing in the sum.
    assert {finding.rule for finding in found} <= {"made-elsewhere", "summary"}
    label_kept = next(line for line in kept if "Label filtering" in line).split("kept ")[1].split("/")[0]
    candidates = next(line for line in kept if "candidates" in line)
    duplicates = next(line for line in kept if "Duplicates" in line).split(": ")[1]
    run.summary.write_text(
        "\n".join(kept)
        .replace(candidates, f"  Total candidates: {label_kept}")
        .replace(
            next(line for line in kept if "Unique" in line),
            f"  Unique items saved: {int(label_kept) - int(duplicates)}",
        )
    )
    assert "summary" not in rules(run)


def test_a_record_with_other_counts(run):
    record = read_record(run)
    edited_record(run, counts={**record.counts, "over_distance": 77})
    (found,) = check_run(run.path)
    assert found.rule == "counts"
    assert "77 in run.json" in found.message


def test_rows_that_the_record_has_otherwise(run):
    record = read_record(run)
    edited_record(run, pool=replace(record.pool, rows=25, embedded=25))
    (found,) = check_run(run.path)
    assert (found.rule, found.where) == ("counts", "source_embeddings.parquet")
    edited_record(run, pool=replace(record.pool, rows=25))
    (found,) = check_run(run.path)
    assert (found.rule, found.where) == ("counts", "run.json")


def test_images_that_were_set_aside_are_in_their_table(run):
    record = read_record(run)
    edited_record(run, pool=replace(record.pool, rows=22, quarantined={"missing": 2}))
    (found,) = check_run(run.path)
    assert (found.rule, found.where) == ("artifact", "source_embeddings_quarantine.parquet")
    table = run.path / "source_embeddings_quarantine.parquet"
    pq.write_table(pa.table({"filepath": ["a", "b"]}), table)
    assert check_run(run.path) == []
    pq.write_table(pa.table({"filepath": ["a"]}), table)
    assert rules(run) == {"counts"}


def test_more_neighbours_than_were_asked_for(run):
    record = read_record(run)
    edited_record(run, settings={**record.settings, "topn": 2})
    assert {finding.rule for finding in check_run(run.path)} == {"spec", "counts"}


# Specs


@pytest.mark.parametrize("text", ["topn: [", "- topn", "", "!!python/object:os.system {}", "a: " + "[" * 5000])
def test_a_spec_that_cannot_be_read(run, text):
    run.mining_spec.write_text(text)
    accept(run, run.mining_spec)
    found = [finding for finding in check_run(run.path) if finding.rule != "artifact"]  # an empty one is also told so
    assert {finding.rule for finding in found} == {"spec"}


def test_a_spec_that_the_command_would_refuse(run):
    rewrite_text(run, run.mining_spec, ("topn: 3", "topn: 3\nneighbours: 3"))
    (found,) = check_run(run.path)
    assert found.rule == "spec"
    assert "neighbours" in found.message


@pytest.mark.parametrize(
    ("spec", "old", "new"),
    [
        ("mining_spec", "topn: 3", "topn: 4"),
        ("mining_spec", "topn: 3\n", ""),  # the default is 5
        ("mining_spec", "cosine", "euclidean"),
        ("embedding_spec", "model: CLIP", "model: SigLIP"),
        ("embedding_spec", "acme/tiny-clip", "acme/other"),
    ],
)
def test_a_spec_that_is_not_that_of_the_run(run, spec, old, new):
    rewrite_text(run, getattr(run, spec), (old, new))
    (found,) = check_run(run.path)
    assert found.rule == "spec"


def test_a_spec_that_says_the_same_in_other_words(run):
    content = yaml.safe_load(run.mining_spec.read_text())
    run.mining_spec.write_text(yaml.safe_dump({**content, "filter_by_label": True, "distance_threshold": "0.90"}))
    accept(run, run.mining_spec)
    assert check_run(run.path) == []


# The report


@pytest.mark.parametrize(
    ("old", "new", "rule", "words"),
    [
        ("## Inputs", "## Input", "report-sections", "no section '## Inputs'"),
        ("## Inputs", "### Inputs", "report-sections", "no section '## Inputs'"),
        ("## Output Sanity", "## Verdict\n\n## Output Sanity", "report-sections", "more than once"),
        ("Match:** yes", "Match:** no", "report-match", "says 'Match: no"),
        ("**Match:** yes", "", "report-match", "does not say"),
        ("topn 3, encoder CLIP", "topn 3", "report-words", "encoder"),
        ("|---|---|---|\n", "", "report-words", "no table"),
        ("knn_metric=cosine", "cosine", "report-words", "knn_metric"),
        ("not a no-op", "on", "report-words", "no-op or"),
        ("the first paths exist", "so", "report-words", "disk or exist"),
        ("Augment with `mined.parquet`.", "", "report-words", "mined.parquet"),
        ("4 targets", "5 targets", "report-numbers", "number of targets, 4"),
    ],
)
def test_a_report_that_lacks_something(run, old, new, rule, words):
    rewrite_text(run, run.report, (old, new))
    found = check_run(run.path)
    assert any(finding.rule == rule and words in finding.message for finding in found)
    assert {finding.rule for finding in found} <= {rule, "report-sections", "report-words", "report-length"}


def test_a_section_that_readers_do_not_expect(run):
    rewrite_text(run, run.report, ("## Output Sanity", f"## Poems\n{FILLER * 2}\n\n## Output Sanity"))
    (found,) = check_run(run.path)
    assert (found.severity, found.rule) == ("warning", "report-sections")


@pytest.mark.parametrize(
    ("filler", "words"), [(3, "it should have 600"), (9, "it should have 600"), (0, "30 are wanted")]
)
def test_a_report_that_is_too_short_or_too_long(run, filler, words):
    mined = read_record(run).counts["unique"]
    run.report.write_text(report_text(4, mined, filler=filler))
    found = check_run(run.path)
    assert {finding.rule for finding in found} == {"report-length"}
    assert any(words in finding.message for finding in found)


def test_reports_with_numbered_titles_and_grouped_numbers():
    from lookalike.workflow.checks.report import check_report

    text = (
        report_text("12,345", "1 002")
        .replace("## Verdict", "## 1. **Verdict**")
        .replace("## Inputs", "## 2) Inputs ##")
    )
    assert list(check_report(text, targets=12_345, mined=1002)) == []
    assert [found.rule for found in check_report(text, targets=12_346, mined=1002)] == ["report-numbers"]


def test_a_report_that_is_no_text(run):
    run.report.write_bytes(run.report.read_bytes() + b"\xff\xfe")
    assert rules(run) == {"artifact"}
    run.report.write_bytes(b"word " * (1 << 20))
    assert rules(run) == {"report-length"}


# Paths


def renamed_run(folder, tmp_path, names):
    """A run whose pool is files of these names; a name with a mark is not written."""
    paths = []
    for name in names:
        path = tmp_path / name.removeprefix("?")
        if not name.startswith("?"):
            path.write_bytes(b"an image")
        paths.append(str(path))
    return make_finished_run(folder, pool_paths=paths, targets=2, topn=len(paths))


def test_rows_without_a_path(run):
    rewrite(run, run.targets, with_column("filepath", lambda column: pa.array([*column.to_pylist()[:-1], None])))
    found = check_run(run.path)
    assert {finding.rule for finding in found} == {"table", "bounds"}  # the pairs have the path that it was
    assert any(finding.message == "1 rows have no path" for finding in found)


def test_files_with_strange_names_are_found(tmp_path):
    names = ["50%20.png", "a b.png", "图像.png", "quote'\".png", "<img src=x>.png"]
    assert check_run(renamed_run(tmp_path / "run", tmp_path, names).path) == []


def test_paths_that_are_not_on_this_machine(tmp_path):
    (found,) = check_run(renamed_run(tmp_path / "run", tmp_path, ["a.png", "?b.png", "?c.png"]).path)
    assert (found.severity, found.rule, found.where) == ("warning", "path-missing", "mined.parquet")
    assert "2 of the first 3 files" in found.message


def test_paths_that_are_percent_encoded(tmp_path):
    (tmp_path / "a b.png").write_bytes(b"an image")
    (found,) = check_run(renamed_run(tmp_path / "run", tmp_path, ["c.png", "?a%20b.png"]).path)
    assert (found.severity, found.rule) == ("warning", "path-encoding")
    assert "1 files are there under the plain name" in found.message


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_paths_that_are_no_text(run):
    """Bytes that are no UTF-8, which Arrow takes from other writers, and the mark that stands for them."""
    for path in (b"/pool/\xff.png", "/pool/\ufffd.png".encode()):
        column = pa.Array.from_buffers(
            pa.string(), 1, [None, pa.py_buffer(np.array([0, len(path)], np.int32)), pa.py_buffer(path)]
        )
        strange = pa.concat_arrays([pq.read_table(run.targets)["filepath"].combine_chunks()[:3], column])
        rewrite(run, run.targets, with_column("filepath", strange))
        assert rules(run) == {"path-encoding", "bounds"}  # the pairs have the name that it was


def test_urls_are_not_looked_for(tmp_path):
    run = make_finished_run(
        tmp_path / "run", pool_paths=["s3://bucket/a%20b.png", "s3://bucket/c.png"], targets=2, topn=2
    )
    assert check_run(run.path) == []


def test_relative_paths_start_in_the_root_of_the_run(tmp_path):
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "images" / "a.png").write_bytes(b"an image")
    run = make_finished_run(tmp_path / "run", pool_paths=["a.png"], targets=2, topn=1)
    assert [finding.rule for finding in check_run(run.path)] == ["path-missing"]
    record = read_record(run)
    edited_record(run, settings={**record.settings, "root": str(tmp_path / "images")})
    assert check_run(run.path) == []


# The command


def test_the_command_says_what_it_found_and_how_it_went(run, run_command, tmp_path):
    done = run_command("lookalike", "check", run.path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, f"0 errors, 0 warnings in {run.path}\n")
    (run.path / "gallery.html").unlink()
    rewrite_text(run, run.report, ("Match:** yes", "Match:** \x1b[31mno"))
    done = run_command("lookalike", "check", run.path, cwd=tmp_path)
    assert done.returncode == 1
    assert done.last_line == f"1 errors, 1 warnings in {run.path}"
    assert "\x1b" not in done.stdout
    assert "report-match" in done.stdout
    assert "What to do: make it again: lookalike gallery" in done.stdout
    done = run_command("lookalike", "check", run.path, "--json", cwd=tmp_path)
    found = json.loads(done.stdout)
    assert done.returncode == 1
    assert (found["ok"], found["errors"], found["warnings"]) == (False, 1, 1)
    assert {one["rule"] for one in found["findings"]} == {"artifact", "report-match"}
    assert set(found["findings"][0]) == {"severity", "rule", "message", "where", "hint"}


def test_the_command_refuses_what_is_no_run(run_command, tmp_path):
    done = run_command("lookalike", "check", tmp_path / "nowhere", cwd=tmp_path)
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_cosine_floor_adds_up(tmp_path):
    run = make_finished_run(tmp_path / "run", min_similarity=0.5)
    assert "After similarity filtering" in run.summary.read_text(encoding="utf-8")
    assert check_run(run.path) == []
    text = run.summary.read_text(encoding="utf-8")
    run.summary.write_text(re.sub(r"items, dropped (\d+)", "items, dropped 99", text), encoding="utf-8")
    assert rules(run) >= {"summary", "counts"}
