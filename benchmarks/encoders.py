"""Every family of encoders against its own library, over real images: least cosine, the five nearest, images/s.

The models have full size and random weights (the modules `benchmarks/encoder_*` write them); nothing is downloaded. The
reference is the family's own library in fp32 on the CPU, behind its own preprocessing; ours is `embed_images` in fp32
on `--device`. "Same five" is the share of the five nearest images (cosine, the image itself left out) that stay the
same: the least over all images. Speed is that of the model alone, on batches of 64 prepared images that are where the
model is; decoding is measured elsewhere.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import pkgutil
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import benchmarks
from benchmarks.common import save
from benchmarks.fidelity import nearest_five
from lookalike.errors import ConfigError, MissingDependency

PRECISIONS = ("fp32", "bf16")
_BATCH = 64
#: Images of a batch where the model is timed on a CPU, and seconds of one timing.
_CPU_BATCH, _SECONDS = 8, 2.0

Vectors = npt.NDArray[np.float64]
#: The library of the reference, where ours is computed by another one.
_OTHER_REFERENCE = {"TAO: RADIO": "transformers", "TAO: Visual ChangeNet, C-RADIO": "transformers", "ONNX": "torch"}
#: Families whose file is a program; these are our own.
_PROGRAMS = frozenset({"TorchScript", "ExportedProgram"})


@dataclass(frozen=True)
class Family:
    """A family of the benchmark.

    Attributes
    ----------
    write:
        From a folder, and whether the model is to be tiny, to `model_path`.
    reference:
        From `model_path` and image paths to the vectors by the family's own library.
    settings:
        From `model_path` to further settings.
    tiny:
        A context in which tiny models can be loaded.
    """

    write: Callable[[Path, bool], Path]
    reference: Callable[[Path, Sequence[str]], npt.NDArray[np.float32]]
    settings: Callable[[Path], dict[str, Any]]
    tiny: Callable[[], contextlib.AbstractContextManager[Any]]


def families() -> dict[str, Family]:
    """All families, by the value of `model`; a variant stands behind a colon."""
    names = sorted(one.name for one in pkgutil.iter_modules(benchmarks.__path__) if one.name.startswith("encoder_"))
    found: dict[str, Family] = {}
    for name in sorted(names, key=lambda name: name != "encoder_models"):
        module = importlib.import_module(f"benchmarks.{name}")
        tiny = getattr(module, "tiny_types", contextlib.nullcontext)
        for model, write in module.MODELS.items():
            settings = getattr(module, "SETTINGS", {}).get(model, _further(model))
            found[model] = Family(write, module.REFERENCES[model], settings, tiny)
    return found


def _further(model: str) -> Callable[[Path], dict[str, Any]]:
    return lambda path: {"trust_remote_code": True} if model in _PROGRAMS else {}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `python -m benchmarks encoders`."""
    parser.add_argument("--families", nargs="+", metavar="MODEL", help="some of them; a name includes its variants")
    parser.add_argument("--device", default="cpu", help="where ours runs: cpu, cuda")
    parser.add_argument("--tiny", action="store_true", help="tiny models, to try it out: nothing is saved")
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--folder", help="images to use; solar cells and textile if not given")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> None:
    """Measure, print and save; exit status 1 where a family failed."""
    files = images(arguments.folder, arguments.images)
    rows, failed = [], False
    for model, family in chosen(arguments.families).items():
        try:
            with family.tiny() if arguments.tiny else contextlib.nullcontext():
                rows.append(measure(model, family, files, arguments.device, arguments.tiny))
        except (ConfigError, MissingDependency) as error:
            rows.append({"model": model, "skipped": error.what})
        except Exception as error:  # noqa: BLE001 - the other families are still to be measured
            traceback.print_exc()
            failed = True
            rows.append({"model": model, "error": f"{type(error).__name__}: {error}"})
        print(rows[-1], flush=True)
        result = {"device": _device_name(arguments.device), "images": len(files), "batch": _BATCH, "rows": rows}
        if not arguments.tiny:  # after each family, so that a run that is stopped keeps what it has
            save(f"encoders-{arguments.device.partition(':')[0]}", result)
    print(tables(result))
    if failed:
        raise SystemExit(1)


def chosen(wanted: Sequence[str] | None) -> dict[str, Family]:
    """The families that are asked for, all if none is named."""
    every = families()
    unknown = [name for name in wanted or () if not any(model.startswith(name) for model in every)]
    if unknown:
        raise SystemExit(f"no such family: {', '.join(unknown)}; there is {', '.join(every)}")
    return {model: family for model, family in every.items() if not wanted or model.startswith(tuple(wanted))}


