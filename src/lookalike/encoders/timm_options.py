"""The settings `pooling`, `layer` and `image_size` of timm models.

Which features are pooled: after a transformer, the tokens after its last norm; elsewhere the last feature map. With
`layer`, the output of that block of a transformer after the same norm, or of that stage of another model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lookalike.encoders.base import LoadRequest
from lookalike.encoders.pooling import pool, pooling_name
from lookalike.errors import ConfigError

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Features:
    """How a model's features become vectors.

    Attributes
    ----------
    forward:
        From the model and a batch to vectors.
    dimension:
        Of the vectors.
    name:
        For the identity.
    """

    forward: Callable[[Any, torch.Tensor], torch.Tensor]
    dimension: int
    name: str


def choose(module: Any, request: LoadRequest) -> Features:
    """What `pooling` and `layer` ask for; blocks of a transformer after `layer` are taken off the model.

    Raises
    ------
    ConfigError
        When the model has no such layer or no class token, or `layer` needs a pooling.
    """
    pooling, layer, where = request.pooling, request.layer, request.model_path
    is_transformer = hasattr(module, "blocks") and hasattr(module, "num_prefix_tokens")
    if pooling == "cls" and (not is_transformer or getattr(module, "cls_token", None) is None):
        raise ConfigError(
            "pooling='cls' is not possible: the model has no class token", where=where, hint="use model, mean or gem"
        )
    name = pooling_name(pooling, layer)
    if layer >= 0:
        _check_layer(module, layer, where, is_transformer=is_transformer)
        if not is_transformer:
            return _of_stage(module, pooling, layer, name, where)
        # timm's own way to end a transformer early: its norm and its pooling stay.
        module.prune_intermediate_layers([layer], prune_norm=False, prune_head=False)
    if pooling == "model":
        return Features(_whole, int(module.head_hidden_size), name)
    prefix = int(module.num_prefix_tokens) if is_transformer else 0
    channels_last = getattr(module, "output_fmt", "NCHW") == "NHWC"

    def forward(module: Any, batch: torch.Tensor) -> torch.Tensor:
        tokens = _tokens(module.forward_features(batch), channels_last)
        return tokens[:, 0] if pooling == "cls" else pool(tokens[:, prefix:], pooling)

    return Features(forward, int(module.num_features), name)


def resize(module: Any, image_size: int, where: str) -> None:
    """Give a model another input size; timm interpolates its positions.

    Raises
    ------
    ConfigError
        When the model doesn't take that size.
    """
    if not image_size:
        return
    fixed = bool(module.pretrained_cfg.get("fixed_input_size")) and not hasattr(module, "set_input_size")
    patch = _patch(module)
    if fixed or image_size % patch:
        raise ConfigError(
            f"image_size={image_size} is not possible with this model",
            where=where,
            hint="leave it out" if fixed else f"use a multiple of {patch}",
        )
    if not hasattr(module, "set_input_size"):
        return
    try:
        module.set_input_size((image_size, image_size))
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"image_size={image_size} is not possible with this model: {error}", where=where, hint="leave it out"
        ) from error


def _patch(module: Any) -> int:
    """What the input size has to be a multiple of."""
    size = getattr(getattr(module, "patch_embed", None), "patch_size", 1)
    return int(size[0] if isinstance(size, tuple | list) else size)


def _check_layer(module: Any, layer: int, where: str, *, is_transformer: bool) -> None:
    needed = "prune_intermediate_layers" if is_transformer else "forward_intermediates"
    if not hasattr(module, needed) or not getattr(module, "feature_info", None):
        raise ConfigError("timm gives no intermediate features of this model", where=where, hint="leave layer out")
    count = len(module.feature_info)
    if layer >= count:
        raise ConfigError(
            f"layer={layer} is not possible: the model has {count} blocks", where=where, hint=f"use 0 to {count - 1}"
        )


def _of_stage(module: Any, pooling: str, layer: int, name: str, where: str) -> Features:
    """A stage of a model whose stages differ in width: its own pooling fits the last one only."""
    if pooling == "model":
        raise ConfigError(
            f"layer={layer} needs a pooling: the model's own is for its last features", where=where,
            hint="use pooling=mean or pooling=gem",
        )  # fmt: skip

    def forward(module: Any, batch: torch.Tensor) -> torch.Tensor:
        (stage,) = module.forward_intermediates(batch, indices=[layer], intermediates_only=True)
        return pool(_tokens(stage, channels_last=False), pooling)

    return Features(forward, int(module.feature_info[layer]["num_chs"]), name)


def _whole(module: Any, batch: torch.Tensor) -> torch.Tensor:
    vectors: torch.Tensor = module(batch)
    return vectors


def _tokens(features: torch.Tensor, channels_last: bool) -> torch.Tensor:
    """Features as images x positions x channels."""
    if features.ndim == 3:
        return features
    return features.flatten(1, 2) if channels_last else features.flatten(2).transpose(1, 2)
