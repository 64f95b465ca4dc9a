"""CLIP and SigLIP vision towers through transformers, from a hub id or a local snapshot folder.

Vectors (contract section 6): CLIP's pooled class token after the final layer norm and the visual projection;
SigLIP's attention-pooling head. Raw, float32, not normalised. Fixed-resolution SigLIP2 models have SigLIP's
architecture and load as SigLIP.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from lookalike.encoders.vectors import Finish
from lookalike.errors import EncoderError
from lookalike.images.preprocess import Preprocessing


@dataclass(frozen=True)
class Family:
    """What differs between the families that transformers loads.

    Attributes
    ----------
    model_types:
        Values of `model_type` in a config.json that belong to the family.
    vision_class:
        The transformers class of the vision tower.
    output:
        The attribute of its output that is the vector.
    pooling:
        For the identity.
    """

    model_types: frozenset[str]
    vision_class: str
    output: str
    pooling: str


FAMILIES = {
    "CLIP": Family(
        frozenset({"clip", "clip_vision_model"}),
        "CLIPVisionModelWithProjection",
        "image_embeds",
        "class_token",
    ),
    "SigLIP": Family(frozenset({"siglip", "siglip_vision_model"}), "SiglipVisionModel", "pooler_output", "attention"),
}


def load(family_name: str, request: LoadRequest) -> TorchEncoder:
    """Load the vision tower of a CLIP or SigLIP model.

    Parameters
    ----------
    family_name:
        A key of `FAMILIES`.
    request:
        `model_path` is a hub id or a snapshot folder.

    Raises
    ------
    EncoderError
        When the model cannot be found or read, is of another family, or lacks weights.
    """
    with quiet_transformers():
        return _load(family_name, request)


def _load(family_name: str, request: LoadRequest) -> TorchEncoder:
    import torch
    import transformers

    from lookalike.encoders.graph import GraphedForward

    family = FAMILIES[family_name]
    config = read_config(request.model_path)
    if config.model_type not in family.model_types:
        raise EncoderError(
            f"model={family_name} was asked for, but its config.json says model_type={config.model_type!r}",
            where=request.model_path,
            hint=_right_family(config.model_type),
        )
    device = choose_device(request.device)
    preprocessing = read_preprocessing(request.model_path)
    made, wanted = preprocessing.crop or preprocessing.size, _vision_config(config).image_size
    if made != (wanted, wanted):
        raise EncoderError(
            f"its processor makes images of {made[0]} x {made[1]}, its config.json wants {wanted} x {wanted}",
            where=request.model_path,
            hint="the snapshot mixes files of two models; fetch it again",
        )
    vision_class = getattr(transformers, family.vision_class)
    module = read_weights(vision_class, _vision_config(config), request.model_path)
    # The digest is that of the weights as they are in the file, whatever they are computed in.
    digest = weights_digest(module.state_dict())
    precision = choose_precision(request.precision, device, family_name)
    # With channels last, the patch convolution hands on tokens that lie one after another. Otherwise every residual
    # connection and layer norm of the model works on strided memory: on an H100 that takes 40 % more time.
    module = module.to(device, torch_dtype(precision), memory_format=torch.channels_last).requires_grad_(False)
    finish = Finish.of(request, reference=False)
    identity = EncoderIdentity(
        ModelIdentity(
            family=family_name,
            architecture=family.vision_class,
            dimension=_dimension(module),
            weights=digest,
            preprocessing=request.preprocessing_digest(preprocessing),
            pooling=finish.pooling(family.pooling),
            normalisation=finish.normalisation,
        ),
        Numerics(precision=precision, runtime=f"torch-{device.type}", decoder="pillow"),
        Origin(request.model_path, {"torch": torch.__version__, "transformers": transformers.__version__}),
    )

    def forward(batch: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = getattr(module(pixel_values=batch), family.output)
        return vectors

    finished = finish.wrap(forward)
    called = GraphedForward(finished) if device.type == "cuda" else finished
    return TorchEncoder(identity, preprocessing, called, device, torch_dtype(precision), Slices.of(device, cpu=8))


def read_preprocessing(model_path: str) -> Preprocessing:
    """What the processor that the snapshot names does, in its Pillow-backed form.

    transformers takes its torchvision processor where torchvision is installed; its pixels differ by up to two
    levels, so the backend is chosen by name.

    Raises
    ------
    EncoderError
        When there is no processor, or it does something that is not a plain resize, crop and normalise.
    """
    from transformers import AutoImageProcessor
    from transformers.image_processing_backends import PilBackend

    try:
        processor = AutoImageProcessor.from_pretrained(model_path, backend="pil", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise not_loaded(model_path, "its preprocessing (preprocessor_config.json)", error) from error
    kind = type(processor)
    plain = isinstance(processor, PilBackend) and kind._preprocess is PilBackend._preprocess
    if not plain or not (processor.do_resize and processor.do_rescale and processor.do_normalize):
        raise EncoderError(
            f"its processor {kind.__name__} does more than resize, crop and normalise",
            where=model_path,
            hint="use a snapshot of a CLIP or fixed-resolution SigLIP model",
        )
    size, crop = processor.size, processor.crop_size if processor.do_center_crop else None
    if size.get("shortest_edge"):
        resize, extent = "shortest_edge", (size["shortest_edge"], size["shortest_edge"])
    elif size.get("height") and size.get("width"):
        resize, extent = "squash", (size["height"], size["width"])
    else:
        raise EncoderError(f"its processor resizes to {dict(size)}, which is not supported", where=model_path)
    try:
        return Preprocessing(
            resize=resize,
            size=extent,
            resample=int(processor.resample),
            crop=(crop["height"], crop["width"]) if crop else None,
            crop_rounding="floor",
            scale=float(processor.rescale_factor),
            mean=_triple(processor.image_mean),
            std=_triple(processor.image_std),
        )
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise EncoderError(
            f"its preprocessor_config.json has a value of the wrong kind: {error}",
            where=model_path,
            hint="image_mean, image_std and rescale_factor must be numbers, resample the number of a Pillow filter; "
            "fetch the snapshot again",
        ) from error


def read_config(model_path: str) -> Any:
    """The model's own configuration."""
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(model_path, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise not_loaded(model_path, "its config.json", error) from error


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from reporting, on every load, the other tower, which is left out on purpose."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


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
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise not_loaded(model_path, "its weights", error) from error
    missing = sorted({*report["missing_keys"], *(key for key, *_ in report.get("mismatched_keys", ()))})
    if missing:
        raise EncoderError(
            f"{len(missing)} weights are missing or of another shape, the first: {missing[:3]}",
            where=model_path,
            hint="the snapshot is damaged or of another architecture; fetch it again",
        )
    return module.eval()


def _dimension(module: Any) -> int:
    """Length of the vectors."""
    config = module.config
    return int(config.projection_dim if hasattr(module, "visual_projection") else config.hidden_size)


def _right_family(model_type: str) -> str:
    """What to write instead of a family that does not fit."""
    for name, family in FAMILIES.items():
        if model_type in family.model_types:
            return f"write model={name}, or name another model_path"
    known = sorted(kind for family in FAMILIES.values() for kind in family.model_types)
    return f"name a model_path whose config.json has one of model_type={known}"


def not_loaded(model_path: str, part: str, error: BaseException) -> EncoderError:
    """An error that tells a missing folder from a missing file from a hub that cannot be reached."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if Path(model_path).is_dir():
        hint = "the folder must hold config.json, preprocessor_config.json and model.safetensors, as saved from the hub"
    else:
        hint = (
            "no such folder here, so it was taken for a Hugging Face id; check the path or the id. Without a "
            "network, copy a snapshot of the model to this machine and give its folder"
        )
    return EncoderError(f"{part} cannot be loaded: {first}", where=model_path, hint=hint)


def _triple(values: Any) -> tuple[float, float, float]:
    """Per-channel values, also where the processor gives one number for all."""
    numbers = [values] * 3 if isinstance(values, int | float) else list(values)
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
