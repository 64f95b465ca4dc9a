"""Files with weights: nothing in them is run, and every weight must find its place."""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from lookalike.errors import EncoderError

if TYPE_CHECKING:
    import torch

#: Weights by name.
State: TypeAlias = "dict[str, torch.Tensor]"

#: Endings of a file with weights; anything else in `model_path` is a folder or a name.
CHECKPOINT_SUFFIXES = frozenset({".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar"})
#: What torch raises on a file that it did not write, or that is cut short.
UNREADABLE = (OSError, RuntimeError, ValueError, TypeError, AttributeError, EOFError, pickle.UnpicklingError)
#: How torch names what a pickle asks for and may not have.
_REFUSED = re.compile(r"(?:GLOBAL|[Uu]nsupported class) ([\w.]+)")
#: Before its message torch recommends to load the file with everything in it.
_PREAMBLE = re.compile(r".*WeightsUnpickler error:", re.DOTALL)
#: What to do about weights that do not fit an architecture that a training spec names.
SPEC_HINT = "check that the training spec belongs to the checkpoint"
#: Names of weights that an error prints of each kind.
_LISTED = 10


def read_state(path: Path) -> State:
    """The weights of a file that safetensors or `torch.save` wrote, on the CPU.

    A pickle may ask for tensors, plain containers and NumPy scalars; nothing else, so nothing of it is run.

    Parameters
    ----------
    path:
        A plain state dict, or a training checkpoint that has one under ``state_dict``.

    Raises
    ------
    EncoderError
        When the file is missing, damaged, holds no state dict, or asks for something else: names it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not path.is_file():
        raise EncoderError("the checkpoint file does not exist", where=str(path), hint="check the path")
    if path.suffix.lower() == ".safetensors":
        try:
            return load_file(path)
        except (*UNREADABLE, SafetensorError) as error:
            raise _unreadable(path, error) from error
    content = _unpickled(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    import torch

    if not isinstance(content, Mapping) or not content or not all(map(torch.is_tensor, content.values())):
        raise EncoderError(
            "holds no state dict, a table of tensors by name",
            where=str(path),
            hint="save a plain state dict: torch.save(model.state_dict(), path)",
        )
    return {str(name): tensor for name, tensor in content.items()}


def fill(
    module: Any,
    state: State,
    *,
    where: str,
    what: str,
    hint: str = SPEC_HINT,
    prefix: str = "",
    unknown: Iterable[str] = (),
) -> None:
    """Put every weight of a file into a model.

    Parameters
    ----------
    module:
        A `torch.nn.Module`.
    state:
        The weights, named as the model names them.
    where, what, hint:
        For the error: the file, the architecture, and what to do next.
    prefix:
        What the names in the file have before those of the model.
    unknown:
        Further names of the file that belong nowhere.

    Raises
    ------
    EncoderError
        When weights are missing, left over or of another shape; lists their names.
    """
    expected = module.state_dict()
    shapes = [
        f"{prefix}{name} is {tuple(state[name].shape)}, not {tuple(weight.shape)}"
        for name, weight in expected.items()
        if name in state and state[name].shape != weight.shape
    ]
    missing = [prefix + name for name in expected if name not in state]
    unexpected = [*(prefix + name for name in state if name not in expected), *unknown]
    if missing or unexpected or shapes:
        raise misfit(what, where, missing, unexpected, shapes, hint=hint)
    module.load_state_dict(state)


def misfit(
    what: str,
    where: str,
    missing: list[str],
    unexpected: list[str],
    shapes: Sequence[str] = (),
    *,
    hint: str = SPEC_HINT,
) -> EncoderError:
    """The error that lists the weights that do not fit an architecture."""
    kinds = (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes))
    problems = [f"{len(names)} weights {problem} ({_listed(names)})" for problem, names in kinds if names]
    return EncoderError(f"the checkpoint does not fit {what}: {'; '.join(problems)}", where=where, hint=hint)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _unpickled(path: Path) -> Any:
    """What `torch.save` wrote; a large file is mapped, so that the optimiser's state in it is never read."""
    import torch

    try:
        with torch.serialization.safe_globals(_numpy_scalars()), warnings.catch_warnings():
            # Of a pickle protocol that torch may not read; where it does not, that is the error.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UNREADABLE as error:
        wanted = _REFUSED.search(str(error))
        if wanted is None:
            raise _unreadable(path, error) from error
        raise EncoderError(
            f"the checkpoint cannot be read: it asks for {wanted.group(1)}, and only tensors, plain containers and "
            "NumPy scalars are loaded, so that nothing in a file is run",
            where=str(path),
            hint="save a plain state dict where the model was trained: torch.save({'state_dict': "
            "model.state_dict()}, path)",
        ) from error


def _unreadable(path: Path, error: BaseException) -> EncoderError:
    first = (_PREAMBLE.sub("", str(error)).strip() or repr(error)).splitlines()[0]
    return EncoderError(
        f"the checkpoint cannot be read: {first}",
        where=str(path),
        hint="the file may be cut short: copy it again. Otherwise save a plain state dict: "
        "torch.save(model.state_dict(), path)",
    )


def _numpy_scalars() -> list[Any]:
    """What a pickled NumPy scalar needs, under the names that NumPy 1 and 2 write."""
    import _codecs

    import numpy as np

    kinds = {type(np.dtype(kind)) for kind in "?bhilqBHILQefdgFD"}
    scalar: Any = np.float64(0).__reduce__()[0]
    return [
        (scalar, "numpy._core.multiarray.scalar"),
        (scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        *sorted(kinds, key=lambda kind: kind.__name__),
        # Older pickle protocols write a scalar's bytes as text, and this turns them back.
        _codecs.encode,
    ]
