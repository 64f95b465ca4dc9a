"""Exact search of a pool in files, larger than the memory it may take, and `mine` as a whole.

The pool is a folder of parquet shards of random vectors, written as `embed_images` writes them. Before every run that
reads files, the system is asked to drop them from its page cache (where it can be asked), so that the disk counts.
Every measurement has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.common import measure_in_child, peak_memory, save, summary
from benchmarks.search_ways import libraries, product, random_vectors
from lookalike.cores import usable_cores

#: What the search may take at most beside its imports.
LIMIT = 2 << 30
#: Rows of a shard and of a row group.
_SHARD = 100_000
_GROUP = 10_000
#: Rows whose product is taken, and of a block of it; the product of the whole pool is scaled from them.
_SAMPLE = 131_072
_BLOCK = 4096
#: How `mine` is split.
_HOW = (
    "reading: the files consumed chunk by chunk; searching: of arrays, without checks; checking: with minus without; "
    "writing: both tables that were made, written once more; rest: the whole minus all these, so below 0 "
    "where reading and searching overlap"
)
#: Sources and targets of a warm-up.
_TINY = (4096, 64)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks search-stream`."""
    parser.add_argument("--gigabytes", type=float, default=20, help="float32 values of the pool that is streamed")
    parser.add_argument("--folder", type=Path, help="for the files, which stay there; a temporary one if not given")
    parser.add_argument("--targets", type=int, default=200, help="of the streamed search")
    parser.add_argument("--mined", type=int, nargs=2, default=[1_000_000, 1_000], help="sources and targets of `mine`")
    parser.add_argument("--dimension", type=int, default=768)
    parser.add_argument("--topn", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=3)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    common = {"dimension": arguments.dimension, "topn": arguments.topn, "memory_limit": LIMIT}
    rows = round(arguments.gigabytes * 1e9 / (4 * arguments.dimension))
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        asked = {**common, "rows": rows, "targets": arguments.targets, "pool": str(folder / "stream")}
        write_shards(Path(asked["pool"]), rows, arguments.dimension, 0)
        streamed = _measure_stream(asked, arguments.repeat)
        _print_stream(streamed)
        if not arguments.folder:
            _remove(Path(asked["pool"]))
        sources, targets = arguments.mined
        asked = {**common, "rows": sources, "targets": targets, "pool": str(folder / "pool")}
        asked |= {"target": str(folder / "target"), "output": str(folder / "mined.parquet")}
        write_shards(Path(asked["pool"]), sources, arguments.dimension, 1)
        write_shards(Path(asked["target"]), targets, arguments.dimension, 2)
        mined = _measure_mine(asked, arguments.repeat)
        _print_mine(mined)
    save("search-stream", {"stream": streamed, "mine": mined})


def _measure_stream(asked: dict[str, Any], repeat: int) -> dict[str, Any]:
    """The search of a folder, reading it alone, and the product alone, in turn."""
    turns: dict[str, list[dict[str, Any]]] = {"search": [], "read": [], "product": []}
    for _ in range(repeat):
        for what, results in turns.items():
            cold = drop_from_cache(asked["pool"])
            results.append(_run(what, asked))
    seconds = {what: [one["seconds"] for one in results] for what, results in turns.items()}
    reading = [one["processor_seconds"] for one in turns["read"]]
    each = list(zip(seconds["search"], seconds["read"], seconds["product"], reading, strict=True))
    cores = usable_cores()
    gigabytes = 4e-9 * asked["rows"] * asked["dimension"]
    return {
        **_shape(asked),
        "gigabytes": gigabytes,
        "gigabytes_of_files": bytes_of(asked["pool"]) / 1e9,
        "page_cache_dropped": cold,
        "seconds": {what: summary(values) for what, values in seconds.items()},
        "gigabytes_per_second": gigabytes / median(seconds["search"]),
        "of_the_slower": median(max(read, bare) / search for search, read, bare, _ in each),
        "processor_seconds_of_reading": median(reading),
        # Reading takes processor time too: what all cores need for both, where none ever waits.
        "of_the_cores": median((own / cores + bare) / search for search, _, bare, own in each),
        "peak_over_start": max(one["peak_over_start"] for one in turns["search"]),
        "libraries": turns["search"][0]["libraries"],
    }