def images(folder: str | None, count: int) -> list[str]:
    """Real images: those of a folder, or solar cells and textile in equal shares."""
    if folder:
        return sorted(str(path) for path in Path(folder).iterdir())[:count]
    from lookalike.workflow.demo_data import DATASETS

    files: list[str] = []
    for dataset in DATASETS.values():
        every = dataset().table.column("filepath").to_pylist()
        files += every[:: max(1, len(every) * len(DATASETS) // count)][: count // len(DATASETS)]
    return files


def measure(model: str, family: Family, files: Sequence[str], device: str, tiny: bool) -> dict[str, Any]:
    """One family: how near its vectors are to the reference's, and how fast it is."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "model"
        folder.mkdir()
        path = family.write(folder, tiny)
        settings: dict[str, Any] = {"model": model.partition(":")[0], "model_path": str(path), **family.settings(path)}
        reference = np.asarray(family.reference(path, files), np.float64)
        ours, identity = _embed(files, settings, device, Path(name))
        lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(ours, axis=1)
        pairs = zip(nearest_five(reference), nearest_five(ours), strict=True)
        # A model that gives every image one vector would agree with anything.
        spread = (reference[:1] * reference).sum(1) / np.linalg.norm(reference[0]) / np.linalg.norm(reference, axis=1)
        return {
            "model": model,
            "architecture": identity.model.architecture,
            "dimension": identity.model.dimension,
            "libraries": identity.origin.libraries,
            "reference": _reference_library(model, identity.origin.libraries),
            "least_cosine": float(((reference * ours).sum(1) / lengths).min()),
            "least_same_five": min(len(set(one) & set(two)) / 5 for one, two in pairs),
            "least_cosine_between_images": float(spread.min()),
            "images_per_second": {
                precision: _speed(files, {**settings, "precision": precision}, device) for precision in PRECISIONS
            },
        }


def _reference_library(model: str, own: dict[str, str]) -> str:
    """The library of the reference and its version; torch is named only where there is no other."""
    if other := _OTHER_REFERENCE.get(model):
        return f"{other} {importlib.import_module(other).__version__}"
    libraries = {name: version for name, version in own.items() if name != "torch"} or own
    return ", ".join(f"{name} {version}" for name, version in libraries.items())


def _embed(files: Sequence[str], settings: dict[str, Any], device: str, folder: Path) -> tuple[Vectors, Any]:
    """Our vectors in fp32, and the encoder's identity."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from lookalike import embed_images

    table = pa.table({"filepath": list(files)})
    result = embed_images(
        table, folder / "out.parquet", **settings, device=device, precision="fp32", cache_dir="off", on_error="raise"
    )
    column = pq.read_table(result.path).column("embedding")
    return np.stack(column.to_numpy(zero_copy_only=False)).astype(np.float64), result.identity


def _speed(files: Sequence[str], settings: dict[str, Any], device: str) -> float | None:
    """Images/s of the model alone; None where the family has not this precision."""
    from lookalike.config.schemas import ImageEmbeddingsConfig
    from lookalike.embedding.loop import load_model
    from lookalike.encoders.base import TorchEncoder
    from lookalike.images.decode import DecodeSettings, decode

    config = ImageEmbeddingsConfig("", "", **settings, device=device, decoder="pillow")
    try:
        encoder = load_model(config, device)
    except ConfigError:
        return None
    decoding = DecodeSettings(config.exif, config.bit_depth, config.max_pixels)
    count = _CPU_BATCH if device == "cpu" else _BATCH
    chosen = [files[number % len(files)] for number in range(count)]
    pixels: Any = np.stack([encoder.preprocessing(decode(Path(one).read_bytes(), decoding).image) for one in chosen])
    if device != "cpu" and isinstance(encoder, TorchEncoder):
        import torch

        pixels = torch.from_numpy(pixels).to(encoder.device, encoder.dtype)
    for _ in range(4):  # a graph is recorded at the third batch of a shape
        encoder.encode(pixels)
    done, started, waiting = 0, time.perf_counter(), encoder.start(pixels)
    while time.perf_counter() - started < _SECONDS:
        following = encoder.start(pixels)
        waiting()
        waiting = following
        done += count
    waiting()
    return (done + count) / (time.perf_counter() - started)


def tables(result: dict[str, Any]) -> str:
    """The table of docs/encoders.md."""
    lines = [
        f"{result['images']} images, on {result['device']}:",
        "",
        "| family | model | reference | least cosine | same five, least | images/s fp32 | images/s bf16 |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in result["rows"]:
        if "least_cosine" not in row:
            why = f"not measured here: {row['skipped']}" if "skipped" in row else "failed"
            lines.append(f"| {row['model']} | {why} | | | | | |")
            continue
        # Rounded down: 1 is only what is 1.
        cosine = np.floor(row["least_cosine"] * 1e7) / 1e7
        speeds = " | ".join("" if value is None else f"{value:,.0f}" for value in row["images_per_second"].values())
        lines.append(
            f"| {row['model']} | {row['architecture']}, {row['dimension']}-d | {row['reference']} | {cosine:.7f} | "
            f"{row['least_same_five']:.0%} | {speeds} |"
        )
    return "\n".join(lines)


def _device_name(device: str) -> str:
    """What people call it."""
    if device == "cpu":
        from benchmarks.common import machine

        facts = machine()
        return f"{facts['cores']} cores of an {facts['cpu']}"
    import torch

    return str(torch.cuda.get_device_name(device))
