"""Models of timm and OpenCLIP, and TAO checkpoints, with random weights, and their vectors by the libraries' own code.

`MODELS` and `REFERENCES` are as in `encoder_models`; `SETTINGS` gives what a family needs beside `model` and
`model_path`. A TAO checkpoint has its training spec beside it, with the same stem. Tiny ones have the names of real
architectures, so they are loaded inside `tiny_types()` only.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from lookalike.encoders import tao_changenet, tao_openclip, tao_radio, tao_siglip

Vectors = npt.NDArray[np.float32]
SIGLIP, CLIPA, RADIO = "siglip2-so400m-patch16-256", "ViT-L-14-SigLIP-CLIPA-224", "c-radio_v3-b"
_TINY_SIGLIP = {
    "hidden_size": 32, "intermediate_size": 56, "num_hidden_layers": 2, "num_attention_heads": 4, "patch_size": 8,
    "image_size": 32,
}  # fmt: skip
_TINY_CLIPA = {
    "embed_dim": 24,
    "vision_cfg": {
        **tao_openclip.TYPES[CLIPA]["vision_cfg"], "layers": 2, "width": 32, "head_width": 8, "patch_size": 8,
        "image_size": 32,
    },
}  # fmt: skip
_TINY_RADIO = {"model_name": "vit_base_patch16_radio_v3", "embed_dim": 32, "depth": 2, "num_heads": 4}
_TINY_TEXT = {"context_length": 8, "vocab_size": 64, "width": 16, "heads": 2, "layers": 1}
_BATCH = 16


@contextlib.contextmanager
def tiny_types() -> Iterator[None]:
    """Let three real model types, and the C-RADIO backbone of 32 channels, stand for tiny models."""
    with (
        mock.patch.dict(tao_siglip.TYPES, {SIGLIP: _TINY_SIGLIP}),
        mock.patch.dict(tao_openclip.TYPES, {CLIPA: _TINY_CLIPA}),
        mock.patch.dict(tao_radio.TYPES, {RADIO: _TINY_RADIO}),
        mock.patch.dict(tao_changenet.RADIO_BY_WIDTH, {32: _TINY_RADIO}),
        mock.patch.object(tao_changenet, "HEAD_WIDTH", 8),
    ):
        yield


def spec_of(checkpoint: Path) -> Path:
    """The training spec of a checkpoint."""
    return checkpoint.with_suffix(".yaml")


def write_checkpoint(folder: Path, state: dict[str, Any], spec: dict[str, Any], name: str = "model.pth") -> Path:
    """A checkpoint as PyTorch Lightning writes it, NumPy scalars and all, and its training spec.

    Parameters
    ----------
    folder:
        Where both go.
    state:
        Weights by name.
    spec:
        The training spec.
    name:
        Of the checkpoint.
    """
    import torch
    import yaml

    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "state_dict": state, "epoch": 3, "global_step": np.int64(90), "pytorch-lightning_version": "2.4.0",
        "callbacks": {"ModelCheckpoint": {"best_model_score": np.float64(0.5), "current_score": np.float32(0.25)}},
    }  # fmt: skip
    torch.save(content, folder / name)
    spec_of(folder / name).write_text(yaml.safe_dump(spec))
    return folder / name


def randomise(module: Any) -> Any:
    """Weights that are far from zero, so that the vectors depend on the image."""
    import torch

    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return module.eval()


def batches(images: Sequence[str], pixels: Callable[[Any], Any], vectors: Callable[[Any], Any]) -> Vectors:
    """Vectors of images, some at a time.

    Parameters
    ----------
    images:
        Paths.
    pixels:
        From a picture to a tensor: the library's own preprocessing.
    vectors:
        From a batch to vectors: the library's own model.
    """
    import torch
    from PIL import Image

    found = []
    for first in range(0, len(images), _BATCH):
        batch = [pixels(Image.open(name).convert("RGB")) for name in images[first : first + _BATCH]]
        with torch.inference_mode():
            found.append(vectors(torch.stack(batch)).float().numpy())
    return np.concatenate(found)


def state_at(checkpoint: Path, prefix: str) -> dict[str, Any]:
    """The weights of a checkpoint of ours under a prefix, named without it."""
    import torch

    state = torch.load(checkpoint, weights_only=False)["state_dict"]
    return {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}


def timm_checkpoint(folder: Path, tiny: bool) -> Path:
    """A checkpoint file of timm's ViT-B/16, or of a test model of timm."""
    import timm
    import torch

    model = randomise(timm.create_model(_timm_name(tiny), num_classes=0))
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), folder / "model.pth")
    return folder / "model.pth"


