"""A model's own config.json: what family it says it is, and errors that tell people what is wrong with a snapshot."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lookalike.encoders.fetch import how_to_bring
from lookalike.errors import ConfigError, EncoderError

log = logging.getLogger(__name__)

#: What `model_type` of a config.json may be, and the families that load it, the one to name first.
_BY_TYPE = {
    "clip": ("CLIP",),
    "clip_vision_model": ("CLIP",),
    # Fixed-resolution SigLIP2 models say that they are SigLIP, and have its architecture.
    "siglip": ("SigLIP", "SigLIP2"),
    "siglip_vision_model": ("SigLIP", "SigLIP2"),
    "siglip2": ("SigLIP2",),
    "siglip2_vision_model": ("SigLIP2",),
    "dinov2": ("DINOv2",),
    "dinov2_with_registers": ("DINOv2",),
    "dinov3_vit": ("DINOv3",),
    "dinov3_convnext": ("DINOv3",),
    "radio": ("C-RADIO",),
}
#: Letters of a library's own words in our message: transformers lists every model that it knows.
_LONGEST = 300
#: What `model=auto` chose in this process, so that it is said once.
_said: set[tuple[str, str]] = set()


def read_config_json(model_path: str) -> dict[str, Any]:
    """The config.json of a snapshot folder or a hub id.

    Raises
    ------
    EncoderError
        When there is none, or it cannot be read.
    """
    folder = Path(model_path)
    try:
        if folder.is_dir():
            content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        else:
            from transformers import PreTrainedConfig

            content = PreTrainedConfig.get_config_dict(model_path)[0]
    except (OSError, ValueError) as error:
        raise not_loaded(model_path, "its config.json", error) from error
    if not isinstance(content, dict):
        raise not_loaded(model_path, "its config.json", ValueError("it holds no JSON object"))
    return content


def families_of(config: dict[str, Any]) -> tuple[str, ...]:
    """The families that load a model with this config.json, the best name first; none where it is not known."""
    named = _BY_TYPE.get(str(config.get("model_type", "")))
    if named:
        return named
    if "RADIOModel" in (config.get("architectures") or ()):  # as NVIDIA publishes them, with code beside
        return ("C-RADIO",)
    return ("timm",) if isinstance(config.get("architecture"), str) else ()


def what_it_says(config: dict[str, Any]) -> str:
    """The line of a config.json by which its family is told, for messages."""
    for key in ("model_type", "architecture", "architectures"):
        if config.get(key):
            return f"{key}={config[key]!r}"
    return "neither model_type nor architecture"


def check_family(asked: str, config: dict[str, Any], model_path: str) -> None:
    """Refuse a snapshot of another family than the one that `model` names.

    Raises
    ------
    EncoderError
        Names both.
    """
    found = families_of(config)
    if asked in found:
        return
    known = sorted(kind for kind, names in _BY_TYPE.items() if asked in names)
    if found:
        hint = f"write model={found[0]}, or name another model_path"
    elif known:
        hint = f"name a model_path whose config.json has one of model_type={known}"
    else:
        hint = "name another model_path"
    raise EncoderError(
        f"model={asked} was asked for, but its config.json says {what_it_says(config)}", where=model_path, hint=hint
    )


def choose_family(model_path: str) -> str:
    """The family for `model=auto`: what the model's own config.json says; it is logged.

    Raises
    ------
    ConfigError
        When `model_path` is a file: what is in it is not said there.
    EncoderError
        When there is no config.json, or it names a family that is not known.
    """
    if Path(model_path).is_file():
        raise ConfigError(
            "model=auto reads the config.json of a snapshot, and model_path is a file",
            where=model_path,
            hint="name the family: model=timm for a timm checkpoint with architecture=NAME",
        )
    if (Path(model_path) / "open_clip_config.json").is_file() and not (Path(model_path) / "config.json").is_file():
        return "OpenCLIP"
    config = read_config_json(model_path)
    found = families_of(config)
    if not found:
        known = ", ".join(sorted({*_BY_TYPE}))
        raise EncoderError(
            f"model=auto: its config.json says {what_it_says(config)}, which no family is known to load",
            where=model_path,
            hint=f"known are a timm architecture, and model_type {known}",
        )
    if found[0] == "timm" and not Path(model_path).is_dir():
        raise EncoderError(
            "model=auto: its config.json is that of a timm model on the hub",
            where=model_path,
            hint=f"write model=timm model_path=hf-hub:{model_path}",
        )
    if (model_path, found[0]) not in _said:
        _said.add((model_path, found[0]))
        log.info("model=auto: %s says %s: taken as model=%s", model_path, what_it_says(config), found[0])
    return found[0]


def not_loaded(model_path: str, part: str, error: BaseException) -> EncoderError:
    """An error that tells a missing folder from a missing file from a hub that cannot be reached."""
    first = str(error).strip().splitlines()[0][:_LONGEST] if str(error).strip() else type(error).__name__
    return EncoderError(f"{part} cannot be loaded: {first}", where=model_path, hint=how_to_bring(model_path))


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers from reporting, on every load, the text tower that is left out on purpose."""
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
