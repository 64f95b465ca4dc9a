"""OpenCLIP models through open_clip: a snapshot folder, a hub id, or a named architecture with a checkpoint file.

The vector is the image tower's projected output, raw, float32, not normalised: what `encode_image` gives. The text
tower is loaded for texts only (`texts_openclip`). The extra ``openclip``.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lookalike.encoders.assemble import Loaded, assemble
from lookalike.encoders.base import LoadRequest, TorchEncoder
from lookalike.encoders.checkpoints import CHECKPOINT_SUFFIXES, State, fill, read_state
from lookalike.errors import ConfigError, EncoderError, MissingDependency
from lookalike.images.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

CONFIG_FILE = "open_clip_config.json"
#: Names of the weights in a snapshot, the first that is there is taken; open_clip's own order.
WEIGHTS_FILES = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
)
#: What an OpenCLIP model has beside its image tower (`visual.`): the text tower, and the caption decoder of CoCa.
TEXT_SIDE = (
    "transformer.", "token_embedding.", "positional_embedding", "ln_final.", "text_projection", "text.",
    "text_decoder.", "logit_scale", "logit_bias", "attn_mask",
)  # fmt: skip
_FILTERS = {"bilinear": 2, "bicubic": 3, "random": 3}
_RESIZES = {"shortest": "shortest_edge", "squash": "squash", "longest": "longest_edge"}


@dataclass(frozen=True)
class Source:
    """Where a model comes from: its name, open_clip's configuration, what a snapshot says of pixels, the weights."""

    name: str
    config: dict[str, Any]
    pixels: dict[str, Any]
    weights: Path


def load(family_name: str, request: LoadRequest) -> TorchEncoder:
    """Load the image tower of an OpenCLIP model.

    Parameters
    ----------
    family_name:
        ``OpenCLIP``, for the identity.
    request:
        `model_path` is a folder with `open_clip_config.json` and weights, a hub id, or a checkpoint file (then
        `architecture` is open_clip's name of the model). `image_size` gives another input size, with interpolated
        positions, as `force_image_size` of open_clip does.

    Raises
    ------
    EncoderError
        When the model or its weights cannot be loaded, or the weights do not fit.
    ConfigError
        When a checkpoint file comes without `architecture`.
    MissingDependency
        When open_clip is not installed.
    """
    require_open_clip()
    source = find_source(request)
    tower, weights = build_tower(source.config, request.model_path, request.image_size), read_state(source.weights)
    weights = {name.removeprefix("module."): weight for name, weight in weights.items()}
    state, others = image_side(weights, "visual.", TEXT_SIDE)
    state = fit_positions(tower, state)
    fill(
        tower, state, where=str(source.weights), what=source.name, hint="the weights are of another model",
        prefix="visual.", unknown=others,
    )  # fmt: skip
    set_trunk_size(tower, request.image_size, request.model_path)
    return assemble(
        Loaded(
            module=tower,
            forward=encode,
            architecture=source.name,
            dimension=int(source.config["embed_dim"]),
            pooling=pooling_of(source.config),
            preprocessing=read_preprocessing(tower, source.pixels, request.model_path),
            libraries=("open_clip", "timm"),
        ),
        family_name,
        request,
    )


def pooling_of(config: dict[str, Any]) -> str:
    """How a vector comes about, as far as the weights do not tell: with which GELU."""
    return "model, quick GELU" if config.get("quick_gelu") else "model"


def require_open_clip() -> None:
    """Refuse to go on without the package.

    Raises
    ------
    MissingDependency
        Names the extra.
    """
    if importlib.util.find_spec("open_clip") is None:
        raise MissingDependency.of("open_clip_torch", "openclip", "for OpenCLIP models")


def named_config(name: str) -> dict[str, Any]:
    """open_clip's own configuration of a model.

    Raises
    ------
    ConfigError
        When open_clip knows no such model; names near ones.
    """
    import open_clip

    config: dict[str, Any] | None = open_clip.get_model_config(name.replace("/", "-"))
    if config is None:
        near = ", ".join(difflib.get_close_matches(name, open_clip.list_models(), n=3))
        raise ConfigError(
            f"open_clip has no model {name!r}", hint=f"did you mean {near}?" if near else "check the name"
        )
    return config


