"""Models with Python code of their own, which runs only where the user says `trust_remote_code=true`."""

from __future__ import annotations

import hashlib
import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.encoders.assemble import Loaded, assemble
from lookalike.encoders.base import LoadRequest, TorchEncoder
from lookalike.encoders.pooling import pool
from lookalike.encoders.processor import read_preprocessing, with_side
from lookalike.errors import ConfigError, EncoderError

if TYPE_CHECKING:
    from collections.abc import Callable

    import torch

    from lookalike.images.preprocess import Preprocessing


def load_with_code(family_name: str, content: dict[str, Any], request: LoadRequest) -> TorchEncoder:
    """Load a model by the code that its config.json names, and run that code.

    The model must do as NVIDIA's RADIO does: from a batch of images with values of 0 to 1 to a summary (images x
    dimension) and features (images x patches x dimension).

    Parameters
    ----------
    family_name:
        For the identity.
    content:
        The config.json.
    request:
        `trust_remote_code` was set.

    Raises
    ------
    ConfigError
        When the snapshot names no code.
    EncoderError
        When its code fails, or gives something else.
    """
    if "AutoModel" not in (content.get("auto_map") or {}):
        raise ConfigError(
            "trust_remote_code=true, but the model brings no code: its config.json has no auto_map with AutoModel",
            where=request.model_path,
            hint="leave trust_remote_code out",
        )
    preprocessing = read_preprocessing(request.model_path, always_resizes=True)
    if request.image_size:
        preprocessing = with_side(preprocessing, request.image_size)
    module = _run_code(request.model_path)

    def forward(module: Any, batch: torch.Tensor) -> torch.Tensor:
        summary, features = _outputs(module(batch), request.model_path)
        return summary if request.pooling == "model" else pool(features, request.pooling)

    loaded = Loaded(
        module,
        forward,
        architecture=f"{type(module).__name__}, trust_remote_code=true, code {_code_digest(module)}",
        dimension=_dimension(module, forward, preprocessing, request.model_path),
        pooling="summary" if request.pooling == "model" else request.pooling,
        preprocessing=preprocessing,
        libraries=("transformers",),
        channels_last=False,
    )
    return assemble(loaded, family_name, request)


def _dimension(
    module: Any, forward: Callable[[Any, torch.Tensor], torch.Tensor], preprocessing: Preprocessing, model_path: str
) -> int:
    """The length of a vector, from one image of zeros: only the code itself knows it."""
    import torch

    try:
        with torch.inference_mode():
            return int(forward(module, torch.zeros(1, *preprocessing.shape)).shape[1])
    except EncoderError:
        raise
    except Exception as error:  # it is foreign code: anything can happen
        raise _failed(model_path, error) from error


def _run_code(model_path: str) -> Any:
    """The model in float32, with every weight from the file."""
    import torch
    from transformers import AutoModel

    try:
        module, report = AutoModel.from_pretrained(
            model_path, trust_remote_code=True, dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # it is foreign code: anything can happen
        raise _failed(model_path, error) from error
    if report["missing_keys"]:
        missing = sorted(report["missing_keys"])
        raise EncoderError(
            f"{len(missing)} weights are missing, the first: {missing[:3]}",
            where=model_path,
            hint="the snapshot is damaged; fetch it again",
        )
    return module.eval()


def _outputs(output: Any, model_path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Summary and features of what RADIO's code returns: a pair, or with adaptors a dictionary of pairs."""
    if isinstance(output, dict) and "backbone" in output:
        output = output["backbone"]
    if hasattr(output, "summary") and hasattr(output, "features"):
        return output.summary, output.features
    if isinstance(output, tuple) and len(output) == 2:
        return output[0], output[1]
    raise EncoderError(
        f"the model's own code returned a {type(output).__name__}, not a summary and features",
        where=model_path,
        hint="only code that does as NVIDIA's RADIO can be used",
    )


def _code_digest(module: Any) -> str:
    """SHA-256, its first half, over the Python files that transformers put beside the module's own."""
    folder = Path(inspect.getfile(type(module))).parent
    digest = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        digest.update(f"{path.name}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:32]


def _failed(model_path: str, error: Exception) -> EncoderError:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return EncoderError(
        f"the model's own code failed: {type(error).__name__}: {first}",
        where=model_path,
        hint="it may need other packages, or another version of transformers, than are installed here",
    )
