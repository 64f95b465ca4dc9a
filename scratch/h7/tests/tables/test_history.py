"""The ledger: what is written is read; what was edited, cut, reordered or lost is refused with the reason."""

import json
import os
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lookalike.errors import TableError
from lookalike.tables.filepaths import normal_path, normal_paths
from lookalike.tables.history import (
    History,
    add_iteration,
    read_history,
    require_intact,
    verify_history,
    write_history,
)


def table(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"filepath": pa.array(files, pa.string())}), path)
    return path


def iterate(folder, history, candidates, output):
    number = len(history.iterations) + 1
    place = folder / f"iter{number}"
    summary = place / "summary.json"
    candidates, output = table(place / "candidates.parquet", candidates), table(place / "mined.parquet", output)
    summary.write_text(f"{number}")
    return add_iteration(history, 5, candidates, output, summary)


@pytest.fixture
def ledger(tmp_path):
    """Three iterations, the last of which found nothing new."""
    folder = tmp_path / "run"
    history = iterate(folder, History(), ["b.png", "a.png", "b.png"], ["b.png", "a.png"])
    history = iterate(folder, history, ["./a.png", "c.png"], ["c.png"])
    history = iterate(folder, history, ["c.png"], [])
    write_history(folder / "mining_history.json", history)
    return folder / "mining_history.json"


def edit(ledger, change):
    content = json.loads(ledger.read_text())
    change(content)
    ledger.write_text(json.dumps(content))


def test_what_is_written_is_read(ledger):
    content = json.loads(ledger.read_text())
    assert list(content) == ["version", "identity", "iterations", "cumulative_unique_count"]
    assert [content["version"], content["identity"], content["cumulative_unique_count"]] == [1, "filepath", 3]
    assert list(content["iterations"][0]) == [
        "iteration", "topn", "candidate_parquet", "candidate_sha256", "candidate_unique_count", "already_mined_count",
        "selected_count", "selected_filepaths", "output_parquet", "output_sha256", "summary_file", "summary_sha256",
    ]  # fmt: skip
    counts = ("candidate_unique_count", "already_mined_count", "selected_count")
    assert [[one[key] for key in counts] for one in content["iterations"]] == [[2, 0, 2], [2, 1, 1], [1, 1, 0]]
    history = read_history(ledger)
    assert history.selected == ["b.png", "a.png", "c.png"]
    assert history.mined == {"a.png", "b.png", "c.png"}
    assert verify_history(history, ledger) == []
    assert require_intact(ledger) == history


def test_fields_of_others_stay(ledger):
    def change(content):
        content["tool"] = "another"
        content["iterations"][1]["note"] = {"by": "me"}

    edit(ledger, change)
    before = json.loads(ledger.read_text())
    write_history(ledger, require_intact(ledger))
    assert json.loads(ledger.read_text()) == before


def put(number, **fields):
    return lambda content: content["iterations"][number].update(fields)


CONTRADICTIONS = [
    (lambda c: c.update(version=2), "has version 2"),
    (lambda c: c.update(version=True), "has version True"),
    (lambda c: c.pop("version"), "has version None"),
    (lambda c: c.update(identity="sha256"), "has identity 'sha256'"),
    (lambda c: c.update(iterations={}), "no list 'iterations'"),
    (lambda c: c.update(cumulative_unique_count=4), "cumulative_unique_count is 4, its paths are 3"),
    (lambda c: c["iterations"].pop(1), "iteration 2: is numbered 3"),
    (lambda c: c["iterations"].pop(0), "iteration 1: is numbered 2"),
    (lambda c: c["iterations"].reverse(), "iteration 1: is numbered 3"),
    (put(1, iteration=1), "iteration 2: is numbered 1"),
    (lambda c: c["iterations"].insert(1, c["iterations"][0]), "iteration 2: is numbered 1"),
    (put(0, selected_count=3), "selected_count is 3, and 2 paths are listed"),
    (put(0, selected_count="2"), "selected_count is '2', and must be a number"),
    (put(0, already_mined_count=-1), "already_mined_count is -1"),
    (put(0, candidate_unique_count=9), "candidate_unique_count is not"),
    (put(1, selected_filepaths=["./a.png"]), "iteration 2: ./a.png was mined in iteration 1"),
    (put(0, selected_filepaths=["a.png", "x/../a.png"]), "iteration 1: x/../a.png is there twice"),
    (put(0, selected_filepaths=[1, 2]), "must be a list of texts"),
    (put(0, output_sha256=None), "output_sha256 is None, and must be text"),
    (lambda c: c["iterations"][2].pop("summary_file"), "iteration 3: has no 'summary_file'"),
    (lambda c: c["iterations"].append("x"), "iteration 4: must be a JSON object"),
]


