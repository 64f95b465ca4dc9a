"""Peak memory of `embed_images` by the number of rows: it must not grow with the pool.

Every row has a path of its own, but there are only eight files: a path holds the row's number as a row of `/` and
`/./`, which the system reads alike. A tiny encoder stands in for the model; reading, decoding, shards, markers and the
final table are the real ones. The cache is off.
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
from lookalike.config.schemas import ImageEmbeddingsConfig

#: What the largest pool may take more than the smallest.
BOUND = 200 * 10**6
_FILES = 8
#: Of the paths: 2**20 rows can be told apart.
_BITS = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks memory`."""
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--dimension", type=int, default=64)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    rows = [measure(count, arguments.dimension, ImageEmbeddingsConfig.shard_rows) for count in arguments.rows]
    for row in rows:
        print(f"{row['rows']:>9} rows  {row['peak'] / 1e6:7.0f} MB  {row['seconds']:7.1f} s")
    growth = max(row["peak"] for row in rows) - rows[0]["peak"]
    print(f"growth: {growth / 1e6:.0f} MB, bound {BOUND / 1e6:.0f} MB: {'kept' if growth <= BOUND else 'BROKEN'}")
    save("memory", {"dimension": arguments.dimension, "bound": BOUND, "growth": growth, "rows": rows})


def measure(rows: int, dimension: int, shard_rows: int) -> dict[str, Any]:
    """Peak memory of one run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        _write_table(Path(folder), rows)
        return measure_in_child("benchmarks.memory", folder, str(rows), str(dimension), str(shard_rows))


def _write_table(folder: Path, rows: int) -> None:
    """Write the images, and a table with a path of its own for every row."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    for number in range(_FILES):
        Image.new("RGB", (4, 4), (number, 2 * number, 7)).save(folder / f"{number}.png")
    step = 100_000
    schema = pa.schema({"filepath": pa.string(), "number": pa.int64()})
    with pq.ParquetWriter(folder / "table.parquet", schema) as writer:
        for first in range(0, rows, step):
            numbers = range(first, min(first + step, rows))
            paths = [_path(folder, number) for number in numbers]
            writer.write_table(pa.table({"filepath": paths, "number": list(numbers)}, schema=schema))


def _path(folder: Path, number: int) -> str:
    bits = f"{number:0{_BITS}b}".replace("1", "/.").replace("0", "/")
    return f"{folder}{bits}/{number % _FILES}.png"


class _TinyEncoder:
    """Vectors are the corner pixel, repeated."""

    def __init__(self, dimension: int) -> None:
        from lookalike.encoders.identity import EncoderIdentity, ModelIdentity, Numerics, Origin
        from lookalike.images.preprocess import Preprocessing

        self.preprocessing = Preprocessing("squash", (4, 4), 0, None, "floor", 1.0, (0.0,) * 3, (1.0,) * 3)
        self.identity = EncoderIdentity(
            ModelIdentity("test", "corner", dimension, "weights", "pixels", "corner", "none"),
            Numerics("fp32", "numpy", "pillow"),
            Origin("benchmarks", {}),
        )
        self._dimension = dimension

    def start(self, pixels: Any) -> Any:
        vectors = np.repeat(pixels[:, 0, 0, 0][:, None], self._dimension, axis=1)
        return lambda: vectors


def _child(folder: Path, rows: int, dimension: int, shard_rows: int) -> None:
    """Embed in this process; the last line is the JSON of the measurement."""
    from lookalike.embedding import images

    setattr(images, "check_model", lambda *arguments: "test")  # noqa: B010 - mypy knows the real ones
    setattr(images, "open_encoder", lambda *arguments: _TinyEncoder(dimension))  # noqa: B010
    started = time.perf_counter()
    result = images.embed_images(
        folder / "table.parquet", folder / "out.parquet", "CLIP", "benchmarks", cache_dir="off", shard_rows=shard_rows
    )
    assert result.rows == rows, f"{result.rows} of {rows} rows were embedded"
    print(json.dumps({"rows": rows, "peak": peak_memory(), "seconds": time.perf_counter() - started}))


if __name__ == "__main__":
    _, folder, rows, dimension, shard_rows = sys.argv[1:]
    _child(Path(folder), int(rows), int(dimension), int(shard_rows))
