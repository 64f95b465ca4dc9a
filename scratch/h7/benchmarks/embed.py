"""Embedding: images/s and peak memory against the reference's own way, and against two ceilings.

The reference's way: image by image with Pillow in the main thread, the model's own processor, fp32 model, batches
of 64, vectors as Python lists. The ceilings are what the same machine does when it only decodes and preprocesses,
and when it only runs the model on ready pixels: no pipeline can be faster than the slower of the two. On a CPU both
need the same cores, so that even a perfect one is slower than either ("of cores" is the share of that). SigLIP has
random weights, which do not change its speed. Loading the model is not counted anywhere.
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

import numpy as np

from benchmarks.common import LIMITS, measure_in_child, peak_memory, save, summary

#: Images of each input, so that a run takes some seconds.
IMAGES = {"siglip-b16": 32, "lite0": 320}
WAYS = ("reference", "lookalike", "decode-only", "forward-only")
BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks embed`."""
    parser.add_argument("--images", type=int, help="of each input; more than two batches for a fast model by default")
    parser.add_argument("--models", nargs="+", choices=sorted(MODELS), default=sorted(MODELS))
    parser.add_argument("--inputs", nargs="+", choices=sorted(INPUTS), default=sorted(INPUTS))
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--runtime", choices=("torch", "openvino", "auto"), default="torch")
    parser.add_argument("--repeat", type=int, default=3)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    results: list[dict[str, Any]] = []
    columns = f"{'reference':>11} {'lookalike':>11} {'ratio':>6} {'of ceiling':>10} {'of cores':>8}"
    print(f"{'model':<12} {'input':<12} {columns}   peak memory")
    with tempfile.TemporaryDirectory() as folder:
        for model, name in itertools.product(arguments.models, arguments.inputs):
            listing = _write_list(Path(folder), name, arguments.images or IMAGES[model])
            snapshot = Path(folder) / model
            if not snapshot.exists():
                MODELS[model](snapshot)
            runs: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
            # In turn, so that a machine whose speed drifts slows all of them.
            for _, way in itertools.product(range(arguments.repeat), WAYS):
                child = (way, model, str(snapshot), str(listing), arguments.precision, arguments.runtime)
                runs[way].append(measure_in_child("benchmarks.embed", *child))
            results.append(_row(model, name, runs))
    saved = "embed" if arguments.runtime == "torch" else f"embed-{arguments.runtime}"
    asked = {"images": arguments.images or IMAGES, "precision": arguments.precision, "runtime": arguments.runtime}
    save(saved, {**asked, "rows": results})