@pytest.mark.parametrize(("change", "words"), CONTRADICTIONS, ids=[words[:40] for _, words in CONTRADICTIONS])
def test_a_ledger_that_contradicts_itself(ledger, change, words):
    edit(ledger, change)
    with pytest.raises(TableError) as refused:
        read_history(ledger)
    assert words in str(refused.value)
    assert "What to do" in str(refused.value)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"version": 1, "identity": "filepath", "iterations": [{"itera'])
def test_what_is_no_ledger(tmp_path, text):
    path = tmp_path / "mining_history.json"
    path.write_text(text)
    with pytest.raises(TableError, match=r"no ledger|not whole"):
        read_history(path)
    with pytest.raises(TableError, match="cannot be read"):
        read_history(tmp_path / "none.json")


DISAGREEMENTS = [
    (put(0, selected_filepaths=["b.png", "z.png"]), "selected_filepaths are not the rows"),
    (put(0, selected_filepaths=["a.png", "b.png"]), "selected_filepaths are not the rows"),
    (put(0, output_sha256="0" * 64), "output_parquet iter1/mined.parquet was changed"),
    (put(1, candidate_sha256="0" * 64), "candidate_parquet iter2/candidates.parquet was changed"),
    (put(1, summary_sha256="0" * 64), "summary_file iter2/summary.json was changed"),
    (put(2, already_mined_count=0, candidate_unique_count=0), "candidate_unique_count is 0"),
]


@pytest.mark.parametrize(("change", "words"), DISAGREEMENTS, ids=[words for _, words in DISAGREEMENTS])
def test_a_ledger_that_does_not_agree_with_its_files(ledger, change, words):
    def relative(content):
        for one in content["iterations"]:
            for key in ("candidate_parquet", "output_parquet", "summary_file"):
                one[key] = os.path.relpath(one[key], ledger.parent)

    edit(ledger, relative)
    assert verify_history(read_history(ledger), ledger) == []
    edit(ledger, change)
    assert any(words in str(problem) for problem in verify_history(read_history(ledger), ledger))
    with pytest.raises(TableError, match="lookalike history verify"):
        require_intact(ledger)


def test_a_file_that_was_changed(ledger):
    table(ledger.parent / "iter2" / "mined.parquet", ["c.png", "d.png"])
    (problem,) = verify_history(read_history(ledger), ledger)
    assert problem.iteration == 2
    assert "was changed" in problem.what


def test_files_that_are_gone(ledger, caplog):
    """Candidates are often not kept; what was mined must be there."""
    (ledger.parent / "iter1" / "candidates.parquet").unlink()
    (problem,) = verify_history(read_history(ledger), ledger)
    assert problem.missing == "candidate_parquet"
    assert require_intact(ledger).mined
    (ledger.parent / "iter1" / "mined.parquet").unlink()
    with pytest.raises(TableError, match=r"output_parquet .* is not there"):
        require_intact(ledger)


def test_a_folder_that_moved(ledger, tmp_path):
    shutil.move(ledger.parent, tmp_path / "moved")
    assert verify_history(require_intact(tmp_path / "moved" / ledger.name), tmp_path / "moved" / ledger.name) == []


def test_what_cannot_be_added(tmp_path, ledger):
    history = read_history(ledger)
    for candidates, output, words in (
        (["a.png", "d.png"], ["a.png", "d.png"], "a.png was mined before"),
        (["d.png"], ["e.png"], "is no candidate"),
        (["d.png", "e.png"], ["e.png"], "2 candidates are new, and 1 were mined"),
        (["d.png"], ["d.png", "./d.png"], "it has a path twice"),
    ):
        with pytest.raises(TableError, match=words):
            iterate(tmp_path, history, candidates, output)


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (r"images\board\a.png", "images/board/a.png"),
        ("images/board/./a.png", "images/board/a.png"),
        ("a//b/../c", "a/c"),
        ("/a/b.png", "/a/b.png"),
        ("s3://bucket//a/./b", "s3://bucket/a/b"),
        ("clip 17 @ 00:03", "clip 17 @ 00:03"),
        ("", "."),
    ],
)
def test_normal_paths(path, normal):
    assert normal_path(path) == normal


@given(st.lists(st.text(alphabet="ab./\\:", max_size=8), min_size=1))
def test_a_column_is_its_paths(paths):
    assert normal_paths(pa.array(paths, pa.string())).to_pylist() == [normal_path(path) for path in paths]
    assert all(normal_path(normal_path(path)) == normal_path(path) for path in paths)
