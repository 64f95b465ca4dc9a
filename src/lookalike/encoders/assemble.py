"""From a loaded PyTorch model to an encoder: what every family does at the end in the same way."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lookalike.encoders.base import (
    LoadRequest,
    Slices,
    TorchEncoder,
    choose_device,
    choose_precision,
    torch_dtype,
    weights_digest,
)
from lookalike.encoders.identity import EncoderIdentity, ModelIdentity, Numerics, Origin
from lookalike.encoders.vectors import Finish, Turn
from lookalike.images.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Loaded:
    """A model with its weights, on the CPU in float32.

    Attributes
    ----------
    module:
        The part of the model that is used, a `torch.nn.Module`.
    forward:
        From the module and a batch (images x 3 x height x width) to vectors (images x dimension).
    architecture, dimension, pooling:
        See `ModelIdentity`.
    preprocessing:
        From a decoded image to one of the batch.
    libraries:
        The Python packages whose versions the identity records, beside torch.
    cpu_slice:
        How many images it computes at a time on a CPU.
    recordable:
        Whether its forward pass can be recorded as a CUDA graph: it never waits for the GPU.
    channels_last:
        Whether its images may lie channels last inside the model, which foreign code may not expect.
    packable:
        Whether its linear layers are only called, so that packed ones can take their place (`packed`).
    weights:
        Digest of the weights as they are in the file, where the module was changed since; "": it was not.
    turn:
        Turns the images of a batch that does not hold them as height x width.
    """

    module: Any
    forward: Callable[[Any, torch.Tensor], torch.Tensor]
    architecture: str
    dimension: int
    pooling: str
    preprocessing: Preprocessing
    libraries: tuple[str, ...]
    cpu_slice: int = 8
    recordable: bool = False
    channels_last: bool = True
    packable: bool = False
    weights: str = ""
    turn: Turn | None = None


def assemble(loaded: Loaded, family_name: str, request: LoadRequest, *, normalizes: bool = False) -> TorchEncoder:
    """Make an encoder of a loaded model.

    Parameters
    ----------
    loaded:
        The model.
    family_name:
        For the identity and for `precision=auto`.
    request:
        What the user asks for.
    normalizes:
        Whether the family's reference brings its vectors to length 1.
    """
    import torch

    device = choose_device(request.device)
    # The digest is that of the weights as they are in the file, whatever they are computed in.
    digest = loaded.weights or weights_digest(loaded.module.state_dict())
    precision = choose_precision(request.precision, device, family_name)
    # Channels last is how convolutions are computed fastest, and how one hands on tokens that lie one after another.
    # Otherwise every residual connection and layer norm of a ViT works on strided memory: 40 % more time on an H100.
    layout = torch.channels_last if loaded.channels_last else torch.preserve_format
    module = loaded.module.eval().to(device, torch_dtype(precision), memory_format=layout)
    module.requires_grad_(False)
    if loaded.packable and device.type == "cpu" and precision == "bf16":
        from lookalike.encoders.packed import pack

        pack(module)
    finish = Finish.of(request, reference=normalizes)
    versions = {name: importlib.import_module(name).__version__ for name in ("torch", *loaded.libraries)}
    identity = EncoderIdentity(
        ModelIdentity(
            family=family_name,
            architecture=loaded.architecture,
            dimension=loaded.dimension,
            weights=digest,
            preprocessing=request.preprocessing_digest(loaded.preprocessing),
            pooling=finish.pooling(loaded.pooling),
            normalisation=finish.normalisation,
        ),
        Numerics(precision=precision, runtime=f"torch-{device.type}", decoder="pillow"),
        Origin(request.model_path, {name: str(version) for name, version in versions.items()}),
    )

    def forward(batch: torch.Tensor) -> torch.Tensor:
        return loaded.forward(module, batch)

    finished = finish.wrap(forward, loaded.turn)
    if loaded.recordable and device.type == "cuda":
        from lookalike.encoders.graph import GraphedForward

        finished = GraphedForward(finished)
    return TorchEncoder(
        identity,
        loaded.preprocessing,
        finished,
        device,
        torch_dtype(precision),
        Slices.of(device, cpu=loaded.cpu_slice),
    )
