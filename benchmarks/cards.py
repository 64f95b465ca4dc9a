"""Two GPUs against one: images/s of an embedding, and seconds of a search, in turn; the results must be the same."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks.card import FAST, SIZES, picture
from benchmarks.common import save, summary

#: At least: images/s of two over those of one.
TARGET = 1.8


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks cards`."""
    parser.add_argument("--images", type=int, default=262_144, help="640 x 480")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--sources", type=int, default=2_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    from lookalike.encoders.load import choose_devices

    places = choose_devices("auto", "torch")[:2]  # before CUDA begins, as in a run of its own
    if len(places) < 2:
        raise SystemExit("this needs two GPUs")
    import torch

    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(0), "target": TARGET}
    result["embed"] = _embedding(arguments, places)
    save("cards", result)
    result["search"] = _searching(arguments, places)
    save("cards", result)


def _embedding(arguments: argparse.Namespace, places: list[str]) -> dict[str, Any]:
    """Images/s of one card and of two, the start of the second one's process counted."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from benchmarks.embed import MODELS
    from lookalike import embed_images

    rates: dict[str, list[float]] = {"one": [], "two": []}
    with tempfile.TemporaryDirectory() as folder:
        MODELS["siglip-b16"](Path(folder) / "siglip")
        height, width, distinct = SIZES["jpeg-640x480"]
        made = [picture(Path(folder) / f"{seed}.jpg", height, width, seed) for seed in range(distinct)]
        table = pa.table({"filepath": [made[number % distinct] for number in range(arguments.images)]})
        for turn in range(arguments.repeat + 1):
            given = table if turn else table.slice(0, 8 * arguments.batch)  # the first turn warms up
            vectors = []
            for way, device in (("one", places[0]), ("two", ",".join(places))):
                done = embed_images(
                    given, Path(folder) / f"{way}.parquet", "SigLIP", str(Path(folder) / "siglip"), device=device,
                    batch_size=arguments.batch, **FAST,
                )  # fmt: skip
                if turn:
                    rates[way].append(done.images / done.seconds)
                vectors.append(pq.read_table(done.path).slice(0, 20_000).column("embedding").to_numpy())
        least = min(_cosine(one, two) for one, two in zip(*vectors, strict=True))
    ratio = median(two / one for one, two in zip(rates["one"], rates["two"], strict=True))
    one, two = (median(rates[way]) for way in rates)
    print(f"embedding: one card {one:.0f} images/s, two {two:.0f}: {ratio:.2f} times (target {TARGET})", flush=True)
    return {
        "images": arguments.images, **{way: summary(values) for way, values in rates.items()}, "ratio": ratio,
        "least_cosine": least,
    }  # fmt: skip


def _cosine(one: np.ndarray, two: np.ndarray) -> float:
    left, right = one.astype(np.float64), two.astype(np.float64)
    return float(left @ right / np.sqrt((left @ left) * (right @ right)))


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
