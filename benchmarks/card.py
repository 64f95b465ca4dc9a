"""One GPU: images/s against the reference's loop on the same card and against two ceilings.

Inputs are photo-like JPEG files (noise at several scales, quality 90), each path given several times. SigLIP-B/16
with random weights.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import LIMITS, save, summary

SIZES = {"jpeg-640x480": (480, 640, 256), "jpeg-1920x1080": (1080, 1920, 64)}

#: The fast path.
FAST: dict[str, Any] = {"precision": "auto", "decoder": "nvjpeg", "cache_dir": "off"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks card`."""
    parser.add_argument("--images", type=int, default=65_536, help="640 x 480; a quarter of them at 1920 x 1080")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--repeat", type=int, default=3)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save."""
    from lookalike.encoders.load import choose_devices

    choose_devices("cuda", "torch")  # before CUDA begins, as in a run of its own: it asks for 32 hardware queues
    import torch

    from benchmarks.embed import MODELS

    result: dict[str, Any] = {"gpu": torch.cuda.get_device_name(0), "batch": arguments.batch, "rows": []}
    print(f"{'input':<16} {'reference':>10} {'lookalike':>10} {'decode':>9} {'forward':>9}  ratio  of ceiling")
    with tempfile.TemporaryDirectory() as folder:
        snapshot = Path(folder) / "siglip"
        MODELS["siglip-b16"](snapshot)
        for name, (height, width, distinct) in SIZES.items():
            made = [picture(Path(folder) / f"{name}-{seed}.jpg", height, width, seed) for seed in range(distinct)]
            count = arguments.images if width < 1000 else arguments.images // 4
            files = [made[number % distinct] for number in range(count)]
            result["rows"].append(_measure(name, files, str(snapshot), arguments))
    save("card", result)


def _measure(name: str, files: list[str], snapshot: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Images/s of every way, in turn."""
    rates: dict[str, list[float]] = {way: [] for way in ("reference", "lookalike", "decode", "forward")}
    limit = ""
    for turn in range(arguments.repeat + 1):
        given = files if turn else files[: 4 * arguments.batch]  # the first turn warms up
        measured: dict[str, float] = {"reference": _reference(files[:256], snapshot)}
        measured["lookalike"], limit = _lookalike(given, snapshot, arguments.batch)
        measured["decode"], measured["forward"] = _ceilings(given, snapshot, arguments.batch)
        if turn:
            for way, rate in measured.items():
                rates[way].append(rate)
    row: dict[str, Any] = {"images": len(files)} | {way: summary(values) for way, values in rates.items()}
    middle = {way: row[way]["median"] for way in rates}
    row |= {
        "input": name,
        "limit": limit,
        "ratio_to_reference": middle["lookalike"] / middle["reference"],
        "ratio_to_ceiling": middle["lookalike"] / min(middle["decode"], middle["forward"]),
    }
    print(
        f"{name:<16} {middle['reference']:>10.0f} {middle['lookalike']:>10.0f} {middle['decode']:>9.0f} "
        f"{middle['forward']:>9.0f} {row['ratio_to_reference']:>6.1f} {row['ratio_to_ceiling']:>11.2f}  {limit}"
    )
    return row


def picture(path: Path, height: int, width: int, seed: int) -> str:
    """Write a photo-like JPEG file; return its path."""
    from PIL import Image

    random = np.random.default_rng(seed)
    layers = [
        Image.fromarray(random.integers(0, 256, (height // scale, width // scale, 3), np.uint8)).resize(
            (width, height), Image.Resampling.BICUBIC
        )
        for scale in (4, 16, 64)
    ]
    mean = np.mean([np.asarray(layer, np.float32) for layer in layers], axis=0)
    Image.fromarray(mean.astype(np.uint8)).save(path, quality=90)
    return str(path)


def _reference(files: list[str], snapshot: str) -> float:
    """The reference's loop on the card."""
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor, SiglipVisionModel

    module = SiglipVisionModel.from_pretrained(snapshot).eval().cuda()
    processor = AutoImageProcessor.from_pretrained(snapshot, backend="pil")
    started = time.perf_counter()
    vectors: list[list[float]] = []
    for first in range(0, len(files), 64):
        images = [Image.open(file).convert("RGB") for file in files[first : first + 64]]
        with torch.no_grad():
            output = module(**processor(images=images, return_tensors="pt").to("cuda")).pooler_output
        vectors += output.cpu().numpy().tolist()
    return len(files) / (time.perf_counter() - started)


def _lookalike(files: list[str], snapshot: str, batch: int) -> tuple[float, str]:
    import pyarrow as pa

    from lookalike import embed_images

    with tempfile.TemporaryDirectory() as folder:
        table = pa.table({"filepath": files})
        output = Path(folder) / "out.parquet"
        result = embed_images(table, output, "SigLIP", snapshot, batch_size=batch, **FAST)
    return result.images / result.seconds, result.limit


def _ceilings(files: list[str], snapshot: str, batch: int) -> tuple[float, float]:
    """Images/s of the card's decoding and preprocessing alone, and of the model alone."""
    import torch

    from lookalike.embedding.card import CardPreparer
    from lookalike.embedding.prepare import CacheLookup, PillowPreparer
    from lookalike.embedding.readahead import read_ahead
    from lookalike.encoders.base import LoadRequest
    from lookalike.encoders.load import load_encoder
    from lookalike.images.decode import DecodeSettings
    from lookalike.images.locate import ReadSettings

    decoding = DecodeSettings("ignore", "clip", 178_956_970)
    encoder: Any = load_encoder("SigLIP", LoadRequest(snapshot, "", "cuda", "auto", decoding))
    reading, cache = ReadSettings("", 2**30, 0), CacheLookup(None, files, 2**30, by_path=True)
    alone = PillowPreparer(files, encoder, decoding, reading, batch, cache)
    preparer = CardPreparer(alone, encoder, decoding, reading, batch, cache)
    groups = [range(first, min(first + batch, len(files))) for first in range(0, len(files), batch)]
    started = time.perf_counter()
    for group in read_ahead(preparer, groups, threads=preparer.threads, ahead=preparer.ahead, **LIMITS):
        pixels = group.pixels
    torch.cuda.synchronize()
    decode = len(files) / (time.perf_counter() - started)
    for _ in range(4):  # the first few batches plan kernels and record them
        encoder.encode(pixels)
    started = time.perf_counter()
    for _ in groups:
        encoder.encode(pixels)
    return decode, len(groups) * len(pixels) / (time.perf_counter() - started)
