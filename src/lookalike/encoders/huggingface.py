"""Vision towers through transformers, from a hub id or a local snapshot folder: CLIP, SigLIP, DINO, C-RADIO.

Vectors (contract section 6 for the first two), raw, float32, not normalised:

- CLIP: the pooled class token after the final layer norm and the visual projection
- SigLIP and SigLIP2: the attention-pooling head. Fixed-resolution SigLIP2 models have SigLIP's architecture
- DINOv2, DINOv3: the class token after the final layer norm; of a ConvNeXt, the normalised mean of all places
- C-RADIO: the summary, that is its chosen class tokens one after another

`pooling` takes the class token or a mean of the patch tokens of `last_hidden_state` instead, as transformers returns
it. `layer` ends the model after that block (of a ConvNeXt: after that stage, whose output has no norm); what follows
the blocks stays.
"""

from __future__ import annotations

import pickle
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lookalike.encoders.assemble import Loaded, assemble
from lookalike.encoders.base import LoadRequest, TorchEncoder, weights_digest
from lookalike.encoders.naflex import turned, unpack
from lookalike.encoders.pooling import pool, pooling_name
from lookalike.encoders.processor import read_preprocessing, with_side
from lookalike.encoders.snapshot import check_family, not_loaded, quiet_transformers, read_config_json
from lookalike.encoders.towers import TOWERS, Tower
from lookalike.errors import ConfigError, EncoderError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from lookalike.images.preprocess import Preprocessing


def load(family_name: str, request: LoadRequest) -> TorchEncoder:
    """Load the vision tower of a model.

    Parameters
    ----------
    family_name:
        The family that was asked for.
    request:
        `model_path` is a hub id or a snapshot folder.

    Raises
    ------
    EncoderError
        When the model cannot be found or read, is of another family, or lacks weights.
    ConfigError
        When the model does not take a setting that others of its family do.
    """
    with quiet_transformers():
        content = read_config_json(request.model_path)
        check_family(family_name, content, request.model_path)
        if request.trust_remote_code:
            from lookalike.encoders.remote import load_with_code

            return load_with_code(family_name, content, request)
        return _load(content, request)


def _load(content: dict[str, Any], request: LoadRequest) -> TorchEncoder:
    from lookalike.encoders.attention import without_copies

    tower = TOWERS[str(content.get("model_type") or "radio")]
    config = _vision_config(config_of(content, request.model_path))
    read = read_preprocessing(request.model_path, always_resizes=tower.family == "C-RADIO")
    preprocessing = with_side(read, request.image_size) if request.image_size else read
    _check_settings(tower, request)
    resizes = preprocessing.shape != read.shape
    _check_size(tower, config, preprocessing, request, resizes)
    module = read_weights(_class(tower.vision_class), config, request.model_path)
    digest = weights_digest(module.state_dict())
    without_copies(module)
    layer = _end_after(module, tower, request.layer)
    _fix_positions(module, tower, preprocessing, resizes)
    if tower.family == "C-RADIO":
        preprocessing = _with_conditioner(module, preprocessing)
    variable = tower.family == "SigLIP2"  # grids of patches
    forward = _naflex_forward(request.pooling) if variable else _forward(tower, config, request.pooling, resizes)
    chosen = tower.pooling if request.pooling == "model" else request.pooling
    loaded = Loaded(
        module,
        forward,
        architecture=tower.vision_class,
        dimension=tower.dimension(config, request.pooling, layer),
        pooling=pooling_name(chosen, layer),
        preprocessing=preprocessing,
        libraries=("transformers",),
        recordable=tower.graphs,
        packable=True,
        weights=digest,
        turn=turned if variable else None,
    )
    return assemble(loaded, tower.family, request)


def _forward(tower: Tower, config: Any, pooling: str, resizes: bool) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """The forward pass of a tower that takes images."""
    extra = {"interpolate_pos_encoding": True} if tower.fixed and resizes else {}
    before = tower.tokens_before(config)

    def forward(module: Any, batch: torch.Tensor) -> torch.Tensor:
        output = module(pixel_values=batch, **extra)
        vectors: torch.Tensor
        if pooling == "model":
            vectors = getattr(output, tower.vector)
        elif pooling == "cls":
            vectors = output.last_hidden_state[:, 0]
        else:
            vectors = pool(output.last_hidden_state[:, before:], pooling)
        return vectors

    return forward


def _naflex_forward(pooling: str) -> Callable[[Any, torch.Tensor], torch.Tensor]:
    """The forward pass of a tower that takes patches of variable grids."""

    def forward(module: Any, batch: torch.Tensor) -> torch.Tensor:
        values, grids, present = unpack(batch)
        output = module(pixel_values=values, pixel_attention_mask=present.int(), spatial_shapes=grids)
        if pooling == "model":
            vectors: torch.Tensor = output.pooler_output
            return vectors
        return pool(output.last_hidden_state, pooling, present)

    return forward


def _check_settings(tower: Tower, request: LoadRequest) -> None:
    """Refuse a pooling that others of the family have, but not this model."""
    if request.pooling != "model" and request.pooling not in tower.poolings:
        raise ConfigError(
            f"pooling={request.pooling!r} is not possible: a {tower.vision_class} has no class token",
            where=request.model_path,
            hint=f"use one of: model, {', '.join(sorted(tower.poolings))}",
        )


