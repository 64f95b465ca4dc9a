"""Every family of encoders: what the setting `model` may say, what each family takes, and which module loads it."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.encoders.base import LoadRequest, TorchEncoder
from lookalike.errors import ConfigError


@dataclass(frozen=True)
class Family:
    """One family.

    Attributes
    ----------
    name:
        As the setting `model` and the identity spell it; case, ``-`` and ``_`` do not matter in the setting.
    module:
        The module with `load(family_name, request)`, imported when the family is used.
    what:
        What the family is and what it is good for, in a sentence.
    needs:
        What `model_path` must be.
    poolings:
        Values of `pooling` beside ``model``.
    layers, sizes, architectures:
        Whether `layer`, `image_size` and `architecture` can be given.
    package, extra:
        The Python package that it is loaded with, and the extra of lookalike that installs it ("" where it comes with
        lookalike).
    texts:
        Whether it has a text side.
    code:
        Whether it can run Python code that comes with a model, where the user allows it.
    """

    name: str
    module: str
    what: str
    needs: str
    poolings: frozenset[str] = frozenset()
    layers: bool = False
    sizes: bool = False
    architectures: bool = False
    package: str = "transformers"
    extra: str = ""
    texts: bool = False
    code: bool = False

    def load(self, request: LoadRequest) -> TorchEncoder:
        """Load a model of the family."""
        loader: Callable[[str, LoadRequest], TorchEncoder] = importlib.import_module(self.module).load
        return loader(self.name, request)

    def check(self, settings: ImageEmbeddingsConfig) -> None:
        """Refuse settings that the family does not take.

        Raises
        ------
        ConfigError
            Names the setting, and what the family takes.
        """
        allowed = ("model", *sorted(self.poolings))
        if settings.pooling not in allowed:
            raise ConfigError(
                f"pooling={settings.pooling!r} is not possible with model={self.name}",
                hint=f"use one of: {', '.join(allowed)}",
            )
        if settings.trust_remote_code and not self.code:
            raise ConfigError(
                f"trust_remote_code=true is not possible with model={self.name}: it runs no code of a model",
                hint="leave it out",
            )
        for key, possible, default in (("layer", self.layers, -1), ("image_size", self.sizes, 0)):
            if not possible and getattr(settings, key) != default:
                raise ConfigError(f"{key} cannot be chosen with model={self.name}", hint="leave it out")


_HERE = "lookalike.encoders"
_SNAPSHOT = "a Hugging Face id or a snapshot folder"
#: Poolings of families with a class token, and of those without.
_TOKENS, _PATCHES = frozenset({"cls", "mean", "gem"}), frozenset({"mean", "gem"})
#: The value of `model` that leaves the family to the model's own config.json.
AUTO = "auto"
#: All families, by name.
FAMILIES = {
    family.name: family
    for family in (
        Family(
            "CLIP",
            f"{_HERE}.huggingface",
            "CLIP: a vision tower that learned from captions",
            _SNAPSHOT,
            poolings=_TOKENS,
            sizes=True,
            texts=True,
        ),
        Family(
            "SigLIP",
            f"{_HERE}.huggingface",
            "SigLIP, and SigLIP2 of a fixed resolution: learned from captions, the reference's common default",
            _SNAPSHOT,
            poolings=_PATCHES,
            sizes=True,
            texts=True,
        ),
        Family(
            "SigLIP2",
            f"{_HERE}.huggingface",
            "SigLIP2: of a fixed resolution, which loads as SigLIP; or NaFlex, which keeps the shape of the image",
            _SNAPSHOT,
            poolings=_PATCHES,
            sizes=True,
            texts=True,
        ),
        Family(
            "DINOv2",
            f"{_HERE}.huggingface",
            "DINOv2, with or without registers: learned from images alone; sees texture and small parts",
            _SNAPSHOT,
            poolings=_TOKENS,
            layers=True,
            sizes=True,
        ),
        Family(
            "DINOv3",
            f"{_HERE}.huggingface",
            "DINOv3, ViT or ConvNeXt: learned from images alone; the strongest features of places in an image",
            f"{_SNAPSHOT}; its licence has to be accepted on the hub",
            poolings=_TOKENS,
            layers=True,
            sizes=True,
        ),
        Family(
            "C-RADIO",
            f"{_HERE}.huggingface",
            "C-RADIO: one ViT that imitates CLIP, SigLIP2, DINO and SAM; any size in steps of its patch",
            f"{_SNAPSHOT}; where transformers does not have its architecture, its own code with trust_remote_code=true",
            poolings=_PATCHES,
            sizes=True,
            code=True,
        ),
        Family(
            "timm",
            f"{_HERE}.timm",
            "any timm image model, and your own fine-tuned one",
            "a timm name, a snapshot folder, or a checkpoint file with architecture=NAME",
            poolings=_TOKENS,
            layers=True,
            sizes=True,
            architectures=True,
            package="timm",
        ),
        Family(
            "OpenCLIP",
            f"{_HERE}.openclip",
            "any model of open_clip: CLIP of many sizes and data sets, SigLIP, CoCa, CLIPA",
            "a snapshot folder, a Hugging Face id, or a checkpoint file with architecture=NAME",
            sizes=True,
            architectures=True,
            package="open_clip",
            extra="openclip",
        ),
        Family(
            "TAO",
            f"{_HERE}.tao",
            "a checkpoint of NVIDIA TAO: SigLIP2, OpenCLIP or RADIO, or the backbone of Visual ChangeNet",
            "a .pth or .ckpt file, with model_config_path; its OpenCLIP models need the extra openclip",
        ),
    )
}


def canonical_model(model: str) -> str:
    """The family that `model` names, or `AUTO`; case, ``-`` and ``_`` do not matter.

    Raises
    ------
    ConfigError
        When no family has that name; names the nearest.
    """
    spelled = {_plain(name): name for name in (*FAMILIES, AUTO)}
    wanted = _plain(model)
    if wanted in spelled:
        return spelled[wanted]
    near = difflib.get_close_matches(wanted, spelled, n=1)
    guess = f"did you mean {spelled[near[0]]}? " if near else ""
    raise ConfigError(f"model={model!r} is not known", hint=f"{guess}Known: {', '.join((*FAMILIES, AUTO))}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