def build_tower(config: dict[str, Any], where: str, image_size: int = 0) -> Any:
    """The image tower of a configuration, with random weights.

    Only the tower: the text side of some models is a Hugging Face model whose configuration is downloaded.

    Parameters
    ----------
    config:
        As in open_clip's `model_configs`.
    where:
        For the error.
    image_size:
        Another side of the input than the configuration's; 0: that one.

    Raises
    ------
    EncoderError
        When open_clip cannot build it, or not in that size.
    """
    from open_clip.model import CLIPVisionCfg, _build_vision_tower

    try:
        vision = {**config["vision_cfg"], "timm_model_pretrained": False}
        if image_size:
            vision["image_size"] = image_size
        settings = CLIPVisionCfg(**vision)
        sides = settings.image_size if isinstance(settings.image_size, list | tuple) else [settings.image_size]
        if image_size and isinstance(settings.layers, list | tuple):
            raise EncoderError(
                "image_size cannot be chosen with a ResNet of OpenCLIP", where=where, hint="leave it out"
            )
        if not settings.timm_model_name and any(side < settings.patch_size for side in sides):
            raise EncoderError(
                f"image_size={image_size} is less than one patch of {settings.patch_size} pixels",
                where=where,
                hint="use a larger one",
            )
        return _build_vision_tower(config["embed_dim"], settings, config.get("quick_gelu", False))
    except (KeyError, TypeError, ValueError, RuntimeError, AssertionError) as error:
        raise EncoderError(
            f"open_clip cannot build the image tower: {error!r}",
            where=where,
            hint=f"{CONFIG_FILE} must hold embed_dim and vision_cfg as open_clip writes them",
        ) from error


def image_side(state: State, prefix: str, aside: tuple[str, ...]) -> tuple[State, list[str]]:
    """The weights under a prefix, named without it, and the names that are neither there nor `aside`."""
    image = {name.removeprefix(prefix): weight for name, weight in state.items() if name.startswith(prefix)}
    return image, [name for name in state if not name.startswith((prefix, *aside))]


def fit_positions(tower: Any, state: State) -> State:
    """Positions of a file, interpolated by open_clip to the grid of the tower where that is another one."""
    from open_clip.model import resize_pos_embed

    if "positional_embedding" not in state or not hasattr(tower, "grid_size"):
        return state
    named = {"visual.positional_embedding": state["positional_embedding"]}
    resize_pos_embed(named, SimpleNamespace(visual=tower))
    return {**state, "positional_embedding": named["visual.positional_embedding"]}


def set_trunk_size(tower: Any, image_size: int, where: str) -> None:
    """Interpolate the positions of a timm trunk to another input size, after its weights are loaded."""
    if not image_size or not hasattr(tower, "trunk"):
        return
    try:
        tower.set_input_size((image_size, image_size))
    except (AttributeError, AssertionError, TypeError, ValueError, RuntimeError) as error:
        raise EncoderError(
            f"its image tower does not take image_size={image_size}: {error}", where=where, hint="leave it out"
        ) from error


def encode(tower: Any, batch: torch.Tensor) -> torch.Tensor:
    """What open_clip's `encode_image` gives; CoCa's tower gives tokens too."""
    vectors = tower(batch)
    pooled: torch.Tensor = vectors[0] if isinstance(vectors, tuple) else vectors
    return pooled


def read_preprocessing(tower: Any, pixels: dict[str, Any], where: str) -> Preprocessing:
    """What open_clip's evaluation transform does for this model.

    Parameters
    ----------
    tower:
        Gives the input size.
    pixels:
        `preprocess_cfg` of a snapshot; open_clip's defaults hold for what it leaves out.
    where:
        For the error.

    Raises
    ------
    EncoderError
        When it pads with a colour, or its input is not square and not squashed.
    """
    from open_clip.transform import PreprocessCfg, merge_preprocess_dict

    merged = merge_preprocess_dict(PreprocessCfg(), pixels)
    try:
        settings = PreprocessCfg(**{**merged, "size": getattr(tower, "image_size", merged["size"])})
        height, width = settings.input_size[-2:]
        resize = _RESIZES[settings.resize_mode]
        if (resize != "squash" and height != width) or (resize == "longest_edge" and settings.fill_color):
            raise EncoderError(
                f"its preprocessing (resize_mode={settings.resize_mode!r}, {height} x {width}, "
                f"fill_color={settings.fill_color}) is not supported",
                where=where,
                hint="use a model with a square input",
            )
        return Preprocessing(
            resize=resize,
            size=(height, width),
            resample=_FILTERS[settings.interpolation],
            crop=None if resize == "squash" else (height, width),
            crop_rounding="round",
            scale=1 / 255,
            mean=_triple(settings.mean),
            std=_triple(settings.std),
            arithmetic="torch",
        )
    except (KeyError, TypeError, ValueError, IndexError, AssertionError) as error:
        raise EncoderError(
            f"preprocess_cfg has a value of the wrong kind: {error!r}", where=where, hint=f"correct {CONFIG_FILE}"
        ) from error


