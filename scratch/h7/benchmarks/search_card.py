"""Exact search on one GPU: seconds against the bare bfloat16 product, torch in float32, and torch.cdist.

Vectors are normally distributed, made on the card. Nothing is copied from the host but in `--stream`, which reads one
folder of parquet files again and again, as a stand-in for a pool of many times its size.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import save, summary
from benchmarks.search_stream import bytes_of, drop_from_cache, write_shards

#: Passes of `--stream` from one that reads nothing but vectors, and files, to the next.
_NOW_AND_THEN = 10
#: Sources made at a time.
_BLOCK = 1_000_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks search-card`."""
    parser.add_argument("--sources", type=int, default=1_000_000)
    parser.add_argument("--targets", type=int, default=10_000)
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--topn", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=10, help="a second search over so many times the sources")
    parser.add_argument("--embeddings", type=Path, nargs="*", default=[], help="tables whose neighbours are compared")
    parser.add_argument("--cupy", action="store_true", help="CuPy's product and argpartition, too (one slow turn)")
    parser.add_argument("--stream", type=int, default=0, metavar="PASSES", help="read a folder of files so often")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name(0) if device.type == "cuda" else "cpu"
    result: dict[str, Any] = {
        "device": name,
        "asked": {key: value for key, value in vars(arguments).items() if key != "run"},
    }
    target = _vectors(arguments.targets, arguments.dimension, 1, device)
    source = _vectors(arguments.sources, arguments.dimension, 2, device)
    result["cosine"] = _products(target, source, arguments)
    few = slice(0, min(1_000, arguments.targets)), slice(0, min(100_000, arguments.sources))
    result["manhattan"] = _manhattan(target[few[0]], source[few[1]], arguments)
    result["many"] = _many(target, arguments)
    result["agreement"] = _agreement(target, source, arguments)
    if arguments.stream:
        result["stream"] = _stream(arguments)
    save("search-card", result)


