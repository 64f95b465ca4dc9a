"""Exact search in memory: seconds against the bare matrix product and other libraries, and peak memory.

Every setting has one process in which all ways take turns, so that noise hits all of them, and one process per way
for its peak memory. Ratios are medians of the turns' ratios. The vectors are random; for cosine they are unit
vectors, which faiss and torch need here and lookalike does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import measure_in_child, peak_memory, save, summary
from benchmarks.search_ways import PRODUCTS, Matrix, Rows, Setting, data_of, libraries, open_way

#: At most: lookalike's time over the bare product's, manhattan's over faiss's, and megabytes beside the data.
TARGETS = {"times_product": 1.4, "manhattan_times_faiss": 0.4, "megabytes_over_data": 300}
_WAYS = (*PRODUCTS, "lookalike", "faiss", "torch")
#: scikit-learn may hold a distance for every pair, so it is left out at 1,000,000 sources.
SETTINGS = (
    Setting(100_000, 5, "cosine", (*_WAYS, "scikit-learn")),
    Setting(100_000, 50, "cosine", (*_WAYS, "scikit-learn")),
    Setting(100_000, 5, "euclidean", (*_WAYS, "scikit-learn")),
    Setting(100_000, 50, "euclidean", (*_WAYS, "scikit-learn")),
    Setting(100_000, 5, "manhattan", ("lookalike", "faiss", "torch")),
    Setting(1_000_000, 5, "cosine", _WAYS),
    Setting(1_000_000, 50, "cosine", _WAYS),
    Setting(1_000_000, 5, "euclidean", _WAYS),
    Setting(1_000_000, 50, "euclidean", _WAYS),
)
#: What the options choose among.
_CHOICES = ("sources", "topn", "metric")
#: Sources and targets of a warm-up.
_TINY = (4096, 64)
#: Where faiss gives another row, it is a tie when its distance differs by less, relative to the distance.
_TIE = 1e-5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks search`."""
    for name in _CHOICES:
        known = sorted({getattr(setting, name) for setting in SETTINGS})
        parser.add_argument(f"--{name}", type=type(known[0]), nargs="+", default=known, choices=known)
    parser.add_argument("--targets", type=int, default=1_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--repeat", type=int, default=3, help="turns")
    parser.add_argument("--limit", type=float, default=1200, help="seconds of a setting after which no turn begins")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    results: list[dict[str, Any]] = []
    for setting in SETTINGS:
        if any(getattr(setting, name) not in getattr(arguments, name) for name in _CHOICES):
            continue
        asked = {**asdict(setting), "targets": arguments.targets, "dimension": arguments.dimension}
        given = json.dumps(asked)
        timed = measure_in_child("benchmarks.search", "time", given, str(arguments.repeat), str(arguments.limit))
        peaks = [measure_in_child("benchmarks.search", "peak", given, way) for way in ("lookalike", "faiss")]
        if not results:
            print("Libraries, and the kernels that they chose:", *timed["libraries"], sep="\n  ")
            print("faiss's wheel has a BLAS of its own. On some processors it chooses a kernel that is several times")
            print("slower than it should be: look at the kernels above before the ratios below.")
        results.append({**asked, **timed, "megabytes_over_data": {key: one[key] for one in peaks for key in one}})
        _print(results[-1])
        save("search", {"at_most": TARGETS, "settings": results})  # a run that is stopped keeps what it has


def _print(result: dict[str, Any]) -> None:
    """One setting: a way a line, then lookalike's ratios with their targets."""
    shape = f"{result['sources']} x {result['targets']} x {result['dimension']}"
    print(f"\n{result['metric']}, {shape}, top {result['topn']}")
    for way, seconds in result["seconds"].items():
        print(f"  {way:<18} {seconds['median']:>8.2f} s  ({seconds['min']:.2f} to {seconds['max']:.2f})")
    of_product, of_faiss = result["times_product"], result["times_faiss"]
    if of_product is not None:
        print(f"  lookalike takes {of_product:.2f} times the product{_aim(of_product, 'times_product')}")
    aim = _aim(of_faiss, "manhattan_times_faiss") if result["metric"] == "manhattan" else ""
    print(f"  lookalike takes {of_faiss:.2f} times faiss{aim}")
    over = result["megabytes_over_data"]
    aim = _aim(over["lookalike"], "megabytes_over_data")
    print(f"  over the data: lookalike {over['lookalike']:.0f} MB{aim}, faiss {over['faiss']:.0f} MB")
    agreed = result["agreement"]
    print(f"  rows equal to faiss's: {agreed['rows_equal']:.6f}; {agreed['differ_beyond_ties']} differ beyond ties")


def _aim(value: float, name: str) -> str:
    return f" (target {TARGETS[name]}: {'met' if value <= TARGETS[name] else 'MISSED'})"


def _time(setting: Setting, repeat: int, limit: float) -> dict[str, Any]:
    """Seconds of all ways in turn, in this process."""
    target, source = data_of(setting)
    for name in setting.ways:  # imports, threads and compiled code
        open_way(name, setting, target[: _TINY[1]], source[: _TINY[0]])()
    ways = {name: open_way(name, setting, target, source) for name in setting.ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Rows | None] = {}
    began = time.perf_counter()
    for turn in range(repeat):
        if turn and time.perf_counter() - began > limit:
            break
        for name, way in ways.items():
            started = time.perf_counter()
            found[name] = way()
            seconds[name].append(time.perf_counter() - started)
    products = [name for name in PRODUCTS if name in ways]
    fastest = min(products, key=lambda name: median(seconds[name])) if products else None
    assert found["lookalike"] is not None and found["faiss"] is not None
    return {
        "seconds": {name: summary(values) for name, values in seconds.items()},
        "times_product": _times(seconds, fastest) if fastest else None,
        "times_faiss": _times(seconds, "faiss"),
        "turns": seconds,
        "agreement": _agreement(found["lookalike"], found["faiss"], target, source, setting.metric),
        "libraries": libraries(),
    }


def _times(seconds: dict[str, list[float]], other: str) -> float:
    """Median of lookalike's time over another's in the same turn: what slows a whole turn does not change it."""
    return median(one / two for one, two in zip(seconds["lookalike"], seconds[other], strict=True))


def _agreement(ours: Rows, theirs: Rows, target: Matrix, source: Matrix, metric: str) -> dict[str, Any]:
    """The share of rows at the same place in both, and how many of the others are no near tie.

    The distances of the rows that differ are taken again in float64.
    """
    number, place = np.nonzero(ours != theirs)
    one, two = (_distances(target[number], source[rows[number, place]], metric) for rows in (ours, theirs))
    apart = np.abs(one - two) > _TIE * np.abs(one)
    return {"rows_equal": 1 - len(number) / ours.size, "differ_beyond_ties": int(apart.sum()), "tie": _TIE}


def _distances(target: Matrix, source: Matrix, metric: str) -> np.ndarray:
    """Distances of pairs, in float64."""
    left, right = target.astype(np.float64), source.astype(np.float64)
    if metric == "cosine":
        return 1 - (left * right).sum(1) / np.sqrt((left * left).sum(1) * (right * right).sum(1))
    return np.linalg.norm(left - right, 1 if metric == "manhattan" else 2, axis=1)


def _peak(setting: Setting, name: str) -> dict[str, float]:
    """Megabytes that one search adds to the peak of this process, its data and a tiny search being there."""
    target, source = data_of(setting)
    open_way(name, setting, target[: _TINY[1]], source[: _TINY[0]])()
    before = peak_memory()
    open_way(name, setting, target, source)()
    return {name: (peak_memory() - before) / 1e6}


def _child(what: str, given: str, *rest: str) -> None:
    """One measurement in a process of its own."""
    setting = Setting(**json.loads(given))
    result = _time(setting, int(rest[0]), float(rest[1])) if what == "time" else _peak(setting, rest[0])
    print(json.dumps(result))


if __name__ == "__main__":
    _child(*sys.argv[2:])
