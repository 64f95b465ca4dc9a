"""Encoders remembered: a run whose vectors are all in the cache neither loads its model nor starts torch.

That is most of the time of such a run. What is needed of the model is its identity, which takes its weights to find,
and its preprocessing. Both are kept in the cache folder, beside the vectors, in a file for each way in which a model
was asked for. It counts as long as nothing changed that they depend on: the files of the model (by name, size and
times), the versions of the libraries, the processor, this program's own modules. Of a hub's name it counts as long as
the hub's library says that the name stands for the same snapshot. Only a model that runs on the CPU is remembered;
everything else is loaded at once, as the first time.

A wrong memory cannot lead to a wrong vector: when an image turns out not to be in the cache, the model is loaded, and
refused when it is not the one that was remembered.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.embedding.cache import count_cached
from lookalike.embedding.cache_folder import MEMORY_SUFFIX
from lookalike.embedding.loop import cache_folder_of, load_model
from lookalike.encoders.base import Encoder, Pending, Pixels
from lookalike.encoders.families import AUTO, FAMILIES, canonical_model, find_family
from lookalike.encoders.identity import EncoderIdentity
from lookalike.errors import EncoderError, TableError
from lookalike.images.preprocess import Preprocessing
from lookalike.tables.atomic import atomic_path

log = logging.getLogger(__name__)

#: Raised when the meaning of the file changes.
_VERSION = 1
#: Images of each input that are looked up. Where more of them are not known than a few, which may be images that cannot
#: be read, the model will be needed and is loaded at once.
_SAMPLE, _FEW = 1000, 0.1
#: The settings by which two runs may ask for different encoders.
_ASKED = (
    "model_path", "model_config_path", "architecture", "pooling", "layer", "normalize", "image_size", "augment",
    "trust_remote_code", "precision", "runtime", "decoder", "exif", "bit_depth",
)  # fmt: skip
#: What decides, beside the weights, how a model computes and what it calls itself.
_LIBRARIES = (
    "torch", "torchvision", "timm", "transformers", "safetensors", "huggingface-hub", "openvino", "open_clip_torch",
    "onnxruntime",
)  # fmt: skip
#: A folder with more files than this is not only a model.
_MOST_FILES = 1000
#: A file younger than this may change once more within the clock tick of its times (2 s on FAT).
_SETTLED_NS = 2 * 10**9


def open_encoder(
    settings: ImageEmbeddingsConfig, device: str, inputs: Sequence[Sequence[str]] = (), remember: bool = True
) -> Encoder:
    """The encoder of a run: remembered where the cache seems to know all images, loaded otherwise.

    Parameters
    ----------
    settings:
        Of the run.
    device:
        The first one.
    inputs:
        The paths of its images, of one or two tables.
    remember:
        Whether a model that has to be loaded may be remembered: writes a file into the cache folder. Without it, what
        is remembered stays as it is.

    Raises
    ------
    EncoderError
        When the model cannot be loaded.
    """
    place = _place(settings) if device == "cpu" else None
    files = None if place is None else _model_files(settings)
    if place is None or files is None:
        return load_model(settings, device)
    state, settled = _state(files)
    known = _recall(place, state)

    def load() -> Encoder:
        if remember:
            place.unlink(missing_ok=True)  # not to be trusted again unless it proves right
        encoder = load_model(settings, device)
        # A snapshot of a hub never changes, but only now all of its files are here.
        now = (state, settled) if _is_local(settings) else _state(files)
        if remember and now[1]:
            _remember(place, encoder, now[0])
        return encoder

    if known is not None and all(_is_cached(paths, known[0], settings) for paths in inputs):
        return RememberedEncoder(*known, load)
    return load()


class RememberedEncoder:
    """An `Encoder` whose model is loaded when the first image has to be embedded.

    Parameters
    ----------
    identity, preprocessing:
        As they were when the model was loaded.
    load:
        Loads it.
    """

    def __init__(self, identity: EncoderIdentity, preprocessing: Preprocessing, load: Callable[[], Encoder]) -> None:
        self.identity = identity
        self.preprocessing = preprocessing
        self._load = load

    def encode(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """See `Encoder.encode`."""
        return self._model.encode(pixels)

    def start(self, pixels: Pixels) -> Pending:
        """See `Encoder.start`."""
        return self._model.start(pixels)

    @cached_property
    def _model(self) -> Encoder:
        log.info("an image is not in the cache: the model is loaded")
        model = self._load()
        if (model.identity, model.preprocessing) != (self.identity, self.preprocessing):
            raise EncoderError(
                "the model is not the one that it was when the run began",
                where=self.identity.origin.model_path,
                hint="run the same command again, and leave the model's files alone meanwhile",
            )
        return model


def _remember(place: Path, encoder: Encoder, state: dict[str, Any]) -> None:
    """Remember a model; nothing about that may stop a run."""
    content = {
        "version": _VERSION,
        "state": state,
        "identity": encoder.identity.to_json(),
        "preprocessing": asdict(encoder.preprocessing),
    }
    try:
        with atomic_path(place) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")
    except TableError as error:
        log.debug("the model is not remembered: %s", error)


def _recall(place: Path, state: dict[str, Any]) -> tuple[EncoderIdentity, Preprocessing] | None:
    """What was remembered, if it is whole and counts still."""
    try:
        content = json.loads(place.read_text(encoding="utf-8"))
        # The state goes through JSON, too, which has no tuples.
        if content["version"] != _VERSION or content["state"] != json.loads(json.dumps(state)):
            return None
        identity = EncoderIdentity.from_json(content["identity"], str(place))
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content["preprocessing"].items()
        }
        return identity, Preprocessing(**values)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, TableError):
        return None


def _is_cached(paths: Sequence[str], identity: EncoderIdentity, settings: ImageEmbeddingsConfig) -> bool:
    """Whether the cache knows all but a few images of a sample, spread evenly, by their path."""
    folder = cache_folder_of(settings)
    if folder is None or settings.verify != "quick" or settings.root:
        return False
    rows = np.unique(np.linspace(0, len(paths) - 1, min(len(paths), _SAMPLE)).astype(np.int64))
    return count_cached(folder, identity, [paths[row] for row in rows.tolist()]) >= (1 - _FEW) * len(rows)


def _place(settings: ImageEmbeddingsConfig) -> Path | None:
    """The file of this way to ask for a model; None without a cache, and for one that runs code of its own."""
    folder = cache_folder_of(settings)
    # What foreign code does, nobody knows; and a training spec is no file of the model that would be looked at.
    if folder is None or settings.trust_remote_code or settings.model_config_path:
        return None
    model = canonical_model(settings.model)
    if model != AUTO and not find_family(model).remembered:
        return None
    asked = {name: getattr(settings, name) for name in _ASKED}
    # Relative paths are part of the identity as they are, and stand for something else elsewhere.
    path = str(Path(settings.model_path).absolute()) if _is_local(settings) else ""
    asked |= {"model": model, "path": path}
    name = hashlib.sha256(json.dumps(asked, sort_keys=True).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    return folder / f"{name}{MEMORY_SUFFIX}"


def _model_files(settings: ImageEmbeddingsConfig) -> Path | None:
    """Where the files of a model are, its own path or the snapshot that a hub's name stands for today.

    None where that is not known without loading it. With a network, the hub is asked for one small file, as it is asked
    for every file when the model is loaded; a snapshot never changes.
    """
    if _is_local(settings):
        return Path(settings.model_path)
    family = FAMILIES.get(canonical_model(settings.model))
    if family is None or family.package != "transformers":
        return None
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HFValidationError

    try:
        return Path(hf_hub_download(settings.model_path, "config.json")).parent
    except (HFValidationError, OSError):  # loading it will say what is wrong
        return None


def _is_local(settings: ImageEmbeddingsConfig) -> bool:
    """Whether the model is named by its path on this machine."""
    return os.path.exists(settings.model_path)  # noqa: PTH110 - a Path may raise


def _state(files: Path) -> tuple[dict[str, Any], bool]:
    """Everything that must be unchanged, and whether the model's files are old enough to be told from a change."""
    model, code = _files(files), _files(Path(__file__).parents[1] / "encoders")
    newest = max((max(times) for _, _, *times in model), default=0)
    state = {
        "model": model,
        "code": [entry for entry in code if entry[0].endswith(".py")],
        "versions": {"lookalike": _version("lookalike"), **{name: _version(name) for name in _LIBRARIES}},
        "machine": [platform.python_version(), platform.platform(), platform.machine(), _processor()],
        "openvino": importlib.util.find_spec("openvino") is not None,  # runtime=auto takes it where it is
    }
    return state, 0 < len(model) <= _MOST_FILES and newest <= time.time_ns() - _SETTLED_NS


def _files(place: Path) -> list[tuple[str, int, int, int]]:
    """Name, size, and times of change of a file, or of all files of a folder."""
    paths = [place] if place.is_file() else sorted(_below(place))
    found = []
    for path in paths:
        with contextlib.suppress(OSError):  # a file that went meanwhile is a change like any other
            times = path.stat()
            name = path.relative_to(place.parent).as_posix()
            found.append((name, times.st_size, times.st_mtime_ns, times.st_ctime_ns))
    return found


def _below(folder: Path) -> list[Path]:
    """The files of a folder, hidden ones left out; no more than one over the limit."""
    found: list[Path] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name[0] != "." and name != "__pycache__"]
        found += [Path(parent, name) for name in names if name[0] != "." and Path(parent, name).is_file()]
        if len(found) > _MOST_FILES:
            break
    return found[: _MOST_FILES + 1]


def _version(package: str) -> str:
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.version(package)
    return ""


def _processor() -> str:
    """What the processor can do, which `precision=auto` depends on: on Linux its flags, elsewhere its name."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.lower().startswith(("flags", "features")):
                return " ".join(sorted(line.partition(":")[2].split()))
    return f"{platform.machine()} {platform.processor()}"
