"""`lookalike history`: show, verify."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.tables.history import History, add_iteration, write_history


@pytest.fixture
def ledger(tmp_path):
    history = History()
    for number, files in enumerate((["a.png", "b.png"], ["c.png"]), 1):
        candidates, output = tmp_path / f"candidates{number}.parquet", tmp_path / f"mined{number}.parquet"
        for path in (candidates, output):
            pq.write_table(pa.table({"filepath": files}), path)
        summary = tmp_path / f"summary{number}.txt"
        summary.write_text("fine")
        history = add_iteration(history, 5, candidates, output, summary)
    write_history(tmp_path / "mining_history.json", history)
    return tmp_path / "mining_history.json"


def test_show_and_verify(run_command, ledger):
    done = run_command("lookalike", "history", "show", ledger, cwd=ledger.parent, env={"COLUMNS": "200"})
    assert done.returncode == 0, done.stderr
    assert [line.split()[:5] for line in done.lines[1:3]] == [["1", "5", "2", "0", "2"], ["2", "5", "1", "0", "1"]]
    assert done.last_line == "Total: 2 iterations, 3 images"
    done = run_command("lookalike", "history", "verify", ledger, cwd=ledger.parent)
    assert (done.returncode, done.last_line) == (0, "Total: 2 iterations, 3 images, 0 problems")


def test_what_does_not_agree_is_told(run_command, ledger):
    pq.write_table(pa.table({"filepath": ["z.png"]}), ledger.parent / "mined2.parquet")
    done = run_command("lookalike", "history", "verify", ledger, cwd=ledger.parent)
    assert done.returncode == 1
    assert done.lines[:2] == ["Iteration 1: ok, 2 images", "Iteration 2: does not agree, 1 images"]
    assert "Problem: iteration 2: output_parquet" in done.stderr
    content = json.loads(ledger.read_text())
    del content["iterations"][0]
    ledger.write_text(json.dumps(content))
    for action in ("show", "verify"):
        done = run_command("lookalike", "history", action, ledger, cwd=ledger.parent)
        assert done.returncode == 1
        assert "iteration 1: is numbered 2" in done.stderr
        assert "Traceback" not in done.stderr
