"""Models that are one file: what is needed beside the file, and which of their outputs is the vector."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from lookalike.encoders import timm
from lookalike.encoders.base import LoadRequest
from lookalike.encoders.processor import read_preprocessing
from lookalike.errors import ConfigError, EncoderError
from lookalike.images.preprocess import Preprocessing

#: What is beside a model, in the order in which it is looked for.
_PROCESSOR, _TIMM = "preprocessor_config.json", "config.json"

Array = TypeVar("Array", bound=Any)


def open_model_file(request: LoadRequest, family: str, suffixes: Sequence[str]) -> tuple[Path, Preprocessing]:
    """The file of a model that was exported, and what its images have to go through.

    Raises
    ------
    EncoderError
        When the file is missing or of another kind, or nothing beside it says how images are prepared.
    ConfigError
        When a precision is asked for: an exported model computes in its own.
    """
    path = Path(request.model_path)
    if path.suffix.lower() not in suffixes:
        raise EncoderError(
            f"model={family} takes a file whose name ends in {' or '.join(suffixes)}", where=request.model_path
        )
    if not path.is_file():
        raise EncoderError("the model file does not exist", where=request.model_path, hint="check the path")
    if request.precision not in ("auto", "fp32"):
        raise ConfigError(
            f"precision={request.precision!r} is not possible with model={family}: it computes as it was exported",
            hint="leave it out",
        )
    preprocessing = _read_preprocessing(path.parent, request.model_path)
    if preprocessing.resize == "patches":
        raise EncoderError(
            "the preprocessing beside it cuts images into patches, and an exported model takes whole images",
            where=request.model_path,
            hint="put the preprocessing of this very model beside it",
        )
    return path, preprocessing


def _read_preprocessing(folder: Path, model_path: str) -> Preprocessing:
    """What the file beside a model says: that of a Hugging Face processor, or timm's."""
    if (folder / _PROCESSOR).is_file():
        return read_preprocessing(str(folder))
    if (folder / _TIMM).is_file():
        try:
            content = json.loads((folder / _TIMM).read_text(encoding="utf-8"))
        except ValueError as error:
            raise EncoderError(f"not readable as JSON: {error}", where=str(folder / _TIMM)) from error
        if isinstance(content, dict) and isinstance(content.get("pretrained_cfg"), dict):
            from timm.data import resolve_data_config

            return timm.preprocessing_of(resolve_data_config(pretrained_cfg=content["pretrained_cfg"]), model_path)
    raise EncoderError(
        "nothing beside the model says how images are resized and normalised for it",
        where=model_path,
        hint=f"put {_PROCESSOR} of its Hugging Face snapshot, or timm's {_TIMM} (with `pretrained_cfg`), into {folder}",
    )


def files_digest(paths: Sequence[Path]) -> str:
    """SHA-256 over the bytes of files, in order."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def only_vectors(outputs: Mapping[str, Array], images: int, model_path: str) -> str:
    """The name of the one output that is images x dimension.

    Parameters
    ----------
    outputs:
        What the model gave for some images, by name.
    images:
        How many they were.
    model_path:
        For messages.

    Raises
    ------
    EncoderError
        When no output is images x dimension, or several are; lists all.
    """
    fitting = [name for name, one in outputs.items() if len(one.shape) == 2 and one.shape[0] == images]
    if len(fitting) == 1:
        return fitting[0]
    listed = ", ".join(f"{name} {tuple(one.shape)}" for name, one in outputs.items()) or "none"
    raise EncoderError(
        f"{'several' if fitting else 'none'} of its outputs are images x dimension; for {images} images they are: "
        f"{listed}",
        where=model_path,
        hint="export the model with the pooled vector as its only output of that shape",
    )


def in_batches(
    forward: Callable[[Array], Array],
    batch: int,
    pad: Callable[[Array, int], Array],
    join: Callable[[list[Array]], Array],
) -> Callable[[Array], Array]:
    """A forward pass for any number of images from one for exactly `batch` of them.

    Parameters
    ----------
    forward:
        From `batch` images to their vectors.
    batch:
        How many.
    pad:
        Adds images of zeros to a batch until there are so many.
    join:
        Concatenates.
    """

    def all_of(images: Array) -> Array:
        parts = []
        for first in range(0, len(images), batch):
            part = images[first : first + batch]
            parts.append(forward(pad(part, batch) if len(part) < batch else part)[: len(part)])
        vectors: Array = parts[0] if len(parts) == 1 else join(parts)
        return vectors

    return all_of
