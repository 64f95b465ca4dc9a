"""From the settings `model` and `model_path` to an encoder."""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path

from lookalike.config.schemas import ImageEmbeddingsConfig
from lookalike.encoders import tao
from lookalike.encoders.base import Encoder, LoadRequest, choose_device
from lookalike.encoders.families import AUTO, FAMILIES, canonical_model
from lookalike.encoders.fetch import check_files
from lookalike.encoders.snapshot import check_family, choose_family, read_config_json
from lookalike.errors import ConfigError

log = logging.getLogger(__name__)

#: Packages whose models are folders with a config.json that names the family.
_CONFIGURED = frozenset({"transformers", "timm"})
#: How many hardware queues a CUDA process has for its streams (CUDA C++ Programming Guide, "Environment variables").
_QUEUES = "CUDA_DEVICE_MAX_CONNECTIONS"


def check_model(settings: ImageEmbeddingsConfig) -> str:
    """Refuse, before any work, model settings that cannot be right; return the family's name.

    Raises
    ------
    ConfigError
        When the family is unknown, or the settings contradict each other.
    EncoderError
        When a snapshot folder is of another family, or with ``auto`` of none that is known.
    """
    name = canonical_model(settings.model)
    check_files(Path(settings.model_path))
    if name == AUTO and not tao.is_checkpoint(settings.model_path):
        name = choose_family(settings.model_path)
    elif name == AUTO:
        name = "TAO"
    family = FAMILIES[name]
    if settings.architecture and not family.architectures:
        takers = " or ".join(f"model={name}" for name, other in FAMILIES.items() if other.architectures)
        raise ConfigError(f"architecture is for {takers}, and model={family.name} was given", hint="leave it out")
    named = family.name == "timm" or bool(settings.architecture)
    if family.name == "TAO" or (not named and tao.is_checkpoint(settings.model_path)):
        tao.check(family.name, settings.model_path, settings.model_config_path)
        family = FAMILIES["TAO"]
    family.check(settings)
    config = os.path.join(settings.model_path, "config.json")  # noqa: PTH118 - a Path may raise
    if family.package in _CONFIGURED and os.path.isfile(config):  # noqa: PTH113
        check_family(family.name, read_config_json(settings.model_path), settings.model_path)
    return family.name


def check_runtime(runtime: str, device: str, precision: str) -> None:
    """Refuse, before any work, a runtime that is not here or cannot do what the other settings ask for."""
    if runtime == "openvino":
        from lookalike.encoders.openvino import check_openvino

        check_openvino(device, precision)


def choose_devices(wanted: str, runtime: str) -> list[str]:
    """The devices of the setting `device`: one or several names with commas; ``auto`` takes every CUDA device.

    Raises
    ------
    ConfigError
        When a device is unknown or not there, or several are not of one kind.
    """
    if runtime == "openvino":
        return ["cpu"]
    ask_for_queues()
    if wanted == "cpu" or (wanted == "auto" and has_no_gpu()):
        return ["cpu"]  # without loading torch, which takes seconds
    import torch

    chosen = [choose_device(name.strip()) for name in wanted.split(",")]
    if wanted == "auto" and chosen[0].type == "cuda":
        chosen = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
    if len({device.type for device in chosen}) > 1:
        raise ConfigError(
            f"device={wanted!r} mixes kinds of devices, whose vectors differ by rounding", hint="name one kind"
        )
    return list(map(str, chosen))


def ask_for_queues() -> None:
    """Have CUDA give every stream a queue of its own, if it has not begun yet.

    Streams that share a queue wait for each other. With CUDA's default of 8, decoding falls from 10,000 images/s to
    400 while a model's CUDA graph runs on an H100; 32 is the most. CUDA reads it once, when it begins.
    """
    if "torch" not in sys.modules or not sys.modules["torch"].cuda.is_initialized():
        os.environ.setdefault(_QUEUES, "32")
    elif _QUEUES not in os.environ:
        log.info("CUDA had begun before: set %s=32 earlier, or embedding may take twice as long", _QUEUES)


def guess_devices(wanted: str, runtime: str) -> list[str]:
    """What `choose_devices` will probably return, without loading torch, which takes seconds.

    GPUs are counted by their device files and by `CUDA_VISIBLE_DEVICES`.
    """
    if runtime == "openvino":
        return ["cpu"]
    if wanted != "auto":
        return ["cuda:0" if name.strip() == "cuda" else name.strip() for name in wanted.split(",")]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        count = len(list(Path("/dev").glob("nvidia[0-9]*")))
    else:
        count = len([name for name in visible.split(",") if name.strip() not in ("", "-1")])
    return [f"cuda:{number}" for number in range(count)] if count and not has_no_gpu() else ["cpu"]


@functools.cache
def has_no_gpu() -> bool:
    """Whether it is certain, without loading torch, that `device=auto` is the CPU.

    That is so on a Linux machine without NVIDIA's driver library, which torch does not bring, and without the device
    file of AMD's driver. Elsewhere torch has to be asked.
    """
    if sys.platform != "linux" or Path("/dev/kfd").exists():
        return False
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return True
    return False


def load_encoder(family: str, request: LoadRequest) -> Encoder:
    """Load the encoder of a family (as `check_model` returns it) for the runtime of the request."""
    if not _takes_openvino(request):
        return FAMILIES[family].load(request)
    from lookalike.encoders import openvino

    encoder = FAMILIES[family].load(replace(request, device="cpu", precision="fp32"))
    return openvino.convert(encoder, request.precision)


def _takes_openvino(request: LoadRequest) -> bool:
    if request.runtime == "auto":
        from lookalike.encoders.openvino import is_faster

        return not request.trust_remote_code and is_faster(choose_device(request.device), request.precision)
    check_runtime(request.runtime, request.device, request.precision)
    if request.runtime == "openvino" and request.trust_remote_code:
        raise ConfigError(
            "runtime=openvino is not possible with trust_remote_code=true: foreign code is not converted",
            hint="use runtime=torch",
        )
    return request.runtime == "openvino"
