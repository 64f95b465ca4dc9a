"""Embedding: images/s and peak memory against the reference's own way of doing it.

The reference's way: image by image with Pillow in the main thread, transformers' processor, fp32 model, batches
of 64, vectors as Python lists. Weights are random: they do not change the speed. Images are the demo's solar
cells (300 x 300 PNG). Loading the model is not counted on either side.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import measure_in_child, peak_memory, save, summary

_WAYS = ("reference", "lookalike")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks embed`."""
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--models", nargs="+", choices=sorted(_SNAPSHOTS), default=sorted(_SNAPSHOTS))
    parser.add_argument("--repeat", type=int, default=3)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    results: dict[str, Any] = {}
    print(f"{'model':<14} {'reference':>12} {'lookalike':>12} {'ratio':>6}   peak memory of each")
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.models:
            snapshot = Path(folder) / model
            _SNAPSHOTS[model](snapshot)
            runs: dict[str, list[dict[str, float]]] = {way: [] for way in _WAYS}
            # In turn, so that a machine whose speed drifts slows both.
            for _, way in itertools.product(range(arguments.repeat), _WAYS):
                runs[way].append(measure_in_child("benchmarks.embed", way, model, str(snapshot), str(arguments.images)))
            rates = {way: summary([run["images_per_second"] for run in runs[way]]) for way in _WAYS}
            peaks = {way: summary([run["peak_memory"] for run in runs[way]]) for way in _WAYS}
            ratio = rates["lookalike"]["median"] / rates["reference"]["median"]
            results[model] = {"images_per_second": rates, "peak_memory_bytes": peaks, "ratio": ratio}
            print(
                f"{model:<14} {rates['reference']['median']:>10.2f}/s {rates['lookalike']['median']:>10.2f}/s "
                f"{ratio:>6.2f}   " + ", ".join(f"{peaks[way]['median'] / 2**20:.0f} MiB" for way in _WAYS)
            )
    save("embed", {"images": arguments.images, "models": results})


def _clip_b32(folder: Path) -> None:
    from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(patch_size=32)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)


def _siglip_b16(folder: Path) -> None:
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

    SiglipVisionModel(SiglipVisionConfig()).save_pretrained(folder)
    SiglipImageProcessorPil().save_pretrained(folder)


_SNAPSHOTS = {"clip-b32-224": _clip_b32, "siglip-b16-224": _siglip_b16}


def _child(way: str, model: str, snapshot: str, count: int) -> None:
    """One measurement in a process of its own."""
    from lookalike.workflow.demo_data import solar

    files = solar().table.column("filepath").to_pylist()[:count]
    seconds = (_reference if way == "reference" else _lookalike)(files, model, snapshot)
    print(json.dumps({"images_per_second": count / seconds, "peak_memory": peak_memory()}))


def _reference(files: list[str], model: str, snapshot: str) -> float:
    """The reference's loop."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, CLIPVisionModelWithProjection, SiglipVisionModel

    kind = CLIPVisionModelWithProjection if model.startswith("clip") else SiglipVisionModel
    module = kind.from_pretrained(snapshot).eval()
    processor = AutoImageProcessor.from_pretrained(snapshot, backend="pil")
    vectors: list[list[float]] = []
    started = time.perf_counter()
    for first in range(0, len(files), 64):
        images = [Image.open(file).convert("RGB") for file in files[first : first + 64]]
        with torch.no_grad():
            output = module(**processor(images=images, return_tensors="pt"))
        batch = output.image_embeds if model.startswith("clip") else output.pooler_output
        vectors += batch.cpu().numpy().tolist()
    return time.perf_counter() - started


def _lookalike(files: list[str], model: str, snapshot: str) -> float:
    """The public function; its own clock leaves out loading the model, as the reference's here does."""
    import pyarrow as pa

    from lookalike import embed_images

    with tempfile.TemporaryDirectory() as folder:
        table = pa.table({"filepath": files})
        result = embed_images(table, Path(folder) / "out.parquet", model.split("-", maxsplit=1)[0], snapshot)
    return result.seconds


if __name__ == "__main__":
    _child(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
