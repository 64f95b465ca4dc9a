"""How near the vectors of every way are to the reference's own, over real images: cosine and nearest neighbours.

The reference is the model library's own loop in fp32 behind Pillow. "Same five" is the share of the five nearest
images (cosine, the image itself left out) that stay the same.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.common import save

#: Runtime, precision and decoder.
WAYS = {
    "cpu": [("torch", "fp32", "pillow"), ("torch", "bf16", "pillow"), ("openvino", "fp32", "pillow"),
            ("openvino", "bf16", "pillow")],
    "cuda": [("torch", precision, decoder) for precision in ("fp32", "bf16", "fp16")
             for decoder in ("pillow", "nvjpeg")],
}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks fidelity`."""
    parser.add_argument("--model", choices=("lite0", "siglip-b16"), default="lite0")
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--device", choices=sorted(WAYS), default="cpu")
    parser.add_argument("--folder", help="images to use; solar cells if not given")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    from benchmarks.embed import INPUTS, MODELS, _reference

    folder = arguments.folder
    files = sorted(str(path) for path in Path(folder).iterdir()) if folder else INPUTS["png-300"]()
    files = files[: arguments.images]
    with tempfile.TemporaryDirectory() as folder:
        snapshot = Path(folder) / "model"
        MODELS[arguments.model](snapshot)
        reference = np.array(_reference(files, arguments.model, str(snapshot))[1])
        nearest = nearest_five(reference)
        rows = []
        for way in WAYS[arguments.device]:
            vectors = _vectors(files, arguments.model, str(snapshot), arguments.device, way)
            lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(vectors, axis=1)
            cosines = (reference * vectors).sum(1) / lengths
            same = [len(set(one) & set(two)) / 5 for one, two in zip(nearest, nearest_five(vectors), strict=True)]
            rows.append(
                dict(zip(("runtime", "precision", "decoder"), way, strict=True))
                | {"least_cosine": cosines.min(), "mean_cosine": cosines.mean(), "same_five": float(np.mean(same))}
            )
            print(rows[-1])
    asked = {"model": arguments.model, "images": len(files), "device": arguments.device}
    save(f"fidelity-{arguments.model}-{arguments.device}", {**asked, "rows": rows})


def _vectors(
    files: list[str], model: str, snapshot: str, device: str, way: tuple[str, str, str]
) -> npt.NDArray[np.float64]:
    """The vectors of one way."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lookalike import embed_images

    runtime, precision, decoder = way
    settings: dict[str, Any] = {"runtime": runtime, "precision": precision, "decoder": decoder, "device": device}
    family = "timm" if model == "lite0" else "SigLIP"
    with tempfile.TemporaryDirectory() as folder:
        result = embed_images(
            pa.table({"filepath": files}), Path(folder) / "out.parquet", family, snapshot, cache_dir="off", **settings
        )
        column = pq.read_table(result.path).column("embedding")
        return np.stack(column.to_numpy(zero_copy_only=False)).astype(np.float64)


def nearest_five(vectors: npt.NDArray[np.float64]) -> list[list[int]]:
    """The five nearest of every image but itself."""
    from lookalike import nearest_neighbors

    found = nearest_neighbors(vectors, vectors, 6, "cosine").rows
    return [[int(row) for row in rows if row != own][:5] for own, rows in enumerate(found)]
