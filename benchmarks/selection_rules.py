"""What near-duplicates, diversity and images to avoid cost and gain on real images.

The draws are those of `benchmarks.selection`, the class at its full share, with `scoring=auto` and the floor, and every
way keeps as many images as plain top-5 gives.

For the images to avoid, a second round is played: the better half of what was kept is looked at by a person, and taken
out of the pool. What of it is not of the class is to be avoided in the second round; and, to compare, is only taken
out.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import selection
from benchmarks.common import save

#: Settings beside those of `auto`; the first has none.
WAYS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "dedup_threshold=0.002": {"dedup_threshold": 0.002},
    "dedup_threshold=0.01": {"dedup_threshold": 0.01},
    "dedup_threshold=0.05": {"dedup_threshold": 0.05},
    "diversity=0.1": {"diversity": 0.1},
    "diversity=0.3": {"diversity": 0.3},
    "diversity=0.5": {"diversity": 0.5},
    "diversity=0.7": {"diversity": 0.7},
    "diversity=0.5, facility_location": {"diversity": 0.5, "diversity_method": "facility_location"},
    "diversity=0.9, facility_location": {"diversity": 0.9, "diversity_method": "facility_location"},
}
_WEIGHTS = (0.0, 0.25, 0.5, 1.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks selection-rules`."""
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--targets", type=int, default=30)
    parser.add_argument("--sets", nargs="+", default=["solar", "any"], choices=list(selection.TITLES))
    parser.add_argument(
        "--folder", type=Path, help="for the embeddings, which stay there; a temporary one if not given"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Embed, draw, select, count, print and save."""
    with tempfile.TemporaryDirectory() as temporary:
        selection._ARRAYS.update(selection._embedded(arguments.folder or Path(temporary)))
    groups = []
    for name in arguments.sets:
        drawn = [_measure(selection.Case(name, arguments.targets, False, draw)) for draw in range(arguments.draws)]
        groups.append(
            {"set": name, "kept": float(np.mean([one["kept"] for one in drawn]))}
            | {
                kind: {way: _spread([one[kind][way] for one in drawn]) for way in drawn[0][kind]}
                for kind in ("ways", "second_round")
            }
        )
    result = {"draws": arguments.draws, "targets": arguments.targets, "groups": groups}
    print(tables(result))
    save("selection-rules", result)


def _measure(case: selection.Case) -> dict[str, Any]:
    """All ways on one draw."""
    from lookalike.config.schemas import ScoringConfig
    from lookalike.neighbors.search import nearest_neighbors
    from lookalike.selection.filters import Outcome
    from lookalike.selection.scored import select_scored

    drawn = selection._draw(case)
    assert drawn is not None
    targets, pool, member = drawn
    budget = len(np.unique(nearest_neighbors(targets, pool, 5, "cosine").rows))
    config = ScoringConfig(budget=budget, seed=case.draw)
    ways = {}
    for way, rules in WAYS.items():
        started = time.perf_counter()
        found = select_scored(targets, pool, replace(config, **rules))
        ways[way] = _counted(found.kept_rows, found.own, pool, member) | {
            "seconds": time.perf_counter() - started,
            "keeping": found.seconds["keeping"],
            "collapsed": float((found.pool_outcomes == list(Outcome).index(Outcome.NEAR_DUPLICATE)).sum()),
        }
        if not rules:
            seen = found.kept_rows[: budget // 2]
    excluded = np.zeros(len(pool), np.bool_)
    excluded[seen] = True
    avoid = pool[seen[~member[seen]]]
    second = {}
    for weight in _WEIGHTS:
        rounds = select_scored(
            targets, pool, replace(config, avoid_weight=weight, budget=budget // 2), excluded=excluded,
            avoid=avoid if weight else None,
        )  # fmt: skip
        counted = selection._counted(rounds.kept_rows, rounds.own, pool, member)
        second[f"{weight:g}"] = counted | {"avoided": float(len(avoid))}
    return {"kept": budget, "ways": ways, "second_round": second}


def _counted(kept: Any, own: Any, pool: Any, member: Any) -> dict[str, float]:
    """As `selection` counts, and redundancy as cosines from the middle of the pool show it."""
    centred = selection._counted(kept, own, pool - pool.mean(axis=0), member)["redundancy"]
    return selection._counted(kept, own, pool, member) | {"centred": centred, "kept": float(len(kept))}


def _spread(found: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation of every figure."""
    return selection._spread(found)


def tables(result: dict[str, Any]) -> str:
    """The tables of `docs/selection.md`, as Markdown."""
    lines = [
        "| set | way | kept | precision | served | redundancy | centred | collapsed | seconds, of them for keeping |",
        "|---" * 9 + "|",
    ]
    rounds = ["| set | weight | images to avoid | precision of the second round |", "|---" * 4 + "|"]
    for group in result["groups"]:
        title = selection.TITLES[group["set"]]
        for way, one in group["ways"].items():
            lines.append(
                f"| {title} | {way} | {one['kept']['mean']:.0f} | {_figure(one['precision'])} | "
                f"{one['served']['mean']:.2f} | {_alike(one, 'redundancy')} | {_alike(one, 'centred')} | "
                f"{one['collapsed']['mean']:.0f} | "
                f"{one['seconds']['mean']:.1f}, {one['keeping']['mean']:.1f} |"
            )
        for weight, one in group["second_round"].items():
            text = "only taken out" if weight == "0" else weight
            rounds.append(f"| {title} | {text} | {one['avoided']['mean']:.0f} | {_figure(one['precision'])} |")
    return "\n".join(lines) + "\n\n" + "\n".join(rounds)


def _alike(one: dict[str, dict[str, float]], which: str) -> str:
    """Redundancy; a single image has none."""
    return f"{one[which]['mean']:.3f}" if one["kept"]["mean"] > 1 else "-"


def _figure(one: dict[str, float]) -> str:
    return f"{one['mean']:.2f} ± {one['deviation']:.2f}"