def _print_stream(result: dict[str, Any]) -> None:
    print(f"{result['gigabytes']:.1f} GB, {result['rows']} x {result['targets']}, cosine, top {result['topn']}")
    print(f"  page cache dropped before each run: {'yes' if result['page_cache_dropped'] else 'no'}")
    for what, seconds in result["seconds"].items():
        print(f"  {what:<10} {seconds['median']:>8.1f} s  ({seconds['min']:.1f} to {seconds['max']:.1f})")
    print(f"  search: {result['gigabytes_per_second']:.2f} GB/s")
    print(f"  {result['of_the_slower']:.2f} of the slower of reading and product")
    print(f"  {result['of_the_cores']:.2f} of what the cores allow, where both need them")
    kept = "kept" if result["peak_over_start"] <= result["memory_limit"] else "BROKEN"
    peak, most = result["peak_over_start"] / 1e6, result["memory_limit"] / 1e6
    print(f"  peak over the start: {peak:.0f} MB (limit {most:.0f} MB: {kept})")


def _measure_mine(asked: dict[str, Any], repeat: int) -> dict[str, Any]:
    """`mine` as a whole and its parts alone, in turn."""
    wholes, parts = [], []
    for _ in range(repeat):
        cold = drop_from_cache(asked["pool"])
        wholes.append(_run("mine", asked))
        drop_from_cache(asked["pool"])
        parts.append(_run("parts", asked))
    whole = summary([one["seconds"] for one in wholes])
    split = {name: median(one[name] for one in parts) for name in ("reading", "searching")}
    checking = median(one["certified"] - one["searching"] for one in parts)
    if wholes[-1]["certified"]:
        split["checking"] = checking
    split["writing"] = median(one["writing"] for one in wholes)
    split["rest"] = whole["median"] - sum(split.values())
    return {
        **_shape(asked),
        "page_cache_dropped": cold,
        "seconds": whole,
        "checks_some_targets": wholes[-1]["certified"],
        "split": split,
        "checking_alone": checking,
        "how": _HOW,
        "peak_over_start": max(one["peak_over_start"] for one in wholes),
    }


def _print_mine(result: dict[str, Any]) -> None:
    print(f"mine, {result['rows']} x {result['targets']}, cosine, topn {result['topn']}")
    for name, seconds in {"whole": result["seconds"]["median"], **result["split"]}.items():
        print(f"  {name:<10} {seconds:>8.2f} s")
    if not result["checks_some_targets"]:
        print(f"  it checks nothing; checking alone would take {result['checking_alone']:.2f} s")
    print(f"  peak over the start: {result['peak_over_start'] / 1e6:.0f} MB\nsplit: {result['how']}")


def _shape(asked: dict[str, Any]) -> dict[str, Any]:
    return {name: asked[name] for name in ("rows", "targets", "dimension", "topn", "memory_limit")}


def write_shards(folder: Path, rows: int, dimension: int, seed: int) -> None:
    """Write random vectors as an embedding table of many files, or keep those of an earlier run."""
    note = folder / "made.json"
    made = json.dumps({"rows": rows, "dimension": dimension, "seed": seed})
    if note.exists() and note.read_text() == made:
        return
    _remove(folder)
    folder.mkdir(parents=True)

    def write(first: int) -> None:
        _write_shard(folder, first, min(_SHARD, rows - first), dimension, seed)

    with ThreadPoolExecutor(min(4, usable_cores())) as threads:
        list(threads.map(write, range(0, rows, _SHARD)))
    note.write_text(made)


def _write_shard(folder: Path, first: int, rows: int, dimension: int, seed: int) -> None:
    import pyarrow as pa

    from lookalike.encoders.identity import EncoderIdentity, ModelIdentity, Numerics, Origin
    from lookalike.tables.embedding_table import EmbeddingTableWriter

    model = ModelIdentity("test", "random", dimension, "weights", "pixels", "random", "none")
    identity = EncoderIdentity(model, Numerics("fp32", "numpy", "pillow"), Origin("benchmarks", {}))
    images = pa.table({"filepath": [f"images/{seed}/{number:09}.jpg" for number in range(first, first + rows)]})
    random = np.random.default_rng((seed, first))
    path = folder / f"{first:09}.parquet"
    with EmbeddingTableWriter(path, images, identity.to_json(), "float32") as writer:
        for start in range(0, rows, _GROUP):
            numbers = np.arange(start, min(start + _GROUP, rows))
            writer.write(numbers, random.standard_normal((len(numbers), dimension), dtype=np.float32))
    with path.open("rb") as file:
        os.fsync(file.fileno())  # only what is on the disk can be dropped from memory


def _remove(folder: Path) -> None:
    for file in folder.glob("*"):
        file.unlink()
    if folder.exists():
        folder.rmdir()


def bytes_of(folder: str) -> int:
    """Bytes of the parquet files of a folder."""
    return sum(file.stat().st_size for file in Path(folder).glob("*.parquet"))