def _triple(values: Any) -> tuple[float, float, float]:
    """Per-channel values, also where there is one number for all."""
    numbers = [values] * 3 if isinstance(values, int | float) else list(values)
    return float(numbers[0]), float(numbers[1]), float(numbers[2])


def find_source(request: LoadRequest) -> Source:
    """The model that is asked for, fetched from the hub where it is not here.

    Raises
    ------
    EncoderError
        When it is not there, or its configuration cannot be read.
    ConfigError
        When a checkpoint file comes without `architecture`, or a whole model with it.
    """
    path = Path(request.model_path)
    if path.suffix.lower() in CHECKPOINT_SUFFIXES and not path.is_dir():
        if not request.architecture:
            raise ConfigError(
                "architecture is not set, and a checkpoint file does not name its model",
                where=str(path),
                hint="add architecture=NAME, a model of open_clip such as architecture=ViT-B-32",
            )
        # open_clip takes a slash for a hyphen; the identity has one spelling.
        return Source(request.architecture.replace("/", "-"), named_config(request.architecture), {}, path)
    if request.architecture:
        raise ConfigError(
            "architecture is for a checkpoint file, and model_path names a model",
            where=request.model_path,
            hint="leave architecture out",
        )
    config_path, weights = _in_folder(path) if path.is_dir() else _from_hub(request.model_path)
    try:
        content = json.loads(config_path.read_text("utf-8"))
        config, pixels = content["model_cfg"], content.get("preprocess_cfg", {})
        return Source(_name_of(config), config, pixels, weights)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise EncoderError(
            f"{CONFIG_FILE} cannot be read: {error!r}",
            where=request.model_path,
            hint="it must hold model_cfg, as open_clip writes it",
        ) from error


def _name_of(config: dict[str, Any]) -> str:
    """The name that open_clip has for a configuration, or what its tower is, with a digest of its settings."""
    import open_clip

    known = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    for keys in (("embed_dim", "vision_cfg", "quick_gelu", "text_cfg"), ("embed_dim", "vision_cfg", "quick_gelu")):
        for name, one in known.items():
            if all((one.get(key) or None) == (config.get(key) or None) for key in keys):
                return str(name)
    vision = config["vision_cfg"]
    tower = vision.get("timm_model_name") or f"ViT of width {vision.get('width')}, {vision.get('layers')} layers"
    return f"{tower} ({digest_of_settings(vision)})"


def digest_of_settings(settings: dict[str, Any]) -> str:
    """Eight letters that differ where settings do: weights do not tell the number of heads, for example."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]


def _in_folder(folder: Path) -> tuple[Path, Path]:
    """Configuration and weights of a snapshot folder."""
    weights = next((folder / name for name in WEIGHTS_FILES if (folder / name).is_file()), None)
    missing = [CONFIG_FILE] * (not (folder / CONFIG_FILE).is_file()) + [" or ".join(WEIGHTS_FILES)] * (weights is None)
    if missing or weights is None:
        raise EncoderError(
            f"the folder lacks {' and '.join(missing)}",
            where=str(folder),
            hint="give a snapshot of an OpenCLIP model as it is on the hub",
        )
    return folder / CONFIG_FILE, weights


def _from_hub(model_id: str) -> tuple[Path, Path]:
    """The same of a hub id, from the cache or the hub."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError

    try:
        config = Path(hf_hub_download(model_id, CONFIG_FILE))
        for name in WEIGHTS_FILES:
            # Also raised offline for a file that may exist, only not here; the next one may be in the cache.
            with contextlib.suppress(EntryNotFoundError):
                return config, Path(hf_hub_download(model_id, name))
        raise EncoderError(f"none of {', '.join(WEIGHTS_FILES)} is there", where=model_id)
    except (OSError, HFValidationError, HfHubHTTPError) as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise EncoderError(
            f"{CONFIG_FILE} cannot be loaded: {first}",
            where=model_id,
            hint="no such folder here, so it was taken for a Hugging Face id; check the path or the id. Without a "
            "network, copy a snapshot of the model to this machine and give its folder",
        ) from error
