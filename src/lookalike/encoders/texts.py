"""Text encoders: the text side of a model, from texts to vectors.

Texts and images are compared, so the identity of a text encoder names the image encoder of the same model. To know it,
the image side is loaded, too, and let go. The modules `texts_*` load the text sides of the families.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import TextEmbeddingsConfig
from lookalike.encoders.base import LoadRequest, choose_device, torch_dtype, weights_digest
from lookalike.encoders.families import FAMILIES, find_family
from lookalike.encoders.identity import EncoderIdentity, ModelIdentity, Numerics, Origin
from lookalike.encoders.load import check_model
from lookalike.encoders.vectors import Finish
from lookalike.errors import ConfigError, EncoderError
from lookalike.images.decode import DecodeSettings

if TYPE_CHECKING:
    import torch


class Tokenizer(Protocol):
    """Turns texts into tokens, all of one length."""

    @property
    def tokens(self) -> int:
        """How many a text becomes."""
        ...

    def __call__(self, texts: Sequence[str]) -> dict[str, torch.Tensor]:
        """The model's arguments for some texts, each texts x tokens, padded or cut."""
        ...

    def count_cut(self, texts: Sequence[str]) -> int:
        """How many of some texts are cut."""
        ...

    @property
    def tells_case(self) -> bool:
        """Whether a capital letter is another token than a small one."""
        ...

    def digest(self) -> str:
        """SHA-256 over everything between a text and the model's input."""
        ...


@dataclass(frozen=True)
class LoadedTexts:
    """The text side of a model with its weights, on the CPU in float32.

    Attributes
    ----------
    module:
        A `torch.nn.Module`.
    forward:
        From the module and what the tokenizer gives to vectors (texts x dimension).
    architecture, dimension, pooling:
        See `ModelIdentity`.
    tokenizer:
        Turns texts into tokens.
    libraries:
        The Python packages whose versions the identity records, beside torch.
    """

    module: Any
    forward: Callable[[Any, dict[str, torch.Tensor]], torch.Tensor]
    architecture: str
    dimension: int
    pooling: str
    tokenizer: Tokenizer
    libraries: tuple[str, ...]


#: What the module that `Family.texts` names has as `load_texts`: loads the text side that is asked for; raises
#: `EncoderError` when it cannot be read or is not there, and `MissingDependency`.
LoadTexts = Callable[[LoadRequest], LoadedTexts]


@dataclass(frozen=True)
class TextEncoder:
    """Turns texts into vectors.

    Attributes
    ----------
    identity:
        What wrote the vectors.
    tokenizer:
        Turns texts into tokens.
    forward:
        From the model's arguments, on `device`, to vectors on it.
    device:
        Where the weights are.
    """

    identity: EncoderIdentity
    tokenizer: Tokenizer
    forward: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    device: torch.device

    def encode(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """Turn a batch of texts into vectors (texts x dimension, float32)."""
        import torch

        inputs = self.tokenizer(texts)
        with torch.inference_mode():
            vectors = self.forward({key: value.to(self.device) for key, value in inputs.items()})
            return vectors.float().cpu().numpy()


def check_text_model(settings: TextEmbeddingsConfig) -> str:
    """Refuse, before any work, model settings that cannot be right; return the family's name.

    Raises
    ------
    ConfigError
        When the family is unknown or has no text side, or the settings contradict each other.
    """
    family = find_family(check_model(settings.images()))
    if not family.texts:
        having = ", ".join(name for name, one in FAMILIES.items() if one.texts)
        raise ConfigError(f"model={family.name} has no text side", hint=f"use one of: {having}")
    return family.name


def load_text_encoder(settings: TextEmbeddingsConfig) -> TextEncoder:
    """Load the text side of a model.

    Raises
    ------
    ConfigError
        When the settings cannot be right.
    EncoderError
        When the model cannot be found or read, is of another family, or lacks weights, a text side or a tokenizer.
    MissingDependency
        When its tokenizer needs a package that is not installed.
    """
    family = find_family(check_text_model(settings))
    decoding = DecodeSettings("ignore", "clip", settings.images().max_pixels)
    request = LoadRequest.of(settings.images(), settings.device, decoding)
    # The usual settings, whatever those of the texts: this is the encoder that they belong to.
    usual = replace(request, device="cpu", precision="fp32", runtime="torch", normalize="auto")
    images = family.load(usual).identity.model
    load_texts: LoadTexts = importlib.import_module(family.texts).load_texts
    loaded = load_texts(request)
    if loaded.dimension != images.dimension:
        raise EncoderError(
            f"its texts have {loaded.dimension} dimensions and its images {images.dimension}: they cannot be compared",
            where=request.model_path,
        )
    return _assemble(loaded, images, request)


def _assemble(loaded: LoadedTexts, images: ModelIdentity, request: LoadRequest) -> TextEncoder:
    """Make an encoder of a loaded text side, whose images are those of `images`."""
    digest = weights_digest(loaded.module.state_dict())
    device = choose_device(request.device)
    precision = "fp32" if request.precision == "auto" else request.precision
    module = loaded.module.eval().to(device, torch_dtype(precision)).requires_grad_(False)
    finish = Finish.of(request, reference=images.normalisation == "l2")
    versions = {name: str(importlib.import_module(name).__version__) for name in ("torch", *loaded.libraries)}
    identity = EncoderIdentity(
        ModelIdentity(
            family=images.family,
            architecture=loaded.architecture,
            dimension=images.dimension,
            weights=digest,
            preprocessing=loaded.tokenizer.digest(),
            pooling=finish.pooling(loaded.pooling),
            normalisation=finish.normalisation,
        ),
        Numerics(precision=precision, runtime=f"torch-{device.type}", decoder="none"),
        Origin(request.model_path, versions),
        images,
    )

    def forward(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        return finish.bring_to_length(loaded.forward(module, inputs))

    return TextEncoder(identity, loaded.tokenizer, forward, device)


def check_tokens(made: torch.Tensor, known: int, where: str) -> None:
    """Refuse tokens that the model does not know.

    Parameters
    ----------
    made:
        Token numbers, of any shape.
    known:
        How many different tokens the model knows.
    where:
        The model, for the error.

    Raises
    ------
    EncoderError
        When one is too large.
    """
    largest = int(made.max())
    if largest >= known:
        raise EncoderError(
            f"its tokenizer gives the token number {largest}, and the model knows {known}",
            where=where,
            hint="the snapshot mixes files of two models; fetch it again",
        )


def no_tokenizer(where: str) -> EncoderError:
    """The error of a model without a tokenizer, or with one that knows nothing."""
    return EncoderError(
        "has no tokenizer that can be read",
        where=where,
        hint="copy it from where the model came from: tokenizer_config.json with tokenizer.json, or spiece.model "
        "(SigLIP)",
    )
