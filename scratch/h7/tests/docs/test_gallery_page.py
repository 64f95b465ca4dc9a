"""The page about the gallery: its commands run, its keys and its CSV are those of the gallery."""

import csv
import re
import shlex
import signal
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from lookalike.reports import gallery, gallery_data
from support.runs import make_run

PAGE = (Path(__file__).parents[2] / "docs" / "gallery.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|csv)\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture
def run(tmp_path):
    """The run of the page, in which the images of its CSV were mined."""
    text = next(text for kind, text in BLOCKS if kind == "csv")
    rows = list(csv.DictReader(text.splitlines()))
    cosines = [1 - float(row["distance"]) for row in rows]
    vectors = (np.array([[1.0, 0.0]]), np.array([[cosine, (1 - cosine**2) ** 0.5] for cosine in cosines]))
    (tmp_path / "results").mkdir()
    (tmp_path / "decisions.csv").write_text(text)
    return make_run(
        tmp_path / "results" / "run", target_paths=[rows[0]["target_filepath"]], topn=2,
        pool_paths=[row["filepath"] for row in rows], vectors=vectors,
    )  # fmt: skip


def test_its_commands_run(run, run_command, start_command, tmp_path):
    commands = [shlex.split(line) for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]
    assert [command[1] for command in commands] == ["review", "gallery", "gallery", "view"]
    for command in commands[:-1]:
        done = run_command(*command, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert pq.read_table(run.reviewed).column("filepath").to_pylist() == ["pool/board_07.jpg"]
    server = start_command(*commands[-1], "--no-browser", cwd=tmp_path)
    assert server.stdout.readline().startswith("http://127.0.0.1:")
    server.send_signal(signal.SIGINT)
    assert server.wait(30) == 0


def test_its_keys_are_those_of_the_help(run):
    gallery.write_gallery(run)
    keys = re.findall(r"<div><dt>(<kbd>.*?)</dt><dd>(.*?)</dd></div>", run.gallery.read_text(encoding="utf-8"))
    table = re.findall(r"^\| (`.+?) \| (.+?) \|$", PAGE, re.MULTILINE)
    plain = [(re.sub(r"</?kbd>", "`", names), words) for names, words in keys]
    assert table == plain


def test_its_numbers_are_those_of_the_code():
    assert f"{gallery_data.MOST_TARGETS:,} targets and {gallery_data.MOST_PAIRS:,} pairs" in PAGE
    header = next(text for kind, text in BLOCKS if kind == "csv").splitlines()[0]
    script = (gallery._TEMPLATES / "gallery_decisions.js").read_text(encoding="utf-8")
    assert header.split(",") == re.findall(r'"(\w+)"', re.search(r"COLUMNS = \[(.*?)\]", script)[1])
