"""`lookalike review`: decisions become a reviewed table, or an error that names the rows."""

import csv

import pyarrow.parquet as pq
import pytest

from lookalike.errors import TableError
from lookalike.workflow.review import review
from support.runs import make_run

COLUMNS = ["filepath", "decision", "target_filepath", "rank", "distance"]


@pytest.fixture
def run(tmp_path):
    """A run whose paths need quoting in a CSV."""
    paths = [f'/pool/a, "b" {number}\n电.png' for number in range(9)]
    return make_run(tmp_path / "run", pool_paths=paths, topn=3, filter_by_label=False)


def decisions_of(run, *decisions):
    """Rows for the first kept pairs, as the gallery writes them."""
    pairs = pq.read_table(run.pairs).to_pandas()
    kept = pairs[pairs.outcome == "kept"]
    return [
        {
            "filepath": pair.source_filepath,
            "decision": decision,
            "target_filepath": pair.target_filepath,
            "rank": pair.rank,
            "distance": pair.distance,
        }
        for pair, decision in zip(kept.itertuples(), decisions, strict=False)
    ]


def write(path, rows, columns=COLUMNS, encoding="utf-8"):
    with path.open("w", encoding=encoding, newline="") as stream:
        writer = csv.DictWriter(stream, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_reviewed_table_is_the_mined_less_the_dropped(run, run_command, tmp_path):
    mined = pq.read_table(run.mined)
    paths = mined.column("filepath").to_pylist()
    file = write(tmp_path / "decisions.csv", decisions_of(run, "drop", "keep", "drop"))
    done = run_command("lookalike", "review", run.path, file, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.lines[:3] == ["Kept:       1", "Dropped:    2", f"Undecided:  {len(paths) - 3} (they stay)"]
    assert done.lines[3] == f"Written:    {len(paths) - 2} images to {run.reviewed}"
    reviewed = pq.read_table(run.reviewed)
    assert reviewed.schema == mined.schema
    assert reviewed.column("filepath").to_pylist() == [paths[1], *paths[3:]]
    assert pq.read_table(run.mined).equals(mined), "what was mined stays as it was"


def test_two_columns_are_enough_and_a_spreadsheet_may_have_written_them(run, tmp_path):
    file = write(tmp_path / "d.csv", decisions_of(run, "drop"), columns=COLUMNS[:2], encoding="utf-8-sig")
    assert review(run.path, file).dropped == 1
    assert pq.read_table(run.reviewed).num_rows == pq.read_table(run.mined).num_rows - 1


def test_nothing_and_everything_may_be_dropped(run, tmp_path):
    rows = pq.read_table(run.mined).num_rows
    for decisions, left in (([], rows), (["drop"] * 99, 0)):
        assert review(run.path, write(tmp_path / "d.csv", decisions_of(run, *decisions))).rows == left
        assert pq.read_table(run.reviewed).num_rows == left


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decision": "maybe"}, ["1 of 2 rows have a decision that is not keep or drop", "'maybe'", "line "]),
        ({"filepath": "/elsewhere.png"}, ["name an image that this run did not mine", "'/elsewhere.png'"]),
        ({"target_filepath": "/other.png"}, ["are of another run"]),
        ({"rank": 77}, ["are of another run"]),
        ({"rank": "first"}, ["are of another run"]),
        ({"distance": 9.5}, ["are of another run"]),
        ({"distance": "nan"}, ["are of another run"]),
    ],
    ids=str,
)
def test_rows_that_are_not_of_this_run_are_named(run, tmp_path, change, words):
    rows = decisions_of(run, "keep", "drop")
    rows[1].update(change)
    with pytest.raises(TableError) as error:
        review(run.path, write(tmp_path / "d.csv", rows))
    for word in (*words, "What to do"):
        assert word in str(error.value)
    assert not run.reviewed.exists()


def test_decisions_that_contradict_each_other_are_refused(run, run_command, tmp_path):
    rows = decisions_of(run, "keep") + decisions_of(run, "drop") * 8
    done = run_command("lookalike", "review", run.path, write(tmp_path / "d.csv", rows), cwd=tmp_path)
    assert done.returncode == 1
    assert "8 of 9 rows contradict an earlier row" in done.stderr
    assert "and 3 more" in done.stderr


def test_what_is_no_csv_or_no_run_is_refused(run, tmp_path):
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"filepath,decision\n\xff\xfe,keep\n")
    for arguments, words in (
        ((run.path, tmp_path / "none.csv"), "cannot be read"),
        ((run.path, write(tmp_path / "c.csv", [], columns=["path"])), "has no column 'filepath'"),
        ((run.path, binary), "is not a CSV in UTF-8"),
        ((tmp_path, binary), "run that `lookalike mine` finished"),
    ):
        with pytest.raises(TableError, match=words):
            review(*arguments)
