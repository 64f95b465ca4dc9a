"""The tables of docs/selection.md are those of the benchmark's results."""

import json
from pathlib import Path

import pytest
from benchmarks import selection, selection_rules

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(("name", "benchmark"), [("selection", selection), ("selection-rules", selection_rules)])
def test_the_tables_are_those_of_the_results(name, benchmark):
    result = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "selection.md").read_text(encoding="utf-8")
    for table in benchmark.tables(result).split("\n\n"):
        assert table in page, f"paste what `python -m benchmarks {name}` printed"
