"""timm models: a name, a name with a checkpoint file, or a snapshot folder as timm saves them.

The vector is the model without its classifier: pooled features, raw, float32, not normalised. Preprocessing
comes from the model's pretrained configuration, as timm's own evaluation transform. `timm_options` has what the
settings `pooling`, `layer` and `image_size` change.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from lookalike.encoders.assemble import Loaded, assemble
from lookalike.encoders.base import LoadRequest, TorchEncoder
from lookalike.encoders.checkpoints import CHECKPOINT_SUFFIXES, UNREADABLE, fill
from lookalike.encoders.timm_options import choose, resize
from lookalike.errors import ConfigError, EncoderError
from lookalike.images.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

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
    module = _create(request).eval()
    resize(module, request.image_size, request.model_path)
    features = choose(module, request)

    def forward(module: Any, batch: torch.Tensor) -> torch.Tensor:
        import torch

        return features.forward(module, batch.contiguous(memory_format=torch.channels_last))

    # Not recordable: some of timm's models wait for the device, and a recording that fails for that leaves torch's
    # memory allocator in a state in which it gives no memory back.
    return assemble(
        Loaded(
            module=module,
            forward=forward,
            architecture=str(module.pretrained_cfg["architecture"]),
            dimension=features.dimension,
            pooling=features.name,
            preprocessing=read_preprocessing(module, request.model_path, request.image_size),
            libraries=("timm",),
            cpu_slice=4,
        ),
        family_name,
        request,
    )


def read_preprocessing(module: Any, model_path: str, image_size: int = 0) -> Preprocessing:
    """What timm's evaluation transform does for this model; `image_size` is the side of its input, 0 its own.

    See `preprocessing_of`.
    """
    import timm

    wanted = {"img_size": image_size} if image_size else {}
    return preprocessing_of(timm.data.resolve_data_config(wanted, model=module), model_path)


def preprocessing_of(settings: dict[str, Any], model_path: str) -> Preprocessing:
    """What timm's evaluation transform does with the settings that timm made of a pretrained configuration.

    Parameters
    ----------
    settings:
        As `timm.data.resolve_data_config` returns them.
    model_path:
        For the error.

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
    except (*UNREADABLE, SafetensorError) as error:
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
    fill(module, state, where=str(path), what=architecture, hint="check architecture")
    return module
