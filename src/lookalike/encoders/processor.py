"""From the processor that a snapshot names to a `Preprocessing`."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

from lookalike.encoders.snapshot import not_loaded
from lookalike.errors import EncoderError
from lookalike.images.preprocess import Preprocessing

#: Processors that are read by name, because they do more than resize, crop and normalise; the rest is plain or refused.
_PATCHES, _FLOAT = "Siglip2ImageProcessorPil", "DINOv3ViTImageProcessor"


def read_preprocessing(model_path: str, *, always_resizes: bool = False) -> Preprocessing:
    """What the processor that the snapshot names does, in its Pillow-backed form where it has one.

    transformers takes its torchvision processor where torchvision is installed; its pixels differ by up to two
    levels, so the backend is chosen by name.

    Parameters
    ----------
    model_path:
        A hub id or a snapshot folder.
    always_resizes:
        Resize to the processor's size also where its configuration leaves that out, as C-RADIO's does, whose users
        are told to switch it on.

    Raises
    ------
    EncoderError
        When there is no processor, or it does something else than is known here.
    """
    processor = _processor(model_path)
    kind = type(processor).__name__
    if not (_is_plain(processor) or kind in (_PATCHES, _FLOAT)) or not processor.do_rescale:
        raise EncoderError(
            f"its processor {kind} does more than resize, crop and normalise",
            where=model_path,
            hint="use a snapshot whose preprocessor_config.json is the one that its authors published",
        )
    if not processor.do_resize and not always_resizes:
        raise EncoderError(
            f"its processor {kind} does not resize, and images of one batch must have one size",
            where=model_path,
            hint="set do_resize to true in its preprocessor_config.json",
        )
    resize, size, most = _resize(processor, kind, model_path)
    crop = processor.crop_size if processor.do_center_crop else None
    normalizes = processor.do_normalize
    try:
        return Preprocessing(
            resize=resize,
            size=size,
            resample=int(processor.resample),
            crop=(crop["height"], crop["width"]) if crop else None,
            crop_rounding="floor",
            scale=float(processor.rescale_factor),
            mean=_triple(processor.image_mean) if normalizes else (0.0, 0.0, 0.0),
            std=_triple(processor.image_std) if normalizes else (1.0, 1.0, 1.0),
            arithmetic="float" if kind == _FLOAT else "numpy",
            most_patches=most,
        )
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise EncoderError(
            f"its preprocessor_config.json has a value of the wrong kind: {error}",
            where=model_path,
            hint="image_mean, image_std and rescale_factor must be numbers, resample the number of a Pillow filter; "
            "fetch the snapshot again",
        ) from error


def with_side(preprocessing: Preprocessing, side: int) -> Preprocessing:
    """The same preprocessing for model inputs of `side` x `side` pixels.

    Where the centre is cropped, the edge before it grows in proportion. Patches of a variable grid become as many as
    such a square has.
    """
    if preprocessing.resize == "patches":
        return replace(preprocessing, most_patches=(side // preprocessing.size[0]) ** 2)
    if preprocessing.crop is None:
        return replace(preprocessing, size=(side, side))
    height, width = (round(extent * side / cropped) for extent, cropped in _pairs(preprocessing))
    return replace(preprocessing, size=(height, width), crop=(side, side))


def _pairs(preprocessing: Preprocessing) -> list[tuple[int, int]]:
    assert preprocessing.crop is not None
    return list(zip(preprocessing.size, preprocessing.crop, strict=True))


def _processor(model_path: str) -> Any:
    """The processor, without any code of the snapshot."""
    import transformers
    from transformers.models.auto.image_processing_auto import get_image_processor_config

    try:
        return transformers.AutoImageProcessor.from_pretrained(model_path, backend="pil", trust_remote_code=False)
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        with contextlib.suppress(OSError, ValueError):
            named = get_image_processor_config(model_path).get("image_processor_type")
            if named and not hasattr(transformers, named):
                raise EncoderError(
                    f"its processor {named} is not known to transformers {transformers.__version__}",
                    where=model_path,
                    hint="update transformers (pip install -U transformers), or use a snapshot whose "
                    "preprocessor_config.json names a processor that it has",
                ) from error
        raise not_loaded(model_path, "its preprocessing (preprocessor_config.json)", error) from error


def _is_plain(processor: Any) -> bool:
    """Whether it does the steps of transformers' Pillow backend and no others."""
    from transformers.image_processing_backends import PilBackend

    return isinstance(processor, PilBackend) and type(processor)._preprocess is PilBackend._preprocess


def _resize(processor: Any, kind: str, model_path: str) -> tuple[str, tuple[int, int], int]:
    """How it resizes, to what size, and to how many patches."""
    if kind == _PATCHES:
        patch = processor.patch_size
        return "patches", (patch, patch), processor.max_num_patches
    size = processor.size
    if size.get("shortest_edge"):
        return "shortest_edge", (size["shortest_edge"], size["shortest_edge"]), 0
    if size.get("height") and size.get("width"):
        return "squash", (size["height"], size["width"]), 0
    raise EncoderError(f"its processor resizes to {dict(size)}, which is not supported", where=model_path)


def _triple(values: Any) -> tuple[float, float, float]:
    """Per-channel values, also where the processor gives one number for all."""
    numbers = [values] * 3 if isinstance(values, int | float) else list(values)
    return float(numbers[0]), float(numbers[1]), float(numbers[2])
