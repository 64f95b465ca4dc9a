"""The examples of `docs/report.md` run in a folder that holds a finished run, and its tables are those of the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.reports import atlas, facts
from support.report_contract import SECTIONS
from support.runs import make_run

PAGE = (Path(__file__).parents[2] / "docs" / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["python", "bash"])
def test_examples_run(kind, tmp_path):
    run = make_run(tmp_path / "results" / "run")
    code = "\n".join(re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL))
    command = [sys.executable, "-c"] if kind == "python" else ["bash", "-euo", "pipefail", "-c"]
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        [*command, code], cwd=tmp_path, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    if kind == "python":
        assert done.stdout.splitlines()[0] == "results/run/Mining_Report.md"
        assert "map.png: Every image as a point" in done.stdout
        assert run.report.exists()
    else:
        assert done.stdout.count("embedding-atlas ") == 2
        assert (run.path / atlas.NAME).exists()
        assert (tmp_path / "small.parquet").exists()


def test_the_page_says_what_the_code_does():
    first = re.findall(r"^\| ([^|]+) \|", PAGE, re.MULTILINE)
    assert first[1 : 1 + len(SECTIONS)] == list(SECTIONS)
    columns = re.findall(r"`(\w+)`", " ".join(first[first.index("column") + 1 :]))
    assert columns == atlas.SCHEMA.names
    for number in (f"{facts.MINED_SHARE:.0%}", f"{facts.UNRELATED:g} of", f"{facts.HUB_TARGETS} targets"):
        assert number in PAGE
    assert f"sample of {atlas.SAMPLE:,} others" in PAGE
