"""Visual ChangeNet checkpoints: their backbone as an encoder, found by its weights' names.

Two kinds of backbone are known: a vision transformer (DINOv2's layout, as NV-DINOv2 has it) and C-RADIO's. What
ChangeNet has beside it, its decoder and the adapter around a transformer, compares two images and is left aside. timm
has no FAN, so those are refused. The vector is that of the plain backbone: the class token after the last norm, or the
mean of the patches where the backbone was trained without one. Of C-RADIO it is the summary: class tokens, one after
another.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any

from lookalike.encoders.assemble import Loaded
from lookalike.encoders.base import LoadRequest
from lookalike.encoders.checkpoints import State, fill
from lookalike.encoders.tao import Spec
from lookalike.encoders.tao_radio import GENERATOR, fill_backbone, with_prefix
from lookalike.errors import ConfigError, EncoderError
from lookalike.images.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

#: timm's C-RADIO backbones by their width.
RADIO_BY_WIDTH: dict[int, dict[str, Any]] = {
    width: {"model_name": f"vit_{size}_patch16_radio_v3"}
    for width, size in ((768, "base"), (1024, "large"), (1280, "huge"), (1536, "giant"))
}
#: Width of an attention head in all of DINOv2's models.
HEAD_WIDTH = 64
_BLOCK = "blocks.0.attn.qkv.weight"
_PATCHES = "patch_embed.proj.weight"
#: What the adapter around a transformer, and a classifier, add to it.
_ADAPTER = (
    "level_embed", "spm.", "interactions.", "up.", "norm1.", "norm2.", "norm3.", "norm4.", "head.", "mask_token",
)  # fmt: skip
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_SIDE = 224
#: Class tokens of the summary, where the file doesn't say: of CLIP, SigLIP and DINOv2, but not of SAM.
_SUMMARY = (0, 1, 2)


def check(spec: Spec) -> None:
    """Refuse a backbone that no installed library has.

    Raises
    ------
    ConfigError
        Names it.
    """
    if spec.type.lower().startswith("fan"):
        raise ConfigError(
            f"model.backbone.type={spec.type!r} cannot be built: timm has no FAN",
            where=spec.path,
            hint="take a checkpoint with a ViT or C-RADIO backbone, or export the model to ONNX",
        )


def load(spec: Spec, state: State, request: LoadRequest) -> Loaded:
    """See `lookalike.encoders.tao.load`."""
    check(spec)
    for ending, loader in ((GENERATOR[0], _radio), (_PATCHES, _transformer)):
        for name in state:
            root = name.removesuffix(ending)
            if name.endswith(ending) and f"{root}{_BLOCK}" in state:
                return loader(spec, state, root, request.model_path)
    raise EncoderError(
        f"no backbone is found in it: no weights end with {_PATCHES} or {GENERATOR[0]} and have {_BLOCK} beside them",
        where=request.model_path,
        hint="a ChangeNet checkpoint with a ViT or C-RADIO backbone has them",
    )


def _radio(spec: Spec, state: State, root: str, where: str) -> Loaded:
    """C-RADIO: the class tokens of its summary."""
    from timm.layers import Mlp
    from torch import nn

    backbone = with_prefix(state, root)
    width, tokens = len(backbone[GENERATOR[0]]), len(backbone.get(GENERATOR[2], ()))
    if width not in RADIO_BY_WIDTH:
        raise EncoderError(
            f"its C-RADIO backbone is {width} wide, which no model of timm is",
            where=where,
            hint=f"known widths: {', '.join(map(str, RADIO_BY_WIDTH))}",
        )
    settings = {**RADIO_BY_WIDTH[width], "reg_tokens": tokens - 1, "init_values": _layer_scale(backbone)}
    if "blocks.0.mlp.norm.weight" in backbone:
        settings["mlp_layer"] = partial(Mlp, norm_layer=nn.LayerNorm)
    side = _side(spec)
    module = fill_backbone(settings, side, state, root, where=where, what=spec.type, unknown=[])
    chosen = next((weight.tolist() for name, weight in state.items() if name.endswith("summary_idxs")), _SUMMARY)

    def forward(module: Any, batch: torch.Tensor) -> torch.Tensor:
        summary: torch.Tensor = module.forward_features(batch)[:, list(chosen)].flatten(1)
        return summary

    return Loaded(
        module, forward, spec.type, width * len(chosen), "summary", preprocess(spec, side), libraries=("timm",)
    )


def _transformer(spec: Spec, state: State, root: str, where: str) -> Loaded:
    """A plain vision transformer in the sizes of its weights."""
    own = {name: weight for name, weight in with_prefix(state, root).items() if not name.startswith(_ADAPTER)}
    module, side = build_transformer(own, where)
    fill(
        module,
        _timm_names(own),
        where=where,
        what=spec.type,
        prefix=root,
        hint="only plain vision transformers are known, and those inside TAO's adapter",
    )
    pooling = "class token" if module.cls_token is not None else "mean"
    return Loaded(module, _call, spec.type, int(module.embed_dim), pooling, preprocess(spec, side), libraries=("timm",))


def build_transformer(backbone: State, where: str) -> tuple[Any, int]:
    """A vision transformer in the sizes of its weights, with random ones, and the side of its input in pixels."""
    from timm.layers import Mlp, SwiGLUPacked
    from timm.models.vision_transformer import VisionTransformer
    from torch import nn

    try:
        width, _, patch, _ = backbone[_PATCHES].shape
        hidden, inner = len(backbone["blocks.0.mlp.fc1.weight"]), backbone["blocks.0.mlp.fc2.weight"].shape[1]
        # The positions may have one for the class token, also where the adapter took the token itself away.
        grid = math.isqrt(backbone["pos_embed"].shape[1])
    except (KeyError, ValueError, IndexError) as error:
        raise EncoderError(
            f"its backbone is no plain vision transformer: {error!r}",
            where=where,
            hint="a ViT has patch_embed, pos_embed and blocks with an MLP of fc1 and fc2",
        ) from error
    gated = hidden == 2 * inner
    module = VisionTransformer(
        img_size=grid * patch,
        patch_size=patch,
        embed_dim=width,
        depth=len({name.split(".")[1] for name in backbone if name.startswith("blocks.")}),
        num_heads=width // HEAD_WIDTH,
        mlp_ratio=(hidden + 0.5) / width,  # timm rounds the product down
        mlp_layer=SwiGLUPacked if gated else Mlp,
        act_layer=nn.SiLU if gated else nn.GELU,
        init_values=_layer_scale(backbone),
        class_token="cls_token" in backbone,
        reg_tokens=_registers(backbone),
        no_embed_class=True,
        global_pool="token" if "cls_token" in backbone else "avg",
        fc_norm=False,
        num_classes=0,
    )
    return module, grid * patch


def preprocess(spec: Spec, side: int) -> Preprocessing:
    """ChangeNet's: a bilinear squash to the input size, mean and standard deviation of the spec or of ImageNet."""
    section = _data(spec)
    augmentation = section.get("augmentation_config") or section.get("augmentation") or {}
    mean, std = (
        _triple(augmentation.get(f"rgb_input_{key}", augmentation.get(key, default)), spec)
        for key, default in (("mean", _IMAGENET_MEAN), ("std", _IMAGENET_STD))
    )
    return Preprocessing(
        resize="squash", size=(side, side), resample=2, crop=None, crop_rounding="round", scale=1 / 255, mean=mean,
        std=std, arithmetic="torch",
    )  # fmt: skip