def _check_size(tower: Tower, config: Any, preprocessing: Preprocessing, request: LoadRequest, resizes: bool) -> None:
    """Refuse images that the model cannot take."""
    if preprocessing.resize == "patches":
        if not preprocessing.most_patches:
            patch = preprocessing.size[0]
            raise ConfigError(f"image_size={request.image_size} is less than one patch of {patch}", hint="use more")
        return
    made = preprocessing.crop or preprocessing.size
    if tower.fixed and not resizes and made != (config.image_size, config.image_size):
        wanted = config.image_size
        raise EncoderError(
            f"its processor makes images of {made[0]} x {made[1]}, its config.json wants {wanted} x {wanted}",
            where=request.model_path,
            hint="the snapshot mixes files of two models; fetch it again",
        )
    # A model whose own size is no multiple leaves a rim out (SigLIP So400m/14 of 384 pixels); C-RADIO's code cannot.
    if not resizes and tower.family != "C-RADIO":
        return
    # A ConvNeXt halves the sides five times, and takes what is left.
    patch = 32 if hasattr(config, "hidden_sizes") else config.patch_size
    step = patch if isinstance(patch, int) else max(patch)
    if made[0] % step or made[1] % step or not min(made):
        said = f"image_size={request.image_size}" if request.image_size else f"its processor's {made[0]} x {made[1]}"
        below = max(step, made[0] // step * step)
        raise ConfigError(
            f"{said} is not possible: the model takes sides that are multiples of {step}",
            where=request.model_path,
            hint=f"use image_size={below}, for example",
        )


def _end_after(module: Any, tower: Tower, layer: int) -> int:
    """Leave out the blocks after `layer`; returns it, or -1 where it is the last one."""
    if layer == -1:
        return layer
    parent, _, name = tower.blocks.rpartition(".")
    blocks = module.get_submodule(tower.blocks)
    if layer >= len(blocks):
        what = "stages" if hasattr(module.config, "hidden_sizes") else "blocks"
        raise ConfigError(
            f"layer={layer} is not possible: the model has {len(blocks)} {what}", hint=f"use 0 to {len(blocks) - 1}"
        )
    if layer == len(blocks) - 1:
        return -1
    setattr(module.get_submodule(parent), name, blocks[: layer + 1])
    if hasattr(module.config, "hidden_sizes"):
        import torch

        module.layer_norm = torch.nn.Identity()  # it is made for the channels of the last stage
    return layer


def _fix_positions(module: Any, tower: Tower, preprocessing: Preprocessing, resizes: bool) -> None:
    """Interpolate learned positions once, as transformers does in every pass: all images have one size.

    OpenVINO would also do it otherwise (its bicubic resize does not widen the filter where it makes smaller).
    """
    import torch

    embeddings = next((part for part in module.modules() if hasattr(part, "interpolate_pos_encoding")), None)
    if embeddings is None or (tower.fixed and not resizes):
        return
    _, height, width = preprocessing.shape
    patch = module.config.patch_size
    tokens = torch.empty(1, tower.prefix + (height // patch) * (width // patch), module.config.hidden_size)
    with torch.no_grad():
        positions = embeddings.interpolate_pos_encoding(tokens, height, width).clone()
    embeddings.register_buffer("fixed_positions", positions, persistent=False)
    embeddings.interpolate_pos_encoding = lambda *_: embeddings.fixed_positions


def _with_conditioner(module: Any, preprocessing: Preprocessing) -> Preprocessing:
    """Let the preprocessing normalise in place of C-RADIO's model: the same numbers, also in half precision.

    A processor that normalises itself is left alone, and so is the model.
    """
    if preprocessing.mean != (0.0, 0.0, 0.0) or preprocessing.std != (1.0, 1.0, 1.0):
        return preprocessing
    conditioner = module.make_preprocessor_external()
    mean, std = (buffer.float().flatten().tolist() for buffer in (conditioner.norm_mean, conditioner.norm_std))
    return replace(preprocessing, mean=tuple(mean), std=tuple(std))


def _class(name: str) -> Any:
    """A class of transformers."""
    import transformers

    try:
        return getattr(transformers, name)
    except AttributeError as error:
        raise EncoderError(
            f"transformers {transformers.__version__} has no {name}", hint="update it: pip install -U transformers"
        ) from error


def config_of(content: dict[str, Any], model_path: str) -> Any:
    """The model's configuration as transformers' object; `content` is its config.json."""
    from transformers import AutoConfig

    if not content.get("model_type"):
        from lookalike.encoders.radio import native_config

        return native_config(content, model_path)
    try:
        return AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise not_loaded(model_path, "its config.json", error) from error


def _vision_config(config: Any) -> Any:
    """The vision tower's part of a configuration that has two towers, or the whole of one that has not."""
    vision = getattr(config, "vision_config", config)
    if vision is not config and hasattr(config, "projection_dim"):
        # The whole model's value is the one in force; a vision_config may hold an unrelated default.
        vision.projection_dim = config.projection_dim
    return vision


def read_weights(tower_class: Any, config: Any, model_path: str) -> Any:
    """One tower of a model in float32, with every weight from the file.

    transformers fills missing weights with random numbers and only logs it; that is refused here.
    """
    import torch
    from safetensors import SafetensorError

    try:
        module, report = tower_class.from_pretrained(
            model_path, config=config, dtype=torch.float32, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except pickle.UnpicklingError as error:
        raise EncoderError(
            "its weights cannot be loaded: they are a pickle with more in it than tensors, which could run code",
            where=model_path,
            hint="use a snapshot with model.safetensors",
        ) from error
    except (OSError, ValueError, RuntimeError, EOFError, SafetensorError) as error:
        raise not_loaded(model_path, "its weights", error) from error
    missing = sorted({*report["missing_keys"], *(key for key, *_ in report.get("mismatched_keys", ()))})
    if missing:
        raise EncoderError(
            f"{len(missing)} weights are missing or of another shape, the first: {missing[:3]}",
            where=model_path,
            hint="the snapshot is damaged or of another architecture; fetch it again",
        )
    return module.eval()
