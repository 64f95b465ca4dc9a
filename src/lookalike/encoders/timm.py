"""timm models: a name, a name with a checkpoint file, or a snapshot folder as timm saves them.

The vector is the model without its classifier: pooled features, raw, float32, not normalised. Preprocessing
comes from the model's pretrained configuration, as timm's own evaluation transform.
"""

from __future__ import annotations

import difflib
import math
import pickle
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

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
from lookalike.errors import ConfigError, EncoderError
from lookalike.images.preprocess import Preprocessing

#: Endings of a file with weights; anything else in `model_path` is a folder or a name.
CHECKPOINT_SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"})
#: What torch raises on a file that holds no plain state dict.
_UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)
_FILTERS = {"nearest": 0, "lanczos": 1, "bilinear": 2, "bicubic": 3, "box": 4, "hamming": 5}


def load(family_name: str, request: LoadRequest) -> TorchEncoder:
    """Load a timm model as an encoder.

    Parameters
    ----------
    family_name:
        ``timm``, for the identity.
    request:
        `model_path` is a timm name, a checkpoint file (then `architecture` is the name), or a folder with
        `config.json` and weights.

    Raises
    ------
    EncoderError
        When the model or its weights cannot be loaded, or the weights do not fit.
    ConfigError
        When a checkpoint file comes without `architecture`.
    """
    import timm
    import torch

    device = choose_device(request.device)
    module = _create(request).eval()
    digest = weights_digest(module.state_dict())
    precision = choose_precision(request.precision, device, family_name)
    # Channels last is how convolutions are computed fastest, on a CPU as on a GPU.
    module = module.to(device, torch_dtype(precision), memory_format=torch.channels_last).requires_grad_(False)
    preprocessing = read_preprocessing(module, request.model_path)
    finish = Finish.of(request, reference=False)
    identity = EncoderIdentity(
        ModelIdentity(
            family=family_name,
            architecture=str(module.pretrained_cfg["architecture"]),
            dimension=int(module.head_hidden_size),
            weights=digest,
            preprocessing=request.preprocessing_digest(preprocessing),
            pooling=finish.pooling("model"),
            normalisation=finish.normalisation,
        ),
        Numerics(precision=precision, runtime=f"torch-{device.type}", decoder="pillow"),
        Origin(request.model_path, {"torch": torch.__version__, "timm": timm.__version__}),
    )

    def forward(batch: torch.Tensor) -> torch.Tensor:
        vectors: torch.Tensor = module(batch.contiguous(memory_format=torch.channels_last))
        return vectors

    # Without a CUDA graph: some of timm's models wait for the device, and a recording that fails for that leaves
    # torch's memory allocator in a state in which it gives no memory back.
    return TorchEncoder(
        identity, preprocessing, finish.wrap(forward), device, torch_dtype(precision), Slices.of(device, cpu=4)
    )


def read_preprocessing(module: Any, model_path: str) -> Preprocessing:
    """What timm's evaluation transform does for this model; see `preprocessing_of`."""
    import timm

    return preprocessing_of(timm.data.resolve_model_data_config(module), model_path)


def preprocessing_of(settings: dict[str, Any], model_path: str) -> Preprocessing:
    """What timm's evaluation transform does with the settings that timm made of a pretrained configuration.

    Raises
    ------
    EncoderError
        When they want a transform other than a square centre crop or a squash.
    """
    height, width = settings["input_size"][-2:]
    mode = settings["crop_mode"]
    if mode not in ("center", "squash") or (mode == "center" and height != width):
        raise EncoderError(
            f"its preprocessing (crop_mode={mode!r}, {height} x {width}) is not supported",
            where=model_path,
            hint="use a model with a square input",
        )
    scaled = (math.floor(height / settings["crop_pct"]), math.floor(width / settings["crop_pct"]))
    return Preprocessing(
        resize="squash" if mode == "squash" else "shortest_edge",
        size=scaled,
        resample=_FILTERS[settings["interpolation"]],
        crop=(height, width),
        crop_rounding="round",
        scale=1 / 255,
        mean=tuple(settings["mean"]),
        std=tuple(settings["std"]),
        arithmetic="torch",
    )


def _create(request: LoadRequest) -> Any:
    """The model without its classifier, with its weights."""
    import timm

    path = Path(request.model_path)
    if path.suffix.lower() in CHECKPOINT_SUFFIXES and not path.is_dir():
        return _from_checkpoint(path, request.architecture)
    if request.architecture:
        raise ConfigError(
            "architecture is for a checkpoint file, and model_path names a model",
            where=request.model_path,
            hint="leave architecture out",
        )
    name = request.model_path
    if path.is_dir():
        name = f"local-dir:{name}"
    elif not timm.is_model(name) and ":" not in name:
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=3))
        raise EncoderError(
            "neither a folder nor a timm model",
            where=name,
            hint=f"timm has {near}" if near else "check the name",
        )
    try:
        return timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, ValueError, KeyError, SafetensorError) as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise EncoderError(
            f"cannot be loaded: {first}",
            where=request.model_path,
            hint="without a network, give a checkpoint file with architecture=NAME, or a snapshot folder",
        ) from error


def _from_checkpoint(path: Path, architecture: str) -> Any:
    """A named architecture with the weights of a file; only the classifier may be left over.

    The file is read with `weights_only`: no code in it is run.
    """
    import timm
    from timm.models import load_state_dict

    if not architecture:
        raise ConfigError(
            "architecture is not set, and a checkpoint file does not name its model",
            where=str(path),
            hint="add architecture=NAME, a timm model name such as architecture=tf_efficientnet_lite0",
        )
    if not path.is_file():
        raise EncoderError("the checkpoint file does not exist", where=str(path))
    if not timm.is_model(architecture):
        near = ", ".join(difflib.get_close_matches(architecture, timm.list_models(), n=3))
        raise ConfigError(
            f"architecture={architecture!r} is not a timm model", hint=f"did you mean {near}?" if near else ""
        )
    module = timm.create_model(architecture, num_classes=0)
    try:
        state = load_state_dict(str(path), device="cpu", weights_only=True)
    except (*_UNREADABLE, SafetensorError) as error:
        first = (str(error).strip() or repr(error)).splitlines()[0]
        raise EncoderError(
            f"the checkpoint cannot be read: {first}",
            where=str(path),
            hint="save a plain state dict: torch.save(model.state_dict(), path)",
        ) from error
    expected = module.state_dict()
    classifier = module.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    state = {key: value for key, value in state.items() if key in expected or key.split(".")[0] not in heads}
    unfit = [key for key, value in expected.items() if key not in state or state[key].shape != value.shape]
    unknown = [key for key in state if key not in expected]
    if unfit or unknown:
        raise EncoderError(
            f"the checkpoint does not fit {architecture}: {len(unfit)} weights missing or of another shape "
            f"(first: {unfit[:3]}), {len(unknown)} unknown (first: {unknown[:3]})",
            where=str(path),
            hint="check architecture",
        )
    module.load_state_dict(state)
    return module
