"""The tables of docs/leakage.md are those of the benchmark's results, and its figures those of the code."""

import json
from pathlib import Path

from benchmarks.leakage import tables

from lookalike.config.schemas import BarringConfig
from lookalike.workflow.barring.album import AGREE
from lookalike.workflow.barring.bars import RULES
from lookalike.workflow.barring.looks import EDGE

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "leakage.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_results():
    result = json.loads((ROOT / "benchmarks" / "results" / "leakage.json").read_text(encoding="utf-8"))
    for table in tables(result).split("\n\n"):
        assert table in PAGE, "paste what `python -m benchmarks leakage` printed"


def test_the_rules_and_figures_are_those_of_the_code():
    rows = [line.split("`")[1] for line in PAGE.splitlines() if line.startswith("| `")]
    assert rows == [str(rule) for rule in RULES[1:]]
    assert f"`leak_reads` ({BarringConfig.leak_reads:,})" in PAGE
    assert f"{EDGE} x {EDGE}" in PAGE
    assert f"is {AGREE} or more" in PAGE
