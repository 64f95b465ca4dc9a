"""TAO's OpenCLIP checkpoints, NV-CLIP among them: open_clip's image tower.

Preprocessing is open_clip's evaluation transform for the size that the training spec gives, with CLIP's mean and
standard deviation.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lookalike.encoders.assemble import Loaded
from lookalike.encoders.base import LoadRequest
from lookalike.encoders.checkpoints import State, fill
from lookalike.encoders.openclip import (
    TEXT_SIDE,
    build_tower,
    encode,
    image_side,
    named_config,
    require_open_clip,
    set_trunk_size,
)
from lookalike.encoders.tao import Spec
from lookalike.errors import ConfigError, EncoderError
from lookalike.images.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

#: Of the data that CLIP was trained on.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
#: What all CLIPA towers of NV-CLIP have: mean pooling, then the final norm; positions are sines.
_CLIPA = {
    "patch_size": 14, "no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True,
    "pos_embed_type": "sin_cos_2d",
}  # fmt: skip
_LARGE = {**_CLIPA, "layers": 24, "width": 1024, "head_width": 64}
_HUGE = {**_CLIPA, "layers": 32, "width": 1280, "head_width": 80}
#: Architectures that open_clip has no configuration of, by the spec's model type, in open_clip's own terms.
TYPES: dict[str, dict[str, Any]] = {
    f"ViT-{letter}-14-SigLIP-CLIPA-{side}": {"embed_dim": embed_dim, "vision_cfg": {**tower, "image_size": side}}
    for letter, embed_dim, tower, sides in (
        ("L", 768, _LARGE, (84, 224, 336)),
        ("H", 1024, _HUGE, (84, 224, 336, 574)),
    )
    for side in sides
}
_INNER = "model.backbone.model."
_IMAGE = f"{_INNER}visual."
_ASIDE = (*(f"{_INNER}{name}" for name in TEXT_SIDE), "model.logit_")


def check(spec: Spec) -> None:
    """Refuse a model type that is not known.

    Raises
    ------
    ConfigError
        Names near ones.
    MissingDependency
        When open_clip is not installed.
    """
    require_open_clip()
    config_of(spec)


def config_of(spec: Spec) -> dict[str, Any]:
    """The architecture that a spec names, in open_clip's terms.

    Raises
    ------
    ConfigError
        When neither `TYPES` nor open_clip has it; names near ones.
    """
    if spec.type in TYPES:
        return TYPES[spec.type]
    try:
        return named_config(spec.type)
    except ConfigError as error:
        raise ConfigError(
            f"model.type={spec.type!r} is not known: {error.what}",
            where=spec.path,
            hint=f"{error.hint} TAO's own: {', '.join(TYPES)}",
        ) from error


def load(spec: Spec, state: State, request: LoadRequest) -> Loaded:
    """See `lookalike.encoders.tao.load`."""
    config = config_of(spec)
    tower = build_tower(config, spec.path)
    image, others = image_side(state, _IMAGE, _ASIDE)
    fill(tower, image, where=request.model_path, what=spec.type, prefix=_IMAGE, unknown=others)
    # A ResNet of open_clip has one number, every other tower has height and width.
    own = tower.image_size[0] if isinstance(tower.image_size, tuple) else tower.image_size
    side = spec.image_size or int(own)
    if side != own:
        _resize(tower, side, spec)
    return Loaded(
        module=tower,
        forward=encode,
        architecture=spec.type,
        dimension=int(config["embed_dim"]),
        pooling="model",
        preprocessing=clip_preprocessing(side),
        libraries=("open_clip", "timm"),
    )


def clip_preprocessing(side: int) -> Preprocessing:
    """open_clip's evaluation transform as TAO sets it: shortest edge, bicubic, centre crop, CLIP's mean and std."""
    return Preprocessing(
        resize="shortest_edge", size=(side, side), resample=3, crop=(side, side), crop_rounding="round", scale=1 / 255,
        mean=CLIP_MEAN, std=CLIP_STD, arithmetic="torch",
    )  # fmt: skip


def _resize(tower: Any, side: int, spec: Spec) -> None:
    """Interpolate the positions to another input size as TAO does."""
    if hasattr(tower, "trunk"):
        set_trunk_size(tower, side, spec.path)
    elif hasattr(tower, "positional_embedding") and side >= tower.patch_size[0]:
        tower.positional_embedding.data = interpolated(tower.positional_embedding.data, side // tower.patch_size[0])
    else:
        raise EncoderError(
            f"{spec.type} does not take images of {side} pixels", where=spec.path, hint="correct model.image_size"
        )


def interpolated(positions: torch.Tensor, wanted: int) -> torch.Tensor:
    """Positions of a square grid for another one, as DINO interpolates them.

    Parameters
    ----------
    positions:
        (1 + grid x grid) x width: of the class token, then of the patches.
    wanted:
        The new grid's side.

    Notes
    -----
    The scale is (wanted + 0.1) / grid: the small number keeps the result from being one too short, and the
    interpolation follows that scale. From https://github.com/facebookresearch/dino (issue 8), which TAO follows.
    """
    import torch

    grid = math.isqrt(len(positions) - 1)
    if grid == wanted:
        return positions
    patches = positions[1:].reshape(1, grid, grid, -1).permute(0, 3, 1, 2)
    scale = (wanted + 0.1) / grid
    resized = torch.nn.functional.interpolate(patches, scale_factor=(scale, scale), mode="bicubic")
    return torch.cat([positions[:1], resized.permute(0, 2, 3, 1).reshape(wanted * wanted, -1)])
