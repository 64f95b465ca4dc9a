"""Every family of encoders: what the setting `model` may say, what each family takes, and which module loads it.

Other packages can bring families of their own, see `find_family`; `examples/encoder_plugin` is one.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.encoders.base import Encoder, LoadRequest
from lookalike.errors import ConfigError, EncoderError


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
        The module with `load_texts(request)` for its text side; "": it has none.
    code:
        Whether it can run Python code that comes with a model, where the user allows it.
    program:
        Why a model of the family is a program that can run any code, as the end of a sentence: it is loaded only where
        the user trusts it. "": it is none.
    converts:
        Whether `runtime=openvino` can compute it.
    remembered:
        Whether everything that an encoder depends on is in `model_path` and in lookalike itself, so that a run whose
        vectors are all known need not load it.
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
    texts: str = ""
    code: bool = False
    program: str = ""
    converts: bool = True
    remembered: bool = True

    def load(self, request: LoadRequest) -> Encoder:
        """Load a model of the family."""
        loader: Callable[[str, LoadRequest], Encoder] = importlib.import_module(self.module).load
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
        if self.program and not settings.trust_remote_code:
            raise ConfigError(
                f"a model of the family {self.name} can run any code: {self.program}",
                where=settings.model_path,
                hint="if you trust whoever made the file, add trust_remote_code=true",
            )
        if settings.runtime == "openvino" and not self.converts:
            raise ConfigError(f"runtime='openvino' is not possible with model={self.name}", hint="leave it out")
        if settings.trust_remote_code and not (self.code or self.program):
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
            texts=f"{_HERE}.texts_transformers",
        ),
        Family(
            "SigLIP",
            f"{_HERE}.huggingface",
            "SigLIP, and SigLIP2 of a fixed resolution: learned from captions, the reference's common default",
            _SNAPSHOT,
            poolings=_PATCHES,
            sizes=True,
            texts=f"{_HERE}.texts_transformers",
        ),
        Family(
            "SigLIP2",
            f"{_HERE}.huggingface",
            "SigLIP2: of a fixed resolution, which loads as SigLIP; or NaFlex, which keeps the shape of the image",
            _SNAPSHOT,
            poolings=_PATCHES,
            sizes=True,
            texts=f"{_HERE}.texts_transformers",
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
            texts=f"{_HERE}.texts_openclip",
        ),
        Family(
            "TAO",
            f"{_HERE}.tao",
            "a checkpoint of NVIDIA TAO: SigLIP2, OpenCLIP or RADIO, or the backbone of Visual ChangeNet",
            "a .pth or .ckpt file, with model_config_path; its OpenCLIP models need the extra openclip",
        ),
        Family(
            "ONNX",
            f"{_HERE}.onnx",
            "any image model that was exported to ONNX; computed by ONNX Runtime",
            "an .onnx file with one input (images x 3 x height x width) and one output (images x dimension), with "
            "preprocessor_config.json or timm's config.json beside it",
            package="onnxruntime",
            extra="onnx",
            converts=False,
            remembered=False,
        ),
        Family(
            "TorchScript",
            f"{_HERE}.exported",
            "any image model that was saved with torch.jit.save",
            "a .ts or .pt file, with preprocessor_config.json or timm's config.json beside it",
            package="torch",
            program="a TorchScript archive holds a program, whose operators can write any file",
            converts=False,
            remembered=False,
        ),
        Family(
            "ExportedProgram",
            f"{_HERE}.exported",
            "any image model that was saved with torch.export.save",
            "a .pt2 file, with preprocessor_config.json or timm's config.json beside it",
            package="torch",
            program="torch.export.load unpickles, and calls what the file names",
            converts=False,
            remembered=False,
        ),
    )
}

#: The entry-point group of packages that bring families of their own.
GROUP = "lookalike.encoders"


def all_families() -> dict[str, Family | EncoderError]:
    """The families of lookalike and of installed plug-ins, by name; the error of a plug-in that cannot be used."""
    found: dict[str, Family | EncoderError] = {**FAMILIES}
    for name in _plugins():
        if name not in found:
            try:
                found[name] = find_family(name)
            except EncoderError as error:
                found[name] = error
    return found


def find_family(model: str) -> Family:
    """The family that `model` names; case, ``-`` and ``_`` do not matter.

    A package adds a family by an entry point in the group ``lookalike.encoders``: its name is that of the family, and
    what it refers to is a `Family`. Only the package of the family that is asked for is imported. The names that
    lookalike itself has cannot be taken.

    Raises
    ------
    ConfigError
        When no family has that name; names the nearest.
    EncoderError
        When it is that of a plug-in that cannot be used; names its package.
    """
    name = canonical_model(model)
    if name == AUTO:
        raise ConfigError("model=auto is no family", hint="name one")
    return FAMILIES[name] if name in FAMILIES else _load_plugin(name, _plugins()[name])


def _plugins() -> dict[str, list[EntryPoint]]:
    """Entry points of installed packages by name; several where packages want the same name. None is imported."""
    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        found.setdefault(point.name, []).append(point)
    return found


def _load_plugin(name: str, points: list[EntryPoint]) -> Family:
    """Import a plug-in and check what it is."""
    packages = " and ".join(
        f"{one.dist.name} {one.dist.version}" if one.dist else "an unknown package" for one in points
    )
    if len(points) > 1:
        raise EncoderError(f"two packages bring an encoder {name}: {packages}", hint="uninstall one of them")
    where = f"the plug-in {name} of {packages}"
    try:
        family = points[0].load()
    except Exception as error:  # whatever it is, it is the package's own, and nobody else's
        raise EncoderError(
            f"cannot be imported: {type(error).__name__}: {error}",
            where=where,
            hint="repair or uninstall that package; all other encoders work without it",
        ) from error
    if not isinstance(family, Family):
        raise EncoderError(
            f"its entry point {points[0].value} is a {type(family).__name__}, not a Family",
            where=where,
            hint="make it a lookalike.encoders.families.Family",
        )
    # What a plug-in computes depends on its own code, which may change at any time.
    return replace(family, name=name, remembered=False)


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
    spelled = {_plain(name): name for name in _plugins()} | spelled
    if wanted in spelled:
        return spelled[wanted]
    near = difflib.get_close_matches(wanted, spelled, n=1)
    guess = f"did you mean {spelled[near[0]]}? " if near else ""
    raise ConfigError(f"model={model!r} is not known", hint=f"{guess}Known: {', '.join(spelled.values())}")


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