def _row(model: str, name: str, runs: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """The medians of one model and input, printed and returned."""
    rates = {way: summary([one["images_per_second"] for one in runs[way]]) for way in WAYS}
    peaks = {way: summary([one["peak_memory"] for one in runs[way]]) for way in WAYS[:2]}
    ours = rates["lookalike"]["median"]
    ceiling = min(rates["decode-only"]["median"], rates["forward-only"]["median"])
    cosine = min(one["cosine"] for one in runs["lookalike"])
    row = {
        "model": model,
        "input": name,
        "images_per_second": rates,
        "peak_memory_bytes": peaks,
        "ratio_to_reference": ours / rates["reference"]["median"],
        "ratio_to_ceiling": ours / ceiling,
        # On a CPU both work on the same cores, so their times add up.
        "ratio_to_cores": ours * sum(1 / rates[way]["median"] for way in WAYS[2:]),
        "least_cosine_to_fp32": cosine,
        "precision": runs["lookalike"][0]["precision"],
        "runtime": runs["lookalike"][0]["runtime"],
    }
    memory = ", ".join(f"{peaks[way]['median'] / 2**20:.0f} MiB" for way in WAYS[:2])
    print(
        f"{model:<12} {name:<12} {rates['reference']['median']:>9.2f}/s {ours:>9.2f}/s "
        f"{row['ratio_to_reference']:>6.2f} {row['ratio_to_ceiling']:>10.2f} {row['ratio_to_cores']:>8.2f}   {memory}; "
        f"{row['precision']}, cosine {cosine:.6f}"
    )
    return row


def _siglip(folder: Path) -> None:
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

    SiglipVisionModel(SiglipVisionConfig()).save_pretrained(folder)
    SiglipImageProcessorPil().save_pretrained(folder)


def _lite0(folder: Path) -> None:
    from lookalike.workflow.demo_data import write_encoder

    write_encoder(folder)


MODELS = {"siglip-b16": _siglip, "lite0": _lite0}


def _solar() -> list[str]:
    from lookalike.workflow.demo_data import solar

    files: list[str] = solar().table.column("filepath").to_pylist()
    return files


def _textile() -> list[str]:
    from lookalike.workflow.demo_data import textile

    files: list[str] = textile().table.column("filepath").to_pylist()
    return files


#: 300 x 300 grey PNG, 250 x 250 JPEG, and 1920 x 1080 JPEG made of solar cells.
INPUTS = {"png-300": _solar, "jpeg-250": _textile, "jpeg-1920": _solar}


def _write_list(folder: Path, name: str, count: int) -> Path:
    """A text file with the paths of one input set."""
    files = INPUTS[name]()[:count]
    if name == "jpeg-1920":
        files = [_enlarged(folder, file) for file in files]
    path = folder / f"{name}.txt"
    path.write_text("\n".join(files))
    return path


def _enlarged(folder: Path, file: str) -> str:
    from PIL import Image

    path = folder / f"{Path(file).stem}.jpg"
    with Image.open(file) as image:
        image.convert("RGB").resize((1920, 1080), Image.Resampling.BICUBIC).save(path, quality=90)
    return str(path)


def _child(way: str, model: str, snapshot: str, listing: str, precision: str, runtime: str) -> None:
    """One measurement in a process of its own."""
    files = Path(listing).read_text().splitlines()
    extra: dict[str, Any] = {}
    if way == "reference":
        seconds, _ = _reference(files, model, snapshot)
    elif way == "lookalike":
        seconds, extra = _lookalike(files, model, snapshot, listing, precision, runtime)
    else:
        seconds = _ceiling(way, files, model, snapshot, precision, runtime)
    print(json.dumps({"images_per_second": len(files) / seconds, "peak_memory": peak_memory(), **extra}))


def _reference(files: list[str], model: str, snapshot: str) -> tuple[float, list[list[float]]]:
    """The reference's loop: seconds and vectors."""
    import torch
    from PIL import Image

    prepare, forward = (_timm_parts if model == "lite0" else _transformers_parts)(snapshot)
    vectors: list[list[float]] = []
    started = time.perf_counter()
    for first in range(0, len(files), BATCH):
        images = [Image.open(file).convert("RGB") for file in files[first : first + BATCH]]
        with torch.no_grad():
            vectors += forward(prepare(images)).cpu().numpy().tolist()
    return time.perf_counter() - started, vectors


def _transformers_parts(snapshot: str) -> tuple[Any, Any]:
    from transformers import AutoImageProcessor, SiglipVisionModel

    module = SiglipVisionModel.from_pretrained(snapshot).eval()
    processor = AutoImageProcessor.from_pretrained(snapshot, backend="pil")
    return (
        lambda images: processor(images=images, return_tensors="pt"),
        lambda inputs: module(**inputs).pooler_output,
    )


def _timm_parts(snapshot: str) -> tuple[Any, Any]:
    import timm
    import torch

    module = timm.create_model(f"local-dir:{snapshot}", pretrained=True, num_classes=0).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(module))
    return lambda images: torch.stack([transform(image) for image in images]), module


def _lookalike(
    files: list[str], model: str, snapshot: str, listing: str, precision: str, runtime: str
) -> tuple[float, dict[str, Any]]:
    """The public function; its own clock leaves out loading the model, as the others' here do."""
    import pyarrow.parquet as pq

    from lookalike import embed_images

    family = "timm" if model == "lite0" else "SigLIP"
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "out.parquet"
        result = embed_images(
            listing, output, family, snapshot, batch_size=BATCH, precision=precision, runtime=runtime, cache_dir="off"
        )
        vectors = np.stack(pq.read_table(output).column("embedding").to_numpy(zero_copy_only=False)).astype(np.float64)
    few = 16
    reference = np.array(_reference(files[:few], model, snapshot)[1])
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(vectors[:few], axis=1)
    cosine = float(((reference * vectors[:few]).sum(1) / lengths).min())
    numerics = result.identity.numerics
    return result.seconds, {"cosine": cosine, "precision": numerics.precision, "runtime": numerics.runtime}


def _ceiling(way: str, files: list[str], model: str, snapshot: str, precision: str, runtime: str) -> float:
    """Seconds for decoding and preprocessing alone, or for the model alone."""
    import os

    from lookalike.embedding.readahead import read_ahead
    from lookalike.encoders.base import LoadRequest
    from lookalike.encoders.load import load_encoder
    from lookalike.images.decode import DecodeSettings, decode
    from lookalike.images.locate import ReadSettings, read_bytes

    decoding = DecodeSettings("ignore", "clip", 178_956_970)
    reading = ReadSettings("", 2**30, 0)
    family = "timm" if model == "lite0" else "SigLIP"
    encoder = load_encoder(family, LoadRequest(snapshot, "", "auto", precision, decoding, runtime))
    threads = os.cpu_count() or 1

    def prepare(file: str) -> Any:
        return encoder.preprocessing(decode(read_bytes(file, reading), decoding).image)

    started = time.perf_counter()
    pixels = list(read_ahead(prepare, files, threads=threads, ahead=BATCH + threads, **LIMITS))
    if way == "forward-only":
        batches = [np.stack(pixels[first : first + BATCH]) for first in range(0, len(pixels), BATCH)]
        encoder.encode(batches[0][:8])  # the first pass also plans its kernels
        started = time.perf_counter()
        for batch in batches:
            encoder.encode(batch)
    return time.perf_counter() - started


if __name__ == "__main__":
    _child(*sys.argv[2:])