def timm_reference(path: Path, images: Sequence[str]) -> Vectors:
    """Of timm: its model without a classifier, its evaluation transform."""
    import timm
    import torch

    state = torch.load(path, weights_only=True)
    model = timm.create_model(_timm_of(state), num_classes=0).eval()
    model.load_state_dict(state)
    return batches(images, timm.data.create_transform(**timm.data.resolve_model_data_config(model)), model)


def _timm_name(tiny: bool) -> str:
    return "test_vit" if tiny else "vit_base_patch16_224"


def _timm_of(state: dict[str, Any]) -> str:
    return _timm_name(tiny=len(state["norm.weight"]) == 64)


def _timm_settings(path: Path) -> dict[str, str]:
    import torch

    return {"architecture": _timm_of(torch.load(path, weights_only=True))}


def openclip(folder: Path, tiny: bool) -> Path:
    """OpenCLIP ViT-B/16 as a snapshot in the layout of the hub."""
    return openclip_snapshot(folder, _tiny_clip() if tiny else None, {"interpolation": "bicubic"})


def openclip_snapshot(folder: Path, config: dict[str, Any] | None, pixels: dict[str, Any]) -> Path:
    """An OpenCLIP snapshot, written by open_clip itself where it can.

    Parameters
    ----------
    folder:
        Where it goes.
    config:
        open_clip's configuration; None: of ViT-B-16.
    pixels:
        Overrides of its preprocessing.
    """
    import open_clip
    from open_clip.model import set_model_preprocess_cfg
    from open_clip.push_to_hf_hub import save_config_for_hf
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict
    from safetensors.torch import save_file

    config = config or open_clip.get_model_config("ViT-B-16")
    settings = {name: value for name, value in config.items() if name != "custom_text"}
    kind = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = randomise(kind(**settings))
    size = {"size": model.visual.image_size}
    set_model_preprocess_cfg(model, merge_preprocess_dict(PreprocessCfg(), {**size, **pixels}))
    folder.mkdir(parents=True, exist_ok=True)
    save_config_for_hf(model, folder / "open_clip_config.json", model_config=config)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    return folder


def _tiny_clip() -> dict[str, Any]:
    vision = {"image_size": 32, "layers": 2, "width": 32, "head_width": 8, "patch_size": 8}
    return {"embed_dim": 24, "vision_cfg": vision, "text_cfg": _TINY_TEXT}


def openclip_reference(path: Path, images: Sequence[str]) -> Vectors:
    """open_clip's own loading, transform and `encode_image`."""
    import open_clip

    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{path}")
    return batches(images, transform, model.eval().encode_image)


def tao_siglip_checkpoint(folder: Path, tiny: bool) -> Path:
    """A TAO SigLIP2 checkpoint of the shape-optimised tower, 256 pixels; with a small text side."""
    from transformers import SiglipConfig, SiglipModel

    vision = _TINY_SIGLIP if tiny else tao_siglip.TYPES[SIGLIP]
    text = {
        "hidden_size": vision["hidden_size"], "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4,
        "vocab_size": 64, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1,
    }  # fmt: skip
    model = randomise(SiglipModel(SiglipConfig(text_config=text, vision_config=vision)))
    inner = {f"model.backbone.inner.{name}": weight for name, weight in model.state_dict().items()}
    state = {**inner, **_calibration(), "model.backbone.mask": _ones(1, 1)}
    return write_checkpoint(folder, state, {"model": {"type": SIGLIP, "image_size": 256, "adaptor_name": None}})


def tao_siglip_reference(path: Path, images: Sequence[str]) -> Vectors:
    """The vision tower and the processor of transformers, then length 1."""
    import torch
    from transformers import SiglipImageProcessorPil, SiglipVisionConfig, SiglipVisionModel

    settings = tao_siglip.TYPES[SIGLIP]
    model = SiglipVisionModel(SiglipVisionConfig(**settings)).eval()
    model.load_state_dict(state_at(path, "model.backbone.inner.vision_model."))
    side = settings["image_size"]
    processor = SiglipImageProcessorPil(size={"height": side, "width": side}, resample=2)
    return batches(
        images,
        lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0],
        lambda batch: torch.nn.functional.normalize(model(batch).pooler_output),
    )