def drop_from_cache(folder: str) -> bool:
    """Ask the system to drop the files from its page cache; whether it can be asked."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for file in Path(folder).glob("*.parquet"):
        with file.open("rb") as opened:
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return True


def _run(what: str, asked: dict[str, Any]) -> dict[str, Any]:
    return measure_in_child("benchmarks.search_stream", what, json.dumps(asked))


def _tiny_search(asked: dict[str, Any]) -> None:
    """Imports, threads and compiled code."""
    from lookalike import nearest_neighbors

    source, target = (random_vectors(rows, asked["dimension"], 3) for rows in _TINY)
    nearest_neighbors(target, source, asked["topn"], "cosine")


def _child_search(asked: dict[str, Any]) -> dict[str, Any]:
    """The search of a folder, with a limit of memory."""
    from lookalike import nearest_neighbors

    target = random_vectors(asked["targets"], asked["dimension"], 4)
    _tiny_search(asked)
    before, started = peak_memory(), time.perf_counter()
    found = nearest_neighbors(target, asked["pool"], asked["topn"], "cosine", memory_limit=asked["memory_limit"])
    seconds = time.perf_counter() - started
    assert (found.rows >= 0).all()
    return {"seconds": seconds, "peak_over_start": peak_memory() - before, "libraries": libraries()}


def _child_read(asked: dict[str, Any]) -> dict[str, float]:
    """Reading the same folder in the same way, and nothing else."""
    _tiny_search(asked)
    started, processor = time.perf_counter(), time.process_time()
    _read(asked["pool"], asked)
    return {"seconds": time.perf_counter() - started, "processor_seconds": time.process_time() - processor}


def _child_product(asked: dict[str, Any]) -> dict[str, float]:
    """The product of a sample, scaled to the whole."""
    sample = min(_SAMPLE, asked["rows"])
    target = random_vectors(asked["targets"], asked["dimension"], 4)
    work = product(target, random_vectors(sample, asked["dimension"], 5), _BLOCK)
    work()  # warms up
    values = []
    for _ in range(5):
        started = time.perf_counter()
        work()
        values.append(time.perf_counter() - started)
    return {"seconds": median(values) * asked["rows"] / sample}


def _child_mine(asked: dict[str, Any]) -> dict[str, Any]:
    """`mine`, from the files to the mined table."""
    import pyarrow.parquet as pq

    from lookalike import mine
    from lookalike.tables.pair_table import write_table

    _tiny_search(asked)
    before, started = peak_memory(), time.perf_counter()
    result = mine(asked["pool"], asked["target"], asked["output"], topn=asked["topn"], knn_metric="cosine")
    seconds, over = time.perf_counter() - started, peak_memory() - before
    tables = [(path, pq.read_table(path)) for path in (result.path, result.pairs_path)]
    started = time.perf_counter()
    for path, table in tables:
        write_table(table, path)
    writing = time.perf_counter() - started
    certified = "brute force" in result.summary  # a mined list whose neighbours were checked says so
    return {"seconds": seconds, "peak_over_start": over, "writing": writing, "certified": certified}


def _child_parts(asked: dict[str, Any]) -> dict[str, float]:
    """The parts of `mine` alone: reading, searching arrays without checks, and with them."""
    from lookalike.neighbors.search import Search, search
    from lookalike.neighbors.sides import open_side
    from lookalike.tables.embedding_stream import read_embedding_table

    _tiny_search(asked)
    started = time.perf_counter()
    for name in ("pool", "target"):
        _read(asked[name], asked)
    seconds = {"reading": time.perf_counter() - started}
    sides = [
        open_side(read_embedding_table(asked[name], "embedding").vectors, name, "embedding")
        for name in ("target", "pool")
    ]
    for name in ("searching", "certified"):
        started = time.perf_counter()
        search(sides[0], sides[1], Search(asked["topn"], "cosine", certified=name == "certified"))
        seconds[name] = time.perf_counter() - started
    return seconds


def _read(path: str, asked: dict[str, Any]) -> None:
    """Consume a folder in chunks as large as the search's."""
    from lookalike.neighbors.search import _CHUNK_SHARE
    from lookalike.tables.embedding_stream import EmbeddingStream

    for _ in EmbeddingStream(path, "embedding").chunks(
        asked["memory_limit"] // _CHUNK_SHARE // (4 * asked["dimension"])
    ):
        pass


_CHILDREN = {
    "search": _child_search,
    "read": _child_read,
    "product": _child_product,
    "mine": _child_mine,
    "parts": _child_parts,
}


if __name__ == "__main__":
    print(json.dumps(_CHILDREN[sys.argv[2]](json.loads(sys.argv[3]))))
