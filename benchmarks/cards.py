"""Two GPUs against one: images/s of an embedding, and seconds of a search, in turn; the results must be the same.

Every embedding is a process of its own, as the command is: both ways start Python, load torch and the model.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.card import FAST, SIZES, picture
from benchmarks.common import measure_in_child, save, summary

#: At least: images/s of two over those of one.
TARGET = 1.8
#: Vectors that are compared.
_COMPARED = 20_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks cards`."""
    parser.add_argument(
        "--images", type=int, nargs="+", default=[262_144, 1_048_576], help="640 x 480, each size in turn"
    )
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sources", type=int, default=2_000_000)
    parser.add_argument("--repeat", type=int, default=2)
    parser.add_argument("--limit", type=float, default=420, help="seconds after which no further turn begins")
    parser.add_argument("--only", choices=["embed", "search"], help="leave the other out")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    from lookalike.encoders.load import choose_devices

    places = choose_devices("auto", "torch")[:2]  # before CUDA begins, as in a run of its own
    if len(places) < 2:
        raise SystemExit("this needs two GPUs")
    import torch

    result: dict[str, Any] = {"target": TARGET}
    if arguments.only != "search":
        result["embed"] = []
        for row in _embedding(arguments):
            result["embed"].append(row)
            save("cards", result)
    result["gpu"] = torch.cuda.get_device_name(0)  # after the embeddings: CUDA begins here
    if arguments.only != "embed":
        result["search"] = _searching(arguments, places)
    save("cards", result)


def _embedding(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Images/s of one card and of two, for each size of the pool."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.embed import MODELS

    given = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1").split(",")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        MODELS["siglip-b16"](place / "siglip")
        height, width, distinct = SIZES["jpeg-640x480"]
        made = [picture(place / f"{seed}.jpg", height, width, seed) for seed in range(distinct)]

        def embed(way: str, images: int) -> dict[str, Any]:
            table = place / f"{images}.parquet"
            if not table.exists():
                pq.write_table(pa.table({"filepath": [made[number % distinct] for number in range(images)]}), table)
            visible = {"CUDA_VISIBLE_DEVICES": ",".join(given[: {"one": 1, "two": 2}[way]])}
            output = place / f"{way}.parquet"
            started = time.time()
            words = [str(table), str(output), str(place / "siglip"), str(arguments.batch)]
            done = measure_in_child("benchmarks.cards", *words, environment=visible)
            return done | {"whole": time.time() - started}

        embed("one", 8 * arguments.batch)  # compiles the kernels, which are kept on the disk
        for images in arguments.images:
            turns: list[dict[str, dict[str, Any]]] = []
            while not turns or (len(turns) < arguments.repeat and time.perf_counter() - began < arguments.limit):
                turns.append({way: embed(way, images) for way in ("one", "two")})
            vectors = [_first_vectors(place / f"{way}.parquet") for way in ("one", "two")]
            yield _summed_up(images, turns) | {
                "least_cosine": float(_cosines(*vectors).min()),
                "equal_vectors": bool((vectors[0] == vectors[1]).all()),
            }


def _child(words: list[str]) -> None:
    """Embed once, on the cards that are visible, and print what came of it."""
    from lookalike import embed_images

    table, output, model, batch = words
    done = embed_images(table, output, "SigLIP", model, batch_size=int(batch), **FAST)
    shares = [asdict(share) for share in done.shares]
    print(json.dumps({"images": done.images, "loop": done.seconds, "limit": done.limit, "devices": shares}))


def _summed_up(images: int, turns: list[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Rates, ratios, and the timeline of the last turn."""
    row: dict[str, Any] = {"images": images}
    for way in ("one", "two"):
        row[way] = {
            "images_per_s": summary([turn[way]["images"] / turn[way]["loop"] for turn in turns]),
            "whole_s": summary([turn[way]["whole"] for turn in turns]),
            "last": turns[-1][way],
        }
    row["ratio"] = median(turn["one"]["loop"] / turn["two"]["loop"] for turn in turns)
    row["ratio_of_the_whole"] = median(turn["one"]["whole"] / turn["two"]["whole"] for turn in turns)
    one, two = (row[way]["images_per_s"]["median"] for way in ("one", "two"))
    print(
        f"embedding {images}: one card {one:.0f} images/s, two {two:.0f}: {row['ratio']:.2f} times (target {TARGET}), "
        f"with start and table {row['ratio_of_the_whole']:.2f}; {row['two']['last']['devices']}",
        flush=True,
    )
    return row


def _first_vectors(path: Path) -> npt.NDArray[np.float32]:
    """The first vectors of a table."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(_COMPARED, columns=["embedding"]))
    values: npt.NDArray[np.float32] = batch.column("embedding").flatten().to_numpy()
    return values.reshape(len(batch), -1)


def _cosines(one: npt.NDArray[np.float32], two: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    left, right = one.astype(np.float64), two.astype(np.float64)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    cosines: npt.NDArray[np.float64] = (left * right).sum(axis=1) / lengths
    return cosines


def _searching(arguments: argparse.Namespace, places: list[str]) -> dict[str, Any]:
    """Seconds of a search of vectors in the host's memory, where half of them go to each card."""
    from lookalike import nearest_neighbors

    random = np.random.default_rng(0)
    source = random.standard_normal((arguments.sources, 768), dtype=np.float32)
    target = random.standard_normal((10_000, 768), dtype=np.float32)
    seconds: dict[str, list[float]] = {"one": [], "two": []}
    found = {}
    for turn in range(arguments.repeat + 1):
        for way, device in (("one", places[0]), ("two", ",".join(places))):
            started = time.perf_counter()
            found[way] = nearest_neighbors(target, source, 5, "cosine", device=device, memory_limit=16 << 30)
            if turn:
                seconds[way].append(time.perf_counter() - started)
    same = bool((found["one"].rows == found["two"].rows).all())
    ratio = median(one / two for one, two in zip(seconds["one"], seconds["two"], strict=True))
    one, two = (median(seconds[way]) for way in seconds)
    print(f"search: one card {one:.2f} s, two {two:.2f} s: {ratio:.2f} times; the same rows: {same}")
    return {
        "sources": arguments.sources, "targets": 10_000, "top": 5,
        **{way: summary(values) for way, values in seconds.items()}, "ratio": ratio, "same_rows": same,
    }  # fmt: skip


if __name__ == "__main__":
    _child(sys.argv[2:])