def tao_openclip_checkpoint(folder: Path, tiny: bool) -> Path:
    """A TAO CLIPA checkpoint, NV-CLIP's ViT-L/14 of 224 pixels."""
    import open_clip

    config = _TINY_CLIPA if tiny else tao_openclip.TYPES[CLIPA]
    model = randomise(open_clip.CLIP(**config, text_cfg=_TINY_TEXT, init_logit_bias=-10))
    state = {f"model.backbone.model.{name}": weight for name, weight in model.state_dict().items()}
    side = config["vision_cfg"]["image_size"]
    return write_checkpoint(folder, {**state, **_calibration()}, {"model": {"type": CLIPA, "image_size": side}})


def tao_openclip_reference(path: Path, images: Sequence[str]) -> Vectors:
    """open_clip's whole model and its evaluation transform, then length 1."""
    import open_clip

    config = tao_openclip.TYPES[CLIPA]
    model = open_clip.CLIP(**config, text_cfg=_TINY_TEXT, init_logit_bias=-10).eval()
    model.load_state_dict(state_at(path, "model.backbone.model."))
    side = config["vision_cfg"]["image_size"]
    return batches(images, _clip_transform(side), lambda batch: model.encode_image(batch, normalize=True))


def radio_state(
    *, width: int, depth: int, hidden: int, grid: int = 128, tokens: int = 8, layer_scale: bool = True
) -> dict[str, Any]:
    """Random weights of a RADIO transformer of patch 16, as RADIO names them.

    Parameters
    ----------
    width, depth, hidden:
        Of the transformer, and of its multi-layer perceptrons.
    grid:
        Positions to a side.
    tokens:
        Class tokens and registers together.
    layer_scale:
        Whether its blocks have one; those of B and L do.
    """
    import torch

    torch.manual_seed(1)
    shapes: dict[str, tuple[int, ...]] = {
        "patch_generator.embedder.weight": (width, 3 * 16 * 16),
        "patch_generator.pos_embed": (1, grid * grid, width),
        "patch_generator.cls_token.token": (tokens, width),
    }
    for block in range(depth):
        for name, out, into in (
            ("attn.qkv", 3 * width, width), ("attn.proj", width, width), ("mlp.fc1", hidden, width),
            ("mlp.fc2", width, hidden),
        ):  # fmt: skip
            shapes |= {f"blocks.{block}.{name}.weight": (out, into), f"blocks.{block}.{name}.bias": (out,)}
        for name in ("norm1", "norm2"):
            shapes |= {f"blocks.{block}.{name}.weight": (width,), f"blocks.{block}.{name}.bias": (width,)}
        if layer_scale:
            shapes |= {f"blocks.{block}.ls{part}.gamma": (width,) for part in (1, 2)}
    return {
        name: torch.randn(shape) * (0.5 if len(shape) == 1 else shape[-1] ** -0.5) for name, shape in shapes.items()
    }


def head_state(width: int, hidden: int, output: int, blocks: int) -> dict[str, Any]:
    """Random weights of an adaptor's head."""
    import torch

    torch.manual_seed(2)
    layers = {"fc1": (hidden, width), "final.0": (hidden,), "final.2": (output, hidden)}
    for block in range(blocks):
        layers |= {f"blocks.{block}.0": (hidden,), f"blocks.{block}.2": (hidden, hidden)}
    state = {}
    for name, shape in layers.items():
        state[f"{name}.weight"] = torch.randn(shape) * (0.5 if len(shape) == 1 else shape[-1] ** -0.5)
        state[f"{name}.bias"] = torch.randn(shape[0]) * 0.1
    return state


def tao_radio_checkpoint(folder: Path, tiny: bool) -> Path:
    """A TAO RADIO checkpoint, C-RADIOv3-B with the SigLIP2 adaptor."""
    width, depth, output = (32, 2, 24) if tiny else (768, 12, 1152)
    state = {
        f"model.radio_model.model.{name}": weight
        for name, weight in radio_state(width=width, depth=depth, hidden=4 * width).items()
    }
    adaptor = "model.radio_model.adaptors.siglip2"
    for part in ("head_mlp", "feat_mlp"):
        head = head_state(width, width, output, blocks=2)
        state |= {f"{adaptor}.{part}.{name}": weight for name, weight in head.items()}
    state |= {
        "model.radio_model.summary_idxs": _ones(3),
        f"{adaptor}.text_model.head.weight": _ones(4),
        **_calibration(),
    }
    spec = {"model": {"type": RADIO, "adaptor_name": "siglip", "image_size": 64 if tiny else 224}}
    return write_checkpoint(folder, state, spec)


