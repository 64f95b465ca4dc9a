"""`lookalike encoders`: which families and models there are, what this machine has of them, and what one model is."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from PIL import Image

from lookalike.config.schemas import AUGMENTS, ImageEmbeddingsConfig
from lookalike.embedding.loop import load_model
from lookalike.encoders.base import Encoder
from lookalike.encoders.catalogue import Advice, KnownModel, advice, known_models
from lookalike.encoders.families import Family, all_families, find_family
from lookalike.encoders.fetch import read_snapshot
from lookalike.encoders.load import check_model, check_runtime, choose_devices, has_no_gpu
from lookalike.errors import EncoderError
from lookalike.images.preprocess import Preprocessing
from lookalike.workflow.doctor import installed_version

#: Files of a model in the hub's cache: one of each kind must be there to load it without a network.
_CACHED = (("config.json",), ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin"))


@dataclass(frozen=True)
class FamilyRow:
    """A family on this machine.

    Attributes
    ----------
    model:
        What the setting `model` says.
    what, needs:
        What it is, and what `model_path` must be.
    installed:
        The package and its version, or how to install it.
    is_installed:
        Whether it can be used now.
    settings:
        The settings that it takes beside those that every family has.
    texts:
        Whether it has a text side.
    """

    model: str
    what: str
    needs: str
    installed: str
    is_installed: bool
    settings: tuple[str, ...]
    texts: bool


@dataclass(frozen=True)
class ModelRow:
    """A well-known model, and where it would come from: "here" (no network is needed) or "the hub"."""

    model: KnownModel
    place: str


@dataclass(frozen=True)
class Overview:
    """What `lookalike encoders` shows."""

    families: tuple[FamilyRow, ...]
    models: tuple[ModelRow, ...]
    advice: tuple[Advice, ...]


def overview() -> Overview:
    """Look at this machine; loads no model and asks no network."""
    return Overview(
        tuple(
            _unusable(name, family) if isinstance(family, EncoderError) else _family(family)
            for name, family in all_families().items()
        ),
        tuple(ModelRow(model, _place(model)) for model in known_models()),
        tuple(advice(has_gpu=not has_no_gpu())),
    )


def describe(settings: ImageEmbeddingsConfig) -> Iterator[tuple[str, str]]:
    """Load a model and say what it is: pairs of a name and its value.

    Parameters
    ----------
    settings:
        As of the embedding step; its input and output are not used.

    Raises
    ------
    ConfigError
        When a setting cannot be right.
    EncoderError
        When the model cannot be loaded.
    """
    settings.validate()
    name = check_model(settings)
    check_runtime(settings.runtime, settings.device, settings.precision)
    device = choose_devices(settings.device, settings.runtime, name)[0]
    return _described(load_model(settings, device), find_family(name), settings)


def in_words(preprocessing: Preprocessing) -> str:
    """What happens to an image before the model, as a sentence."""
    filter_name = Image.Resampling(preprocessing.resample).name.lower()
    height, width = preprocessing.size
    cut = preprocessing.crop
    if preprocessing.resize == "patches":
        steps = [f"resized to at most {preprocessing.most_patches} patches of {width} x {height}, nearly of its shape"]
    elif preprocessing.resize == "squash":
        steps = [f"resized to {width} x {height}, whatever its shape"]
        cut = None if cut == preprocessing.size else cut
    else:
        steps = [f"{'longest' if preprocessing.resize == 'longest_edge' else 'shortest'} edge resized to {height}"]
    steps[0] += f", {filter_name}"
    if preprocessing.arithmetic == "float":
        steps[0] += ", without rounding"
    if cut is not None:
        steps.append(f"the middle {cut[1]} x {cut[0]} cut out")
    mean, std = (", ".join(f"{value:.4g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    steps.append(f"values times {preprocessing.scale:.4g}, less ({mean}), divided by ({std})")
    return "RGB; " + "; ".join(steps)


def _described(encoder: Encoder, family: Family, settings: ImageEmbeddingsConfig) -> Iterator[tuple[str, str]]:
    identity = encoder.identity
    model = identity.model
    yield "Model", f"{model.family} {model.architecture}: {family.what}"
    yield "Fingerprint", identity.fingerprint
    yield "Dimension", str(model.dimension)
    yield "Pooling", model.pooling
    yield "Normalisation", model.normalisation
    yield "Weights", f"SHA-256 {model.weights}"
    yield "Preprocessing", in_words(encoder.preprocessing)
    yield "", f"SHA-256 {model.preprocessing}"
    yield "Numerics", ", ".join(asdict(identity.numerics).values())
    yield "Libraries", ", ".join(f"{name} {version}" for name, version in identity.origin.libraries.items())
    yield "Loaded from", identity.origin.model_path
    snapshot = read_snapshot(Path(settings.model_path))
    if snapshot is not None:
        licence = f", licence {snapshot.licence}" if snapshot.licence else ""
        yield "", f"fetched from {snapshot.model} at {snapshot.revision}{licence}"
    everywhere = ("normalize=auto|true|false", f"augment={'|'.join(AUGMENTS)}", "crop=true")
    yield "Takes", "; ".join((*_settings(family), *everywhere))
    yield "Text", "has a text side" if family.texts else "images only"


def _family(family: Family) -> FamilyRow:
    version = _version(family.package)
    installed = f"{family.package} {version}"
    if version is None:
        installed = (
            f"no: pip install 'lookalike[{family.extra}]'" if family.extra else f"no: pip install {family.package}"
        )
    return FamilyRow(
        family.name,
        family.what,
        family.needs,
        installed,
        version is not None,
        tuple(_settings(family)),
        bool(family.texts),
    )


def _unusable(name: str, error: EncoderError) -> FamilyRow:
    """The row of a plug-in that cannot be used."""
    return FamilyRow(name, f"of a plug-in: {error.what}", error.hint, "no", False, (), False)


def _version(package: str) -> str | None:
    """The version of a package, by its name on PyPI or by the name that is imported; None where it is not there."""
    version = installed_version(package)
    if version is None and importlib.util.find_spec(package) is not None:
        distributions = importlib.metadata.packages_distributions().get(package, [])
        version = next(filter(None, map(installed_version, distributions)), None)
    return version


def _settings(family: Family) -> Iterator[str]:
    """The settings of a family that not every family has."""
    if family.poolings:
        yield f"pooling={'|'.join(('model', *sorted(family.poolings)))}"
    if family.layers:
        yield "layer=N"
    if family.sizes:
        yield "image_size=N"


def _place(model: KnownModel) -> str:
    """Whether the model can be loaded without a network: its files are in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache

    id_ = model.path if "/" in model.path else f"timm/{model.path}"
    found = all(any(isinstance(try_to_load_from_cache(id_, name), str) for name in names) for names in _CACHED)
    return "here" if found else "the hub"
