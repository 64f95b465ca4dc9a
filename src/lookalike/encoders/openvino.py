"""OpenVINO on the CPU: the forward pass of a loaded PyTorch encoder, converted; the extra ``openvino``.

Weights, preprocessing and therefore the fingerprint stay those of the PyTorch encoder; only the numerics of the
identity change. `docs/benchmarks.md` says what was measured.
"""

from __future__ import annotations

import importlib.util
import platform
import sys
import warnings
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from lookalike.encoders.base import Pending, Pixels, TorchEncoder, keeps_bf16
from lookalike.encoders.identity import EncoderIdentity
from lookalike.errors import ConfigError, MissingDependency
from lookalike.images.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

#: Name of this runtime in the numerics.
RUNTIME = "openvino-cpu"
#: Images of a forward pass. More are not faster (SigLIP, EfficientNet-Lite0), and each needs memory.
SLICE = 8
#: The processors on which it was measured to be faster than PyTorch, for `runtime=auto`.
_MEASURED_ON = frozenset({"x86_64", "amd64"})
_HINTS = {"fp32": "f32", "bf16": "bf16"}


def is_installed() -> bool:
    """Whether the extra is here; imports nothing."""
    return importlib.util.find_spec("openvino") is not None


def check_openvino(device: str, precision: str) -> None:
    """Refuse, before any work, settings that `runtime=openvino` cannot follow.

    Raises
    ------
    ConfigError
        When another device than the CPU is asked for, or a precision that is not computed.
    MissingDependency
        When the package is not installed.
    """
    if device not in ("auto", "cpu"):
        raise ConfigError(
            f"runtime='openvino' computes on the CPU, and device={device!r} was given",
            hint="use device=cpu, or runtime=torch",
        )
    if precision == "fp16":
        raise ConfigError("precision='fp16' is not possible with runtime='openvino'", hint="use auto, bf16 or fp32")
    if not is_installed():
        raise MissingDependency.of("openvino", "openvino", "for runtime=openvino")
    if precision == "bf16" and not _has_bf16():
        raise ConfigError(
            "precision='bf16' is not possible with runtime='openvino': this processor lacks the instructions",
            hint="use auto or fp32",
        )


def is_faster(device: torch.device, precision: str) -> bool:
    """Whether `runtime=auto` takes OpenVINO: it is installed, and was measured to be faster on such a device."""
    possible = device.type == "cpu" and precision != "fp16" and is_installed()
    return possible and platform.machine().lower() in _MEASURED_ON and (precision != "bf16" or _has_bf16())


@dataclass(frozen=True)
class OpenVinoEncoder:
    """An encoder whose forward pass OpenVINO computes.

    Attributes
    ----------
    identity, preprocessing:
        See `Encoder`.
    request:
        An inference request of the compiled model; it is used by one thread at a time.
    """

    identity: EncoderIdentity
    preprocessing: Preprocessing
    request: Any

    def encode(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """See `Encoder.encode`."""
        images = np.ascontiguousarray(pixels, np.float32)
        # The request writes every slice into the same memory, so each result is copied.
        parts = [self.request.infer({0: images[at : at + SLICE]})[0].copy() for at in range(0, len(images), SLICE)]
        return np.concatenate(parts)

    def start(self, pixels: Pixels) -> Pending:
        """See `Encoder.start`."""
        vectors = self.encode(pixels)
        return lambda: vectors


def convert(encoder: TorchEncoder, precision: str) -> OpenVinoEncoder:
    """Compile the forward pass of an encoder that was loaded on the CPU in fp32.

    Parameters
    ----------
    encoder:
        Gives the forward pass, the preprocessing and the identity.
    precision:
        The setting; ``auto`` takes bf16 where the processor has it and the family keeps a cosine of 0.9999.
    """
    openvino = _openvino()
    if precision == "auto":
        precision = "bf16" if keeps_bf16(encoder.identity.model.family) and _has_bf16() else "fp32"
    settings = {
        # Without the hint OpenVINO takes bf16 by itself, and fp32 would be fp32 by name only.
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        # One request on all cores: two requests side by side were not faster, and slower on large slices.
        "PERFORMANCE_HINT": "LATENCY",
    }
    compiled = openvino.Core().compile_model(_graph(encoder), "CPU", settings)
    origin = encoder.identity.origin
    identity = replace(
        encoder.identity,
        numerics=replace(encoder.identity.numerics, precision=precision, runtime=RUNTIME),
        origin=replace(origin, libraries={**origin.libraries, "openvino": openvino.__version__}),
    )
    return OpenVinoEncoder(identity, encoder.preprocessing, compiled.create_infer_request())


def _graph(encoder: TorchEncoder) -> Any:
    """The forward pass as an OpenVINO model for any number of images.

    `openvino.convert_model` does the same, but it runs the model three times more, and reports to Intel.
    """
    _openvino()
    import torch
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    class Forward(torch.nn.Module):
        """Modules are traced into a graph, not functions."""

        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            return encoder.forward(batch)

    # Two images: with one, tracing could take the number of images for a constant.
    image = encoder.preprocessing(Image.new("RGB", (64, 48)))
    example = torch.from_numpy(np.stack([image, image]))
    with torch.inference_mode(), warnings.catch_warnings():
        # Sizes that the model's code checks are constants of the model; tracing warns of every one.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(Forward().eval(), example, check_trace=False)  # type: ignore[no-untyped-call]
        decoder = TorchScriptPythonDecoder(traced)
    frontend = FrontEndManager().load_by_framework("pytorch")
    graph = frontend.convert(frontend.load(decoder))
    graph.reshape([-1, *encoder.preprocessing.shape])
    return graph


def _has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 here."""
    return "BF16" in _openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _openvino() -> Any:
    """The package, imported without its telemetry: otherwise every import is reported to Intel.

    OpenVINO takes a stub of its own where the package `openvino_telemetry` is missing; here it looks missing.
    """
    name = "openvino_telemetry"
    hidden = name not in sys.modules
    if hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        import openvino
    finally:
        if hidden:
            del sys.modules[name]
    return openvino