def _data(spec: Spec) -> dict[str, Any]:
    """The section of the data set of the task that the model was trained for."""
    found = (spec.dataset.get(task) for task in ("classify", "segment"))
    return next((section for section in found if isinstance(section, dict)), {})


def _side(spec: Spec) -> int:
    """Side of the input of a backbone that takes any: that of the spec."""
    section = _data(spec)
    side = section.get("image_width") or section.get("img_size") or _SIDE
    if not isinstance(side, int) or isinstance(side, bool):
        raise ConfigError(f"{side!r} is not a size in pixels", where=spec.path, hint="correct the training spec")
    return side


def _triple(values: Any, spec: Spec) -> tuple[float, float, float]:
    try:
        red, green, blue = values
        return float(red), float(green), float(blue)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{values!r} is not a mean or deviation of three channels",
            where=spec.path,
            hint="correct the training spec",
        ) from error


def _layer_scale(backbone: State) -> float:
    """What timm calls `init_values`: any number gives the blocks a layer scale, 0 none."""
    return 1e-5 if any(name in backbone for name in ("blocks.0.ls1.gamma", "blocks.0.ls1.grandma")) else 0.0


def _registers(backbone: State) -> int:
    return backbone["register_tokens"].shape[1] if "register_tokens" in backbone else 0


def _timm_names(backbone: State) -> State:
    """The weights as timm names them: the class token's position is part of the token."""
    state = dict(backbone)
    positions = state["pos_embed"]
    if math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:
        state["pos_embed"] = positions[:, 1:]
        if "cls_token" in state:
            state["cls_token"] = state["cls_token"] + positions[:, :1]
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
    return state


def _call(module: Any, batch: torch.Tensor) -> torch.Tensor:
    vectors: torch.Tensor = module(batch)
    return vectors
