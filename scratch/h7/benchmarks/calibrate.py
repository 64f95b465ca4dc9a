"""What the thresholds of `lookalike calibrate` do on real images: pairs that are kept, and how many are right.

Both datasets and the encoder are those of `lookalike demo`. A hundred defective images are the targets, the rest is the
pool, and the five nearest of each target are looked at. Targets of the other dataset stand for what the pool does not
have. Copies of 40 images (another file format, half the size, mirrored) stand for near-duplicates.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import save

_TARGETS, _TOPN, _COPIES = 100, 5, 40
_QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
_TITLES = {"solar": "solar cells", "textile": "textile"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks calibrate`."""
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument(
        "--folder", type=Path, help="for the embeddings, which stay there; a temporary one if not given"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Embed, draw, count, print and save."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        sets = {name: _read(folder, name) for name in _TITLES}
        groups = []
        for name, other in (("solar", "textile"), ("textile", "solar")):
            draws = [_draw(*sets[name], sets[other][0], seed) for seed in range(arguments.draws)]
            steps = [_mean([draw[number] for draw in draws]) for number in range(len(draws[0]))]
            groups.append({"set": name, "steps": steps, "copies": _copies(folder, name, sets[name][0])})
    result = {"draws": arguments.draws, "targets": _TARGETS, "topn": _TOPN, "copies": _COPIES, "groups": groups}
    print(tables(result))
    save("calibrate", result)


def _read(folder: Path, name: str) -> tuple[Any, Any]:
    """Vectors of a dataset, and which images are defective; embedded once in a folder."""
    import pyarrow.parquet as pq

    from lookalike.embedding.images import embed_images
    from lookalike.tables.embedding_stream import read_embedding_table
    from lookalike.tables.pair_table import write_table
    from lookalike.workflow.demo_data import DATASETS, GOOD, write_encoder

    images, output = folder / f"{name}.parquet", folder / f"{name}_embeddings.parquet"
    if not output.exists():
        write_table(DATASETS[name]().table, images)
        embed_images(images, output, "timm", str(write_encoder(folder / "encoder")), cache_dir="off")
    labels = np.array(pq.read_table(images).column("label").to_pylist())
    return read_embedding_table(str(output), "embedding").vectors, labels != GOOD


def _draw(vectors: Any, member: Any, others: Any, seed: int) -> list[dict[str, float]]:
    """One draw: what each threshold keeps; the first entry is without one."""
    from lookalike.neighbors.search import nearest_neighbors
    from lookalike.neighbors.sides import ArraySide
    from lookalike.selection.calibration import calibrate

    random = np.random.default_rng(seed)
    targets = random.permutation(np.flatnonzero(member))[:_TARGETS]
    pool = np.setdiff1d(np.arange(len(member)), targets)
    foreign = others[random.choice(len(others), _TARGETS, replace=False)]
    found, strange = (nearest_neighbors(one, vectors[pool], _TOPN, "cosine") for one in (vectors[targets], foreign))
    side = ArraySide(vectors[pool], "pool")
    near = calibrate(side, "cosine", sample=4_000, seed=0, device="cpu", memory_limit=2 << 30)
    right = member[pool][found.rows]
    steps = []
    for threshold in (np.inf, *(near.quantile(share) for share in _QUANTILES)):
        kept = found.distances <= threshold
        images = np.unique(found.rows[kept])
        steps.append(
            {
                "threshold": float(threshold),
                "random": near.random_within(threshold),
                "pairs": float(kept.mean()),
                "right": float(right[kept].mean()) if kept.any() else float("nan"),
                "left_out_right": float(right[~kept].mean()) if not kept.all() else float("nan"),
                "images": float(len(images)),
                "served": float(kept.any(axis=1).mean()),
                "foreign": float((strange.distances <= threshold).mean()),
                "base": float(member[pool].mean()),
            }
        )
    return steps


def _mean(draws: list[dict[str, float]]) -> dict[str, float | None]:
    """Means over the draws that have a figure; None where none has, and for no threshold."""
    means: dict[str, float | None] = {}
    for key in draws[0]:
        values = np.array([one[key] for one in draws])
        values = values[np.isfinite(values)]
        means[key] = float(values.mean()) if len(values) else None
    return means


def _copies(folder: Path, name: str, vectors: Any) -> dict[str, Any]:
    """The share of copies that are within `dedup_threshold` of their originals."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image, ImageOps

    from lookalike.embedding.images import embed_images
    from lookalike.neighbors.metrics import METRICS
    from lookalike.neighbors.sides import ArraySide
    from lookalike.selection.calibration import calibrate
    from lookalike.tables.embedding_stream import read_embedding_table
    from lookalike.workflow.demo_data import write_encoder

    near = calibrate(ArraySide(vectors, "pool"), "cosine", sample=4_000, seed=0, device="cpu", memory_limit=2 << 30)
    threshold = near.duplicates_end()
    rows = np.sort(np.random.default_rng(0).choice(len(vectors), _COPIES, replace=False))
    paths = pq.read_table(folder / f"{name}.parquet").column("filepath").to_pylist()
    place = folder / f"{name}_copies"
    place.mkdir(exist_ok=True)
    kinds: dict[str, list[str]] = {"PNG": [], "JPEG 95": [], "JPEG 75": [], "half the size": [], "mirrored": []}
    for row in rows.tolist():
        with Image.open(paths[row]) as opened:
            image = opened.convert("RGB")
        half = image.resize((image.width // 2, image.height // 2), Image.Resampling.BICUBIC)
        for kind, copy, ending, quality in (
            ("PNG", image, "copy.png", {}),
            ("JPEG 95", image, "95.jpg", {"quality": 95}),
            ("JPEG 75", image, "75.jpg", {"quality": 75}),
            ("half the size", half, "half.png", {}),
            ("mirrored", ImageOps.mirror(image), "mirrored.png", {}),
        ):
            kinds[kind].append(str(place / f"{row}_{ending}"))
            copy.save(kinds[kind][-1], **quality)
    files = [path for own in kinds.values() for path in own]
    output = folder / f"{name}_copies.parquet"
    encoder = str(write_encoder(folder / "encoder"))
    embed_images(pa.table({"filepath": files}), output, "timm", encoder, cache_dir="off")
    copies = read_embedding_table(str(output), "embedding").vectors.astype(np.float64)
    distances = METRICS["cosine"].distances(np.tile(vectors[rows].astype(np.float64), (len(kinds), 1)), copies)
    within = (distances <= threshold).reshape(len(kinds), _COPIES).mean(axis=1)
    return {
        "threshold": threshold,
        "found": dict(zip(kinds, within.tolist(), strict=True)),
        "others": float((near.nearest <= threshold).mean()),
    }


def tables(result: dict[str, Any]) -> str:
    """The tables of `docs/tune.md`, as Markdown."""
    lines = [
        "| pool | threshold | distance | random pairs within | pairs kept | of them right | of the others right "
        "| targets served | pairs of foreign targets kept |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for group in result["groups"]:
        for share, step in zip((None, *_QUANTILES), group["steps"], strict=True):
            name = "none" if share is None else f"quantile {share:g}"
            distance = "" if share is None else f"{step['threshold']:.3f}"
            others = "" if share is None else _percent(step["left_out_right"])
            lines.append(
                f"| {_TITLES[group['set']]} | {name} | {distance} | {_percent(step['random'])} | "
                f"{_percent(step['pairs'])} | {_percent(step['right'])} | {others} | {_percent(step['served'])} | "
                f"{_percent(step['foreign'])} |"
            )
    kinds = list(result["groups"][0]["copies"]["found"])
    more = [f"| pool | dedup_threshold | {' | '.join(kinds)} | different images |", "|---" * (len(kinds) + 3) + "|"]
    for group in result["groups"]:
        copies = group["copies"]
        cells = " | ".join(_percent(copies["found"][kind]) for kind in kinds)
        others = f"{100 * copies['others']:.1f} %"
        more.append(f"| {_TITLES[group['set']]} | {copies['threshold']:.4f} | {cells} | {others} |")
    return "\n".join(lines) + "\n\n" + "\n".join(more)


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