def tao_radio_reference(path: Path, images: Sequence[str]) -> Vectors:
    """RADIO of transformers with open_clip's evaluation transform, the head in plain functions, then length 1."""
    import torch
    import yaml

    side = yaml.safe_load(spec_of(path).read_text())["model"]["image_size"]
    model = radio_by_transformers(state_at(path, "model.radio_model.model."), heads=4 if side == 64 else 12)
    head = state_at(path, "model.radio_model.adaptors.siglip2.head_mlp.")

    def vectors(batch: Any) -> Any:
        return torch.nn.functional.normalize(by_head(model(batch).last_hidden_state[:, 1], head))

    return batches(images, _clip_transform(side), vectors)


def by_head(summary: Any, head: dict[str, Any]) -> Any:
    """RADIO's adaptor head, written down from its paper's code: norm, GELU, linear, with residual blocks."""
    from torch.nn.functional import gelu, layer_norm, linear

    def layer(values: Any, norm: str, weights: str) -> Any:
        scaled = layer_norm(values, values.shape[-1:], head[f"{norm}.weight"], head[f"{norm}.bias"])
        return linear(gelu(scaled), head[f"{weights}.weight"], head[f"{weights}.bias"])

    values = linear(summary, head["fc1.weight"], head["fc1.bias"])
    block = 0
    while f"blocks.{block}.2.weight" in head:
        values = values + layer(values, f"blocks.{block}.0", f"blocks.{block}.2")
        block += 1
    return layer(values, "final.0", "final.2")


def radio_by_transformers(state: dict[str, Any], *, heads: int) -> Any:
    """The `RadioModel` of transformers with weights that RADIO names; it takes normalised pixels."""
    from safetensors.torch import save_file
    from transformers import RadioConfig, RadioModel

    width = len(state["patch_generator.embedder.weight"])
    grid = int(state["patch_generator.pos_embed"].shape[1] ** 0.5)
    config = RadioConfig(
        hidden_size=width, num_attention_heads=heads, max_img_size=grid * 16, num_cls_tokens=4,
        num_hidden_layers=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        num_registers=len(state["patch_generator.cls_token.token"]) - 4, summary_idxs=[0, 1, 2],
        mlp_ratio=len(state["blocks.0.mlp.fc1.weight"]) / width,
    )  # fmt: skip
    # transformers converts the names itself, all but those of the layer scale, which its C-RADIOv4 has not.
    named = {
        f"radio_model.model.{name}".replace("ls1.gamma", "layer_scale1.lambda1").replace(
            "ls2.gamma", "layer_scale2.lambda1"
        ): weight.contiguous()
        for name, weight in state.items()
    }
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        save_file(named, Path(folder) / "model.safetensors", {"format": "pt"})
        model = RadioModel.from_pretrained(folder).eval()
    model.make_preprocessor_external()
    return model


def changenet_vit_checkpoint(folder: Path, tiny: bool) -> Path:
    """A Visual ChangeNet checkpoint with an NV-DINOv2 backbone, ViT-L/14 with gated layers, or a tiny one."""
    import torch

    model = randomise(_dinov2(tiny))
    state = dict(model.state_dict())
    # DINOv2 has a position for the class token; timm adds it to the token.
    place = torch.randn(1, 1, model.embed_dim)
    state["cls_token"] = state["cls_token"] - place
    state["pos_embed"] = torch.cat([place, state["pos_embed"]], 1)
    state["register_tokens"] = state.pop("reg_token")
    named = {f"model.backbone.{name}": weight for name, weight in state.items()}
    spec = {"model": {"backbone": {"type": "vit_large_patch14_dinov2_swiglu"}}, "dataset": {}}
    return write_checkpoint(folder, {**named, "model.decoder.linear_c4.weight": _ones(3, 3)}, spec)


def _dinov2(tiny: bool) -> Any:
    """DINOv2 of timm with registers, and the gated layers of NV-DINOv2."""
    import timm
    from timm.layers import SwiGLUPacked
    from torch import nn

    sizes = {"embed_dim": 32, "depth": 2, "num_heads": 4, "img_size": 56} if tiny else {}
    gated = {"mlp_layer": SwiGLUPacked, "act_layer": nn.SiLU, "mlp_ratio": 5.25 if tiny else 5472 / 1024}
    return timm.create_model("vit_large_patch14_reg4_dinov2", num_classes=0, **gated, **sizes).eval()