def _products(target: Any, source: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Cosine: lookalike, the bare product, and torch's way, in turn."""
    import torch

    found: dict[str, Any] = {}
    halves = target.bfloat16(), source.bfloat16()
    units = tuple(side / side.norm(dim=1, keepdim=True) for side in (target, source))

    def product() -> None:
        for part in halves[1].split(65_536):
            halves[0] @ part.T

    def by_torch() -> None:
        best = None
        for first in range(0, len(source), 65_536):
            values, rows = (units[0] @ units[1][first : first + 65_536].T).topk(arguments.topn)
            joined = (values, rows + first) if best is None else tuple(map(_beside, best, (values, rows + first)))
            values, order = joined[0].topk(arguments.topn)
            best = values, joined[1].gather(1, order)
        found["torch"] = best

    def ours() -> None:
        found["lookalike"] = _search(target, [source], arguments.topn, "cosine")

    row = _in_turn({"product": product, "torch": by_torch, "lookalike": ours}, arguments.repeat)
    same = (torch.from_numpy(found["lookalike"].rows) == found["torch"][1].cpu()).float().mean()
    row |= {"rows_equal_to_torch": float(same), "widened": int(found["lookalike"].widened.sum())}
    if arguments.cupy:
        row["cupy"] = summary([_by_cupy(units, arguments.topn)])
    _ratios(row, "product", "torch", *(["cupy"] if arguments.cupy else []))
    return row


def _by_cupy(units: tuple[Any, ...], topn: int) -> float:
    """Seconds of CuPy's way: product, argpartition (which sorts), and a merge of the blocks' best."""
    import cupy

    left, right = (cupy.from_dlpack(side) for side in units)
    best: Any = None
    started = 0.0
    for number, first in enumerate((0, *range(0, len(right), 16_384))):
        if number == 1:  # the first block was for warming up
            best, started = None, time.perf_counter()
        scores = left @ right[first : first + 16_384].T
        rows = cupy.argpartition(-scores, topn, axis=1)[:, :topn]
        found = cupy.take_along_axis(scores, rows, 1), rows + first
        if best is not None:
            found = tuple(cupy.concatenate(pair, axis=1) for pair in zip(best, found, strict=True))
            order = cupy.argsort(-found[0], axis=1)[:, :topn]
            found = tuple(cupy.take_along_axis(part, order, 1) for part in found)
        best = found
        cupy.cuda.Device().synchronize()
    return time.perf_counter() - started


def _agreement(target: Any, source: Any, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Whether the processor and the card find the same rows in the same order."""
    from lookalike import nearest_neighbors
    from lookalike.tables.embedding_stream import read_embedding_table

    few = target[: min(1_000, len(target))].cpu().numpy()
    if target.device.type != "cuda":
        return []
    sides = [("random", few, source.cpu().numpy(), ("cosine", "euclidean"))]
    sides += [("random", few, source[:100_000].cpu().numpy(), ("manhattan", "inner_product"))]
    for path in arguments.embeddings:
        vectors = read_embedding_table(str(path), "embedding").vectors
        sides.append((path.name, vectors[::10], vectors, ("cosine", "euclidean", "manhattan", "inner_product")))
    rows = []
    for name, left, right, metrics in sides:
        for metric in metrics:
            cpu, card = (nearest_neighbors(left, right, 20, metric, device=device) for device in ("cpu", "cuda"))
            row = {"data": name, "sources": len(right), "targets": len(left), "metric": metric, "topn": 20}
            row["rows_equal"] = bool((cpu.rows == card.rows).all())
            row["distances_equal"] = bool((cpu.distances == card.distances).all())
            print(row)
            rows.append(row)
    return rows


def _manhattan(target: Any, source: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """L1: lookalike and torch.cdist."""
    import torch

    def by_torch() -> None:
        for part in source.split(20_000):
            torch.cdist(target, part, p=1).topk(arguments.topn, largest=False)

    ways = {"torch": by_torch, "lookalike": lambda: _search(target, [source], arguments.topn, "manhattan")}
    row = _in_turn(ways, arguments.repeat) | {"sources": len(source), "targets": len(target)}
    _ratios(row, "torch")
    return row


def _many(target: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Many times the sources, made block by block on the card; making them is not counted."""
    from lookalike.neighbors.cuda.finder import CudaFinder

    finder, seconds = CudaFinder(target, "cosine", arguments.topn, target.device), 0.0
    for number in range(arguments.blocks):
        block = _vectors(min(_BLOCK, arguments.sources), arguments.dimension, 10 + number, target.device)
        rows = np.arange(number * len(block), (number + 1) * len(block))
        _wait()
        started = time.perf_counter()
        finder.see(block, rows)
        _wait()
        seconds += time.perf_counter() - started
    finder.finish()
    row = {"sources": arguments.blocks * min(_BLOCK, arguments.sources), "seconds": seconds}
    print(f"many: {row}")
    return row


def _stream(arguments: argparse.Namespace) -> dict[str, Any]:
    """A folder of parquet files, read again and again, from files to neighbours.

    Before every pass the system is asked to drop the files from its page cache, so that the disk counts. Now and then
    the bytes of the files alone are read, and the vectors alone.
    """
    from lookalike.neighbors.devices import make_finder
    from lookalike.tables.embedding_stream import EmbeddingStream

    rows = 1_000_000
    target = np.random.default_rng(0).standard_normal((arguments.targets, arguments.dimension), dtype=np.float32)
    finder = make_finder(target, "cosine", arguments.topn, ["cuda:0"])
    with tempfile.TemporaryDirectory() as folder:
        pool = Path(folder) / "pool"
        write_shards(pool, rows, arguments.dimension, 0)

        def search() -> None:
            for chunk in EmbeddingStream(str(pool), "embedding").chunks(100_000):
                finder.see(chunk.vectors, chunk.first + np.arange(len(chunk.vectors)))

        def vectors() -> None:
            for _ in EmbeddingStream(str(pool), "embedding").chunks(100_000):
                pass

        def files() -> None:
            for file in sorted(pool.glob("*.parquet")):
                with file.open("rb", buffering=0) as opened:
                    while opened.read(8 << 20):
                        pass

        seconds: dict[str, list[float]] = {"search": [], "vectors": [], "files": []}
        cold = True
        search()
        for turn in range(arguments.stream):
            for way in (search, vectors, files) if turn % _NOW_AND_THEN == 0 else (search,):
                cold &= drop_from_cache(str(pool))
                _wait()
                started = time.perf_counter()
                way()
                _wait()
                seconds[way.__name__].append(time.perf_counter() - started)
        size = bytes_of(str(pool)) / 1e9
    gigabytes = rows * arguments.dimension * 4 / 1e9
    whole = sum(seconds["search"])
    row = {
        "passes": arguments.stream,
        "gigabytes": arguments.stream * gigabytes,
        "gigabytes_of_files": arguments.stream * size,
        "page_cache_dropped": cold,
        "seconds": whole,
        "gigabytes_per_second": arguments.stream * gigabytes / whole,
        "pass": {name: summary(values) for name, values in seconds.items()},
        "of_reading_vectors": median(seconds["vectors"]) / median(seconds["search"]),
        "of_reading_files": median(seconds["files"]) / median(seconds["search"]),
    }
    print(f"stream: {row}")
    return row


def _search(target: Any, blocks: list[Any], topn: int, metric: str) -> Any:
    from lookalike.neighbors.cuda.finder import CudaFinder

    finder = CudaFinder(target, metric, topn, target.device)
    first = 0
    for block in blocks:
        finder.see(block, first + np.arange(len(block)))
        first += len(block)
    return finder.finish()


def _in_turn(ways: dict[str, Callable[[], Any]], repeat: int) -> dict[str, Any]:
    """Seconds of every way, in turn; the first turn warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeat + 1):
        for name, way in ways.items():
            _wait()
            started = time.perf_counter()
            way()
            _wait()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: summary(values) for name, values in seconds.items()}


def _ratios(row: dict[str, Any], *others: str) -> None:
    ours = row["lookalike"]["median"]
    for other in others:
        row[f"{other}_over_lookalike"] = row[other]["median"] / ours
    row["times_product"] = ours / row["product"]["median"] if "product" in row else None
    print(row)


def _vectors(count: int, dimension: int, seed: int, device: Any) -> Any:
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    return torch.randn(count, dimension, device=device, generator=generator)


def _beside(one: Any, two: Any) -> Any:
    import torch

    return torch.cat([one, two], dim=1)


def _wait() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
