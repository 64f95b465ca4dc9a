"""The tables of docs/tune.md are those of the benchmark's results, and its columns those of the table."""

import json
from pathlib import Path

from benchmarks.calibrate import tables

from lookalike.config.schemas import CalibrateConfig, TuneConfig
from lookalike.workflow import tune

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tune.md").read_text(encoding="utf-8")


def test_the_tables_are_those_of_the_results():
    result = json.loads((ROOT / "benchmarks" / "results" / "calibrate.json").read_text(encoding="utf-8"))
    for table in tables(result).split("\n\n"):
        assert table in PAGE, "paste what `python -m benchmarks calibrate` printed"


def test_its_numbers_are_those_of_the_code():
    assert f"of more than {CalibrateConfig.sample:,} images" in PAGE
    assert f"{CalibrateConfig.quantile:.0%}".replace("%", " %") in PAGE
    assert f"the {tune._MOST_LABELS} most frequent" in PAGE
    assert max(TuneConfig().numbers("topn")) == 20
