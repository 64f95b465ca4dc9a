"""TorchScript archives (`torch.jit.save`) and exported programs (`torch.export.save`).

Both are programs, and neither can be loaded from somebody who is not trusted, so both need `trust_remote_code`:

- A TorchScript archive is source code that PyTorch's interpreter runs. Its operators include ``aten::save``, which
  writes any object to any file; PyTorch's documentation says to load only what one trusts.
- `torch.export.load` names the functions of its graph by dotted paths that start in the module ``torch``, from where
  all of Python can be reached (``torch.os.system``), evaluates expressions with SymPy's ``sympify``, and unpickles
  without ``weights_only`` where the archive says so.

The model takes images x 3 x height x width and gives, alone or among others, one tensor of images x dimension. How
images are prepared stands in a file beside it (`model_file`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lookalike.encoders.base import LoadRequest, Slices, TorchEncoder, choose_device
from lookalike.encoders.identity import EncoderIdentity, ModelIdentity, Numerics, Origin
from lookalike.encoders.model_file import files_digest, in_batches, only_vectors, open_model_file
from lookalike.encoders.vectors import Finish
from lookalike.errors import EncoderError

if TYPE_CHECKING:
    import torch

#: The endings of each family; a state dict may end in .pt, too, and is refused when it is read.
_SUFFIXES = {"TorchScript": (".ts", ".pt"), "ExportedProgram": (".pt2",)}
#: For the identity: a renamed file is the same encoder.
_KINDS = {"TorchScript": "TorchScript program", "ExportedProgram": "exported program"}


def load(family_name: str, request: LoadRequest) -> TorchEncoder:
    """Load an exported model. The caller has seen to it that its maker is trusted.

    Raises
    ------
    EncoderError
        When the file cannot be read, or is not from images to vectors.
    ConfigError
        When a precision is asked for that it was not exported with.
    """
    import torch

    path, preprocessing = open_model_file(request, family_name, _SUFFIXES[family_name])
    device = choose_device(request.device)
    module, batch = (_read_script if family_name == "TorchScript" else _read_program)(path, device)
    dtype = next((one.dtype for one in _tensors(module) if one.is_floating_point()), torch.float32)
    height, width = preprocessing.crop or preprocessing.size
    finish = Finish.of(request, reference=False)
    forward = _forward(
        module, torch.zeros(batch or 2, 3, height, width, device=device, dtype=dtype), request.model_path
    )
    if batch is not None:
        forward = in_batches(forward, batch, _padded, torch.cat)
    forward = finish.wrap(forward)
    with torch.inference_mode():
        probe = forward(torch.zeros(1, 3, height, width, device=device, dtype=dtype))
    identity = EncoderIdentity(
        ModelIdentity(
            family=family_name,
            architecture=f"{_KINDS[family_name]}, trust_remote_code=true",
            dimension=probe.shape[1],
            weights=files_digest([path]),
            preprocessing=request.preprocessing_digest(preprocessing),
            pooling=finish.pooling("model"),
            normalisation=finish.normalisation,
        ),
        Numerics(
            precision={torch.float16: "fp16", torch.bfloat16: "bf16"}.get(dtype, "fp32"),
            runtime=f"torch-{device.type}",
            decoder="pillow",
        ),
        Origin(request.model_path, {"torch": torch.__version__}),
    )
    return TorchEncoder(identity, preprocessing, forward, device, dtype, Slices.of(device, cpu=8))


def _read_script(path: Path, device: torch.device) -> tuple[Any, None]:
    """The module of a TorchScript archive, which takes any number of images."""
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that torch.export is to be preferred is known
        try:
            module = torch.jit.load(str(path), map_location=device)  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError, OSError) as error:
            raise _unreadable(path, "torch.jit.load", error) from error
    return module.eval(), None


def _read_program(path: Path, device: torch.device) -> tuple[Any, int | None]:
    """The module of an exported program, and for how many images it was exported where that is fixed."""
    import torch
    from torch.export.passes import move_to_device_pass

    try:
        program = torch.export.load(str(path))
    except Exception as error:  # of a damaged file, torch raises whatever it comes upon
        raise _unreadable(path, "torch.export.load", error) from error
    names = program.graph_signature.user_inputs
    nodes = [node for node in program.graph.nodes if node.name in names]
    shape: tuple[Any, ...] = tuple(getattr(nodes[0].meta.get("val"), "shape", ())) if len(nodes) == 1 else ()
    if len(shape) != 4:
        raise EncoderError(f"it does not take one batch of images; its inputs are {list(names)}", where=str(path))
    batch = shape[0] if isinstance(shape[0], int) else None
    return move_to_device_pass(program, str(device)).module(), batch


def _unreadable(path: Path, function: str, error: Exception) -> EncoderError:
    first = (str(error).strip() or type(error).__name__).splitlines()[0]
    return EncoderError(
        f"{function} cannot read it: {first}",
        where=str(path),
        hint="a state dict is no program; save the model with torch.jit.save (.ts, .pt) or torch.export.save (.pt2)",
    )


def _forward(module: Any, zeros: torch.Tensor, model_path: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """The module as a function, whose result is the one output with the vectors."""
    import torch

    try:
        with torch.inference_mode():
            outputs = _named(module(zeros))
    except Exception as error:  # the program's own
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(
            f"it cannot compute {len(zeros)} images of {zeros.shape[2]} x {zeros.shape[3]}: {first}",
            where=model_path,
            hint="export it for any number of images, and put the preprocessing of this very model beside it",
        ) from error
    name = only_vectors(outputs, len(zeros), model_path)

    def forward(batch: torch.Tensor) -> torch.Tensor:
        return _named(module(batch))[name]

    return forward


def _named(output: Any) -> dict[str, torch.Tensor]:
    """The tensors that a module gave, by their names or places."""
    import torch

    if isinstance(output, torch.Tensor):
        return {"output": output}
    pairs = output.items() if hasattr(output, "items") else enumerate(output)
    return {str(name): one for name, one in pairs if isinstance(one, torch.Tensor)}


def _tensors(module: Any) -> Iterator[torch.Tensor]:
    yield from module.parameters()
    yield from module.buffers()


def _padded(images: torch.Tensor, count: int) -> torch.Tensor:
    import torch

    return torch.cat([images, images.new_zeros(count - len(images), *images.shape[1:])])
