"""Time and peak memory of `select_scored` by the number of pool rows: random vectors in files, a process for each.

Random vectors have no class: this says what a selection takes, not what it finds. What `auto` chooses of them is
chance; with ``density_ratio``, the score that takes longest, its components are chosen in the same way.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import measure_in_child, peak_memory, save
from benchmarks.search_stream import write_shards


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks selection-scale`."""
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--targets", type=int, default=1000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--scoring", nargs="+", default=["auto", "density_ratio"])
    parser.add_argument("--device", default="auto")
    parser.add_argument("--folder", type=Path, help="for the files, which stay there; temporary if not given")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    measured = []
    with tempfile.TemporaryDirectory() as temporary:
        for rows in arguments.rows:
            folder = (arguments.folder or Path(temporary)) / str(rows)
            write_shards(folder, rows, arguments.dimension, 0)
            for scoring in arguments.scoring:
                asked = {"pool": str(folder), "targets": arguments.targets, "device": arguments.device}
                measured.append(
                    measure_in_child("benchmarks.selection_scale", json.dumps({**asked, "scoring": scoring}))
                )
                _print(measured[-1])
    save("selection-scale", {"dimension": arguments.dimension, "measured": measured})


def _print(result: dict[str, Any]) -> None:
    steps = ", ".join(f"{step} {seconds:.0f}" for step, seconds in result["steps"].items())
    print(
        f"{result['rows']:>9} rows  {result['scoring']:<14} {result['seconds']:6.0f} s  "
        f"{result['peak'] / 1e6:6.0f} MB  "
        f"{result['chosen']}, background {result['background']}  ({steps})"
    )


def _child(asked: dict[str, Any]) -> dict[str, Any]:
    """Select in this process."""
    from lookalike.config.schemas import ScoringConfig
    from lookalike.selection.scored import select_scored
    from lookalike.tables.embedding_stream import EmbeddingStream

    pool = EmbeddingStream(asked["pool"], "embedding")
    targets = np.random.default_rng(7).standard_normal((asked["targets"], pool.dimension), dtype=np.float32)
    started = time.perf_counter()
    found = select_scored(targets, pool, ScoringConfig(device=asked["device"], scoring=asked["scoring"]))
    return {
        "rows": pool.rows,
        "targets": len(targets),
        "device": asked["device"],
        "scoring": asked["scoring"],
        "seconds": time.perf_counter() - started,
        "steps": found.seconds,
        "peak": peak_memory(),
        "chosen": str(found.choice.option),
        "background": found.background,
        "kept": len(found.kept_rows),
        "served": float(found.served.mean()),
    }


if __name__ == "__main__":
    print(json.dumps(_child(json.loads(sys.argv[2]))))
