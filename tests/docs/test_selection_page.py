"""The tables of docs/selection.md are those of the benchmark's results."""

import json
from pathlib import Path

from benchmarks.selection import tables

ROOT = Path(__file__).parents[2]


def test_the_tables_are_those_of_the_results():
    result = json.loads((ROOT / "benchmarks" / "results" / "selection.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "selection.md").read_text(encoding="utf-8")
    for table in tables(result).split("\n\n"):
        assert table in page, "paste what `python -m benchmarks selection` printed"
