"""Exact search: seconds against the bare matrix product and scikit-learn's brute force, and peak memory."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable

import numpy as np

from benchmarks.common import measure_in_child, peak_memory, save, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks search`."""
    parser.add_argument("--sources", type=int, default=100_000)
    parser.add_argument("--targets", type=int, default=1_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--topn", type=int, default=5)
    parser.add_argument("--metrics", nargs="+", default=["cosine", "euclidean"])
    parser.add_argument("--repeat", type=int, default=5)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    shape = [str(arguments.sources), str(arguments.targets), str(arguments.dimension), str(arguments.topn)]
    results = {}
    print(f"{arguments.sources} sources x {arguments.targets} targets x {arguments.dimension} dimensions")
    print(f"{'metric':<10} {'product':>9} {'lookalike':>9} {'sklearn':>9} {'x product':>9} {'sklearn/ours':>12} memory")
    for metric in arguments.metrics:
        timed = measure_in_child("benchmarks.search", "time", metric, str(arguments.repeat), *shape)
        memory = measure_in_child("benchmarks.search", "memory", metric, "1", *shape)
        product, ours, theirs = (timed[name]["median"] for name in ("product", "lookalike", "sklearn"))
        results[metric] = {
            **timed,
            **memory,
            "times_product": ours / product,
            "sklearn_over_lookalike": theirs / ours,
        }
        print(
            f"{metric:<10} {product:>8.2f}s {ours:>8.2f}s {theirs:>8.2f}s {ours / product:>9.2f} "
            f"{theirs / ours:>12.2f} {memory['peak_over_source']:>6.2f}x"
        )
    print("memory: peak of the process over its imports, as a multiple of the source array")
    save(
        "search",
        {"shape": dict(zip(("sources", "targets", "dimension", "topn"), map(int, shape), strict=True)), **results},
    )


def _child(what: str, metric: str, repeat: int, shape: list[int]) -> None:
    """One measurement in a process of its own."""
    from lookalike import nearest_neighbors

    sources, targets, dimension, topn = shape
    random = np.random.default_rng(0)
    if what == "memory":
        before = peak_memory()
        source = random.standard_normal((sources, dimension), dtype=np.float32)
        target = random.standard_normal((targets, dimension), dtype=np.float32)
        nearest_neighbors(target, source, topn, metric)
        print(json.dumps({"peak_over_source": (peak_memory() - before) / source.nbytes, "source_bytes": source.nbytes}))
        return
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_info

    source = random.standard_normal((sources, dimension), dtype=np.float32)
    target = random.standard_normal((targets, dimension), dtype=np.float32)
    scikit = NearestNeighbors(n_neighbors=topn, algorithm="brute", metric=metric).fit(source)
    rows: dict[str, np.ndarray] = {}

    def product() -> None:
        for first in range(0, sources, 8192):
            target @ source[first : first + 8192].T

    def ours() -> None:
        rows["lookalike"] = nearest_neighbors(target, source, topn, metric).rows

    def theirs() -> None:
        rows["sklearn"] = scikit.kneighbors(target, return_distance=True)[1]

    ways: dict[str, Callable[[], None]] = {"product": product, "lookalike": ours, "sklearn": theirs}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if turn:  # the first turn warms up
                seconds[name].append(time.perf_counter() - started)
    result = {name: summary(values) for name, values in seconds.items()}
    agree = float((rows["lookalike"] == rows["sklearn"]).mean())
    kernel = [f"{pool['internal_api']} {pool.get('architecture')}" for pool in threadpool_info()]
    print(json.dumps({**result, "rows_equal_to_sklearn": agree, "blas": kernel}))


if __name__ == "__main__":
    _child(sys.argv[2], sys.argv[3], int(sys.argv[4]), [int(value) for value in sys.argv[5:]])
