"""TAO's SigLIP2 checkpoints: transformers' SigLIP vision tower, attention pooling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lookalike.encoders.assemble import Loaded
from lookalike.encoders.base import LoadRequest
from lookalike.encoders.checkpoints import State, fill
from lookalike.encoders.openclip import image_side
from lookalike.encoders.tao import Spec
from lookalike.errors import ConfigError
from lookalike.images.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

#: The shape-optimised tower of 400 million parameters (arXiv:2502.14786), whatever its input.
_SO400M = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
#: Architectures by the spec's model type, as settings of transformers' `SiglipVisionConfig`.
TYPES: dict[str, dict[str, int]] = {
    f"siglip2-so400m-patch{patch}-{side}": {**_SO400M, "patch_size": patch, "image_size": side}
    for patch, side in ((14, 224), (14, 384), (16, 256), (16, 384), (16, 512))
}
_IMAGE = "model.backbone.inner.vision_model."
_ASIDE = (
    "model.backbone.inner.text_model.", "model.backbone.inner.logit_", "model.backbone.mask", "model.logit_",
)  # fmt: skip
#: Buffers that older releases of transformers wrote; they hold 0, 1, 2, ...
_COUNTS = frozenset({"embeddings.position_ids"})


def check(spec: Spec) -> None:
    """Refuse a model type that is not known.

    Raises
    ------
    ConfigError
        Lists those that are.
    """
    settings_of(spec)


def settings_of(spec: Spec) -> dict[str, int]:
    """The architecture that a spec names.

    Raises
    ------
    ConfigError
        When it is none of `TYPES`.
    """
    if spec.type not in TYPES:
        raise ConfigError(
            f"model.type={spec.type!r} is not a SigLIP2 model that can be built",
            where=spec.path,
            hint=f"known: {', '.join(TYPES)}",
        )
    return TYPES[spec.type]


def build(settings: dict[str, int]) -> Any:
    """The vision tower of an architecture, with random weights."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    return SiglipVisionModel(SiglipVisionConfig(**settings))


def preprocess(settings: dict[str, int]) -> Preprocessing:
    """What the processor of the SigLIP2 models does: a bilinear squash to the model's size, whatever the spec says."""
    side = settings["image_size"]
    half = (0.5, 0.5, 0.5)
    return Preprocessing(
        resize="squash", size=(side, side), resample=2, crop=None, crop_rounding="floor", scale=1 / 255, mean=half,
        std=half,
    )  # fmt: skip


def load(spec: Spec, state: State, request: LoadRequest) -> Loaded:
    """See `lookalike.encoders.tao.load`."""
    settings = settings_of(spec)
    image, others = image_side(state, _IMAGE, _ASIDE)
    image = {name: weight for name, weight in image.items() if name not in _COUNTS}
    module = build(settings)
    # Releases of transformers differ in whether the tower is a module of its own inside the model.
    fill(
        getattr(module, "vision_model", module),
        image,
        where=request.model_path,
        what=spec.type,
        prefix=_IMAGE,
        unknown=others,
    )
    return Loaded(
        module=module,
        forward=_pooled,
        architecture=spec.type,
        dimension=settings["hidden_size"],
        pooling="attention",
        preprocessing=preprocess(settings),
        libraries=("transformers",),
        recordable=True,
    )


def _pooled(module: Any, batch: torch.Tensor) -> torch.Tensor:
    vectors: torch.Tensor = module(pixel_values=batch).pooler_output
    return vectors