def changenet_vit_reference(path: Path, images: Sequence[str]) -> Vectors:
    """DINOv2 of timm model, torchvision's squash."""
    weights = state_at(path, "model.backbone.")
    tiny = len(weights["norm.weight"]) == 32
    model = _dinov2(tiny)
    from timm.models.vision_transformer import checkpoint_filter_fn

    # With a mask token, timm takes the weights for Meta's and converts them itself.
    converted = checkpoint_filter_fn({**weights, "mask_token": _ones(1)}, model)
    model.load_state_dict({name: converted[name] for name in model.state_dict()})
    return batches(images, _imagenet_transform(56 if tiny else 518), model)


def changenet_radio_checkpoint(folder: Path, tiny: bool) -> Path:
    """A Visual ChangeNet checkpoint with a C-RADIOv2 backbone: ViT-B/16, or a tiny one."""
    width, depth = (32, 2) if tiny else (768, 12)
    backbone = radio_state(width=width, depth=depth, hidden=4 * width, layer_scale=False)
    state = {f"model.backbone.radio.radio.model.{name}": weight for name, weight in backbone.items()}
    state |= {"model.backbone.spm.stem.0.weight": _ones(2), "model.decoder.linear_c4.weight": _ones(3, 3)}
    side = 64 if tiny else 224
    spec = {
        "model": {"backbone": {"type": "c_radio_v2_vit_base_patch16_224"}},
        "dataset": {"classify": {"image_width": side, "image_height": side}},
    }
    return write_checkpoint(folder, state, spec)


def changenet_radio_reference(path: Path, images: Sequence[str]) -> Vectors:
    """RADIO of transformers: its summary."""
    weights = state_at(path, "model.backbone.radio.radio.model.")
    tiny = len(weights["patch_generator.embedder.weight"]) == 32
    model = radio_by_transformers(weights, heads=4 if tiny else 12)
    return batches(images, _imagenet_transform(64 if tiny else 224), lambda batch: model(batch).summary)


def _clip_transform(side: int) -> Any:
    import open_clip

    return open_clip.image_transform(side, is_train=False, mean=tao_openclip.CLIP_MEAN, std=tao_openclip.CLIP_STD)


def _imagenet_transform(side: int) -> Any:
    from torchvision import transforms

    return transforms.Compose(
        [
            transforms.Resize((side, side)), transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )  # fmt: skip


def _ones(*shape: int) -> Any:
    import torch

    return torch.ones(shape)


def _calibration() -> dict[str, Any]:
    return {"model.logit_scale": _ones(), "model.logit_bias": _ones()}


def _with_spec(path: Path) -> dict[str, str]:
    return {"model_config_path": str(spec_of(path))}


#: By the value of the setting `model`, a variant behind a colon: writes a model and returns `model_path`.
MODELS: dict[str, Callable[[Path, bool], Path]] = {
    "timm": timm_checkpoint,
    "OpenCLIP": openclip,
    "TAO: SigLIP2": tao_siglip_checkpoint,
    "TAO: OpenCLIP": tao_openclip_checkpoint,
    "TAO: RADIO": tao_radio_checkpoint,
    "TAO: Visual ChangeNet, ViT": changenet_vit_checkpoint,
    "TAO: Visual ChangeNet, C-RADIO": changenet_radio_checkpoint,
}
#: By the same: the vectors as the family's own library computes them.
REFERENCES: dict[str, Callable[[Path, Sequence[str]], Vectors]] = {
    "timm": timm_reference,
    "OpenCLIP": openclip_reference,
    "TAO: SigLIP2": tao_siglip_reference,
    "TAO: OpenCLIP": tao_openclip_reference,
    "TAO: RADIO": tao_radio_reference,
    "TAO: Visual ChangeNet, ViT": changenet_vit_reference,
    "TAO: Visual ChangeNet, C-RADIO": changenet_radio_reference,
}
#: By the same: further settings, of a function of `model_path`.
SETTINGS: dict[str, Callable[[Path], dict[str, str]]] = {
    "timm": _timm_settings,
    **{name: _with_spec for name in MODELS if name.startswith("TAO")},
}
