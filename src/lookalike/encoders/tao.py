"""TAO checkpoints: a PyTorch Lightning file of weights, and the training spec that names its architecture.

The architecture is built from the training spec with the installed libraries, without a download, and every weight of
the image side must find its place; the text side is left aside. Vectors of TAO's CLIP models are brought to length 1,
as in TAO. A Visual ChangeNet checkpoint gives its backbone.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lookalike.encoders.assemble import Loaded, assemble
from lookalike.encoders.base import LoadRequest, TorchEncoder
from lookalike.encoders.checkpoints import State, read_state
from lookalike.errors import ConfigError

#: Endings of a TAO checkpoint, in any case; `.pt` is none.
SUFFIXES = frozenset({".pth", ".ckpt"})
#: Values of `model` that say nothing of the architecture: what scripts for TAO write, and lookalike's own.
_NEUTRAL = frozenset({"CLIP", "SigLIP", "TAO", "auto"})


@dataclass(frozen=True)
class Spec:
    """What a training spec says of the model.

    Attributes
    ----------
    path:
        Of the spec.
    type:
        Name of the architecture: `model.type`, or `model.backbone.type` of Visual ChangeNet.
    model, dataset:
        The sections of that name.
    """

    path: str
    type: str
    model: dict[str, Any]
    dataset: dict[str, Any]

    @property
    def is_changenet(self) -> bool:
        """Whether it is of Visual ChangeNet, whose model has a backbone."""
        return isinstance(self.model.get("backbone"), dict)

    @property
    def image_size(self) -> int:
        """Side of the input in pixels; 0 where the spec doesn't say."""
        return _size(self.model.get("image_size"), self.path, "model.image_size")

    @property
    def adaptor(self) -> str:
        """The adaptor of a RADIO model, as the spec names it; "" where it doesn't."""
        return str(self.model.get("adaptor_name") or "")


@dataclass(frozen=True)
class Kind:
    """A family of architectures.

    Attributes
    ----------
    family:
        The value of `model` that it agrees with.
    module:
        The module with `check(spec)` and `load(spec, state, request)`.
    normalizes:
        Whether TAO brings its vectors to length 1.
    """

    family: str
    module: str
    normalizes: bool = True

    def check(self, spec: Spec) -> None:
        """Refuse, without reading weights, a type that cannot be built."""
        checker: Callable[[Spec], None] = importlib.import_module(self.module).check
        checker(spec)

    def load(self, spec: Spec, state: State, request: LoadRequest) -> Loaded:
        """Build the architecture and fill it."""
        loader: Callable[[Spec, State, LoadRequest], Loaded] = importlib.import_module(self.module).load
        return loader(spec, state, request)


_HERE = "lookalike.encoders"


def is_checkpoint(model_path: str) -> bool:
    """Whether a model path is a TAO checkpoint: the ending decides, unless it is a folder."""
    path = Path(model_path)
    return path.suffix.lower() in SUFFIXES and not path.is_dir()


def check(model: str, model_path: str, model_config_path: str) -> None:
    """Refuse, before the weights are read, what cannot be right.

    Parameters
    ----------
    model:
        The family that the user named.
    model_path, model_config_path:
        The settings.

    Raises
    ------
    ConfigError
        When a file is missing, the training spec does not name an architecture that can be built, or `model`
        contradicts it.
    """
    if not model_config_path:
        raise ConfigError("model_config_path is required when model_path is a TAO checkpoint", where=model_path)
    for needed in (model_path, model_config_path):
        if not Path(needed).is_file():
            raise ConfigError("does not exist", where=needed, hint="check the path")
    spec = read_spec(model_config_path)
    kind = kind_of(spec)
    agreeing = _NEUTRAL if not spec.is_changenet else _NEUTRAL - {"CLIP", "SigLIP"}
    if model not in agreeing and model != kind.family:
        raise ConfigError(
            f"model={model} was asked for, but its model type is {spec.type!r}",
            where=model_config_path,
            hint="write model=TAO, or name another model_config_path",
        )
    kind.check(spec)


def load(family_name: str, request: LoadRequest) -> TorchEncoder:
    """Load the image side of a TAO checkpoint.

    Parameters
    ----------
    family_name:
        ``TAO``, for the identity.
    request:
        `model_path` is the checkpoint, `model_config_path` the training spec.

    Raises
    ------
    EncoderError
        When the checkpoint cannot be read, or its weights do not fit the architecture.
    ConfigError
        When the training spec cannot be read.
    """
    spec = read_spec(request.model_config_path)
    kind = kind_of(spec)
    kind.check(spec)
    loaded = kind.load(spec, read_state(Path(request.model_path)), request)
    return assemble(loaded, family_name, request, normalizes=kind.normalizes)


def read_spec(path: str) -> Spec:
    """Read a training spec.

    Raises
    ------
    ConfigError
        When it is no YAML file with a model type.
    """
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        first = str(error).strip().splitlines()[0]
        raise ConfigError(f"the training spec cannot be read: {first}", where=path, hint="it is a YAML file") from error
    sections = content if isinstance(content, dict) else {}
    model, dataset = (sections.get(name) or {} for name in ("model", "dataset"))
    if not isinstance(model, dict) or not isinstance(dataset, dict):
        model, dataset = {}, {}
    backbone = model.get("backbone")
    kind = backbone.get("type") if isinstance(backbone, dict) else model.get("type")
    if not isinstance(kind, str) or not kind:
        raise ConfigError(
            "the training spec does not name the architecture: model.type is missing",
            where=path,
            hint="give the experiment spec that the checkpoint was trained with",
        )
    return Spec(path, kind, model, dataset)


def kind_of(spec: Spec) -> Kind:
    """The family of architectures that a spec's model type belongs to, by its name."""
    if spec.is_changenet:
        radio = "radio" in spec.type.lower()
        return Kind("C-RADIO" if radio else "DINOv2", f"{_HERE}.tao_changenet", normalizes=False)
    if spec.type.lower().startswith("siglip2"):
        return Kind("SigLIP2", f"{_HERE}.tao_siglip")
    if "radio" in spec.type.lower():
        return Kind("C-RADIO", f"{_HERE}.tao_radio")
    return Kind("OpenCLIP", f"{_HERE}.tao_openclip")


def _size(value: Any, path: str, key: str) -> int:
    """A size in pixels from a spec."""
    if value is None:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigError(f"{key}={value!r} is not a size in pixels", where=path, hint="correct the training spec")
    return value
