"""The interface that every encoder fits, and what the PyTorch ones share."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from lookalike.encoders.identity import EncoderIdentity
from lookalike.errors import ConfigError
from lookalike.images.decode import DecodeSettings
from lookalike.images.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

#: Images that a CPU works on at a time. The activations of a large batch leave the cache and, with glibc, are
#: given back to the system after every layer: EfficientNet-Lite0 is 3 times slower at 64 images than at 4.
_CPU_SLICE = 4


class Encoder(Protocol):
    """Turns images into vectors.

    Attributes
    ----------
    identity:
        What wrote the vectors.
    preprocessing:
        Turns one decoded image into the array that `encode` takes. Called from several threads.
    """

    @property
    def identity(self) -> EncoderIdentity:
        """What wrote the vectors."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """Turns one decoded image into the array that `encode` takes; called from several threads."""
        ...

    def encode(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Turn a batch (images x 3 x height x width, float32) into vectors (images x dimension, float32)."""
        ...


@dataclass(frozen=True)
class LoadRequest:
    """What the user asks for when a model is loaded; the fields are those of the configuration.

    Attributes
    ----------
    model_path, architecture, device:
        See `ImageEmbeddingsConfig`.
    decoding:
        How files become pixels; its colour and orientation rules are part of the preprocessing digest.
    """

    model_path: str
    architecture: str
    device: str
    decoding: DecodeSettings

    def preprocessing_digest(self, preprocessing: Preprocessing) -> str:
        """SHA-256 over everything between a file and the model's input."""
        rules = {"exif": self.decoding.exif, "bit_depth": self.decoding.bit_depth, **asdict(preprocessing)}
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class TorchEncoder:
    """An encoder whose forward pass is a PyTorch function.

    Attributes
    ----------
    identity, preprocessing:
        See `Encoder`.
    forward:
        From a batch on `device` to vectors on it.
    device:
        Where the weights are.
    """

    identity: EncoderIdentity
    preprocessing: Preprocessing
    forward: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device

    def encode(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """See `Encoder.encode`."""
        import torch

        size = _CPU_SLICE if self.device.type == "cpu" else len(pixels)
        with torch.inference_mode():
            slices = torch.split(torch.from_numpy(pixels), size)
            vectors = torch.cat([self.forward(part.to(self.device)).float().cpu() for part in slices])
            return vectors.numpy()


def choose_device(wanted: str) -> torch.device:
    """Resolve the setting `device`: ``auto`` takes a CUDA device, then Apple's, then the CPU.

    Raises
    ------
    ConfigError
        When the device is unknown or not there; names those that are.
    """
    import torch

    present = ["cpu"]
    if torch.cuda.is_available():
        present = [f"cuda:{index}" for index in range(torch.cuda.device_count())] + present
    if torch.backends.mps.is_available():
        present = ["mps", *present]
    if wanted == "auto":
        return torch.device(present[0])
    name = "cuda:0" if wanted == "cuda" else wanted
    if name not in present:
        raise ConfigError(f"device={wanted!r} is not here", hint=f"use auto or one of: {', '.join(present)}")
    return torch.device(name)


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over tensors by name: the same for a sharded, renamed or converted file of the same weights."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        # reshape(-1) first: a scalar tensor has no dimension to reinterpret.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
