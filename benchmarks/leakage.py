"""Which copies of protected images are found in a pool of real images, and which real images are taken for copies.

Some images are drawn as the evaluation set. Every one of them is copied in several ways, one way after the other; the
pool is all other images and the copies. Both datasets and the encoder are those of `lookalike demo`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save

#: Cosine distances that are tried as thresholds for every set alike.
FIXED = (0.005, 0.01, 0.02, 0.05)
#: Pool images that are read where the pool is taken as too large to be read as a whole.
READS = 500
TITLES = {"solar": "solar cells", "textile": "textile"}
METHODS = {
    "whole": "pixels, whole pool",
    "near": f"pixels, {READS} nearest",
    "views": f"pixels, {READS} nearest, with the encoder",
    "spacing": "distance only",
}
WAYS = {
    "renamed": "renamed",
    "png": "as PNG or BMP, renamed",
    "q85": "JPEG, quality 85",
    "r75": "0.75x",
    "r60": "0.6x",
    "r75_q85": "0.75x, then JPEG, quality 85",
    "mirrored": "mirrored",
    "mirrored_q85": "mirrored, JPEG, quality 85",
    "turned": "turned by 180 degrees",
    "bright": "15 % brighter",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks leakage`."""
    parser.add_argument("--protected", type=int, default=100)
    parser.add_argument("--sets", nargs="+", default=list(TITLES), choices=list(TITLES))
    parser.add_argument("--folder", type=Path, help="for images and embeddings, which stay; else a temporary one")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Copy, embed, bar, count, print and save."""
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        sets = {name: _Set(name, folder, arguments.protected).measured() for name in arguments.sets}
    result = {"protected": arguments.protected, "reads": READS, "seconds": time.perf_counter() - started, "sets": sets}
    print(tables(result))
    save("leakage", result)


class _Set:
    """One dataset: its evaluation set, the other images, and how to make copies."""

    def __init__(self, name: str, folder: Path, protected: int) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        from lookalike.config.schemas import RunConfig
        from lookalike.embedding.remembered import open_encoder
        from lookalike.workflow.demo_data import DATASETS, write_encoder

        self._folder = folder / name
        self._folder.mkdir(parents=True, exist_ok=True)
        model = folder / "encoder"
        if not model.exists():
            write_encoder(model)
        self._inputs = RunConfig("", "", model="timm", model_path=str(model), cache_dir="off")
        self._encoder = open_encoder(self._inputs.embedding("", ""), "cpu")
        paths = DATASETS[name]().table.column("filepath")
        rows = np.random.default_rng(0).permutation(len(paths))
        self._protected = paths.take(pa.array(np.sort(rows[:protected]))).to_pylist()
        everything = pq.read_table(self._embedded("all", paths.to_pylist()))
        self._table = self._folder / "protected.parquet"
        pq.write_table(everything.take(pa.array(np.sort(rows[:protected]))), self._table)
        self._others = everything.take(pa.array(np.sort(rows[protected:])))

    def _embedded(self, name: str, paths: list[str]) -> Path:
        """The embedding table of some images; made once in a folder."""
        import pyarrow as pa

        from lookalike.embedding.images import embed_images

        output = self._folder / f"{name}_embeddings.parquet"
        if not output.exists():
            table = pa.table({"filepath": paths})
            embed_images(table, output, self._inputs.model, self._inputs.model_path, cache_dir="off")
        return output

    def measured(self) -> dict[str, Any]:
        """The figures of every way of copying."""
        from lookalike.neighbors.search import nearest_neighbors
        from lookalike.tables.embedding_stream import read_embedding_table

        table = read_embedding_table(str(self._table), "embedding").vectors
        ways = {}
        for way in WAYS:
            print(f"{self._folder.name}: {way}", flush=True)
            ways[way] = self._way(way, table)
        others = np.stack(self._others.column("embedding").to_numpy())
        nearest = nearest_neighbors(others, table, 1, "cosine").distances[:, 0]
        own = nearest_neighbors(others, others, 2, "cosine").distances[:, 1]
        return {
            "others": len(others),
            "nearest_other": _quantiles(own),
            "agreement_of_others": _quantiles(self._agreement_of_others()),
            "fixed": {str(limit): int((nearest <= np.float32(limit)).sum()) for limit in FIXED},
            "ways": ways,
        }

    def _way(self, way: str, protected: Any) -> dict[str, Any]:
        """Copy the evaluation set in one way, put the copies into the pool, and bar."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        from lookalike.config.schemas import BarringConfig
        from lookalike.tables.embedding_stream import EmbeddingStream
        from lookalike.workflow.barring.pool import bar_pool

        folder = self._folder / way
        folder.mkdir(exist_ok=True)
        copies = pq.read_table(
            self._embedded(way, [_copy(path, way, folder / f"copy_{row}") for row, path in enumerate(self._protected)])
        )
        pool = self._folder / "pool.parquet"
        pq.write_table(pa.concat_tables([self._others, copies]), pool)
        found: dict[str, Any] = {}
        for method in METHODS:
            reads = {"whole": len(self._others) + len(copies), "spacing": 0}.get(method, READS)
            started = time.perf_counter()
            bars = bar_pool(
                EmbeddingStream(str(pool), "embedding"),
                None,
                BarringConfig(protect=str(self._table), leak_reads=reads),
                inputs=self._inputs,
                encoder=self._encoder if method == "views" else None,
            )
            seconds = time.perf_counter() - started
            right = [bars.by.get(row) == path for row, path in enumerate(self._protected, len(self._others))]
            found[method] = {
                "caught": sum(right),
                "false": int(bars.mask[: len(self._others)].sum()),
                "read": bars.read,
                "seconds": round(seconds, 1),
            }
        vectors = np.stack(copies.column("embedding").to_numpy()).astype(np.float64)
        lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(protected, axis=1)
        distances = 1 - np.einsum("ij,ij->i", vectors, protected) / lengths
        found["fixed"] = {str(limit): int((distances <= limit).sum()) for limit in FIXED}
        found["distance"] = _quantiles(distances)
        return found

    def _agreement_of_others(self) -> Any:
        """Of every image, how much the most alike other one agrees."""
        from lookalike.neighbors.search import nearest_neighbors
        from lookalike.reports.thumbnails import Reading
        from lookalike.workflow.barring.looks import EDGE, Look, look
        from lookalike.workflow.barring.pictures import each_picture

        paths = self._others.column("filepath").to_pylist()
        looks = [one for one in each_picture(paths, Reading.of({}), look) if isinstance(one, Look)]
        seen = np.stack([one.fingerprint for one in looks])
        best = np.full(len(seen), -1.0)
        for turned in (seen, seen[:, :, ::-1], seen[:, ::-1], seen[:, ::-1, ::-1]):
            flat = turned.reshape(-1, EDGE * EDGE), seen.reshape(-1, EDGE * EDGE)
            found = nearest_neighbors(*flat, 2, "cosine")
            other = np.where(found.rows == np.arange(len(seen))[:, None], np.inf, found.distances).min(axis=1)
            best = np.maximum(best, 1 - other)
        return best


def _quantiles(values: Any) -> dict[str, float]:
    return {str(share): round(float(np.quantile(values, share)), 5) for share in (0.01, 0.05, 0.5, 0.95, 0.99, 1)}


def _copy(path: str, way: str, name: Path) -> str:
    """Write a copy of an image under a name without an ending, and return its path."""
    import shutil

    from PIL import Image, ImageOps

    if way == "renamed":
        return str(shutil.copy(path, f"{name}{Path(path).suffix}"))
    steps: dict[str, Callable[[Image.Image], Image.Image]] = {
        "r75": lambda image: _scaled(image, 0.75),
        "r60": lambda image: _scaled(image, 0.6),
        "mirrored": ImageOps.mirror,
        "turned": lambda image: image.transpose(Image.Transpose.ROTATE_180),
        "bright": lambda image: image.point(lambda value: min(255, round(value * 1.15))),
    }
    with Image.open(path) as picture:
        was_png = picture.format == "PNG"
        changed: Image.Image = picture.convert("RGB") if picture.mode not in ("L", "RGB") else picture
        for part in way.split("_"):
            changed = steps[part](changed) if part in steps else changed
        if "q85" in way:
            changed.save(f"{name}.jpg", quality=85)
            return f"{name}.jpg"
        suffix = ".bmp" if was_png else ".png"
        changed.save(f"{name}{suffix}")
        return f"{name}{suffix}"


def _scaled(image: Any, factor: float) -> Any:
    from PIL import Image

    size = round(image.width * factor), round(image.height * factor)
    return image.resize(size, Image.Resampling.BICUBIC)


def tables(result: dict[str, Any]) -> str:
    """The tables of docs/leakage.md."""
    return "\n\n".join([_table_of_rules(result), _table_of_agreement(result), _table_of_distances(result)])


def _table_of_rules(result: dict[str, Any]) -> str:
    """Copies that are caught, and real images that are barred, by what may be compared."""
    lines = [f"| set | copy | {' | '.join(METHODS.values())} |", "|---" * (2 + len(METHODS)) + "|"]
    for name, one in result["sets"].items():
        for way, title in WAYS.items():
            cells = " | ".join(_share(one["ways"][way][method]["caught"], result["protected"]) for method in METHODS)
            lines.append(f"| {TITLES[name]} | {title} | {cells} |")
        most = [max(ways[method]["false"] for ways in one["ways"].values()) for method in METHODS]
        cells = " | ".join(f"{number} of {one['others']:,}" for number in most)
        lines.append(f"| {TITLES[name]} | *false alarms, at most* | {cells} |")
    return "\n".join(lines)


def _table_of_agreement(result: dict[str, Any]) -> str:
    """How alike different images are, by fingerprint and by embedding."""
    lines = [
        "| set | agreement with the most alike other image: half / 99 % below / most | "
        "cosine distance to the nearest other image: 1 % below / half |",
        "|---|---|---|",
    ]
    for name, one in result["sets"].items():
        agreement = " / ".join(f"{one['agreement_of_others'][share]:.4f}" for share in ("0.5", "0.99", "1"))
        distance = " / ".join(f"{one['nearest_other'][share]:.4f}" for share in ("0.01", "0.5"))
        lines.append(f"| {TITLES[name]} | {agreement} | {distance} |")
    return "\n".join(lines)


def _table_of_distances(result: dict[str, Any]) -> str:
    """What one fixed cosine distance would catch and bar."""
    shown = ("q85", "r75", "mirrored")
    header = " | ".join(f"{limit}: caught / false" for limit in FIXED)
    lines = [f"| set | copy | distance: half / 95 % within | {header} |", "|---" * (3 + len(FIXED)) + "|"]
    for name, one in result["sets"].items():
        for way in shown:
            found = one["ways"][way]
            cells = " | ".join(
                f"{_share(found['fixed'][str(limit)], result['protected'])} / {one['fixed'][str(limit)]}"
                for limit in FIXED
            )
            spread = f"{found['distance']['0.5']:.4f} / {found['distance']['0.95']:.4f}"
            lines.append(f"| {TITLES[name]} | {WAYS[way]} | {spread} | {cells} |")
    return "\n".join(lines)


def _share(number: int, total: int) -> str:
    return f"{number / total:.0%}".replace("%", " %")
