"""ONNX models on ONNX Runtime, on the CPU or a CUDA GPU; the extra ``onnx``.

The model has one input, images x 3 x height x width, and one output that is images x dimension; its vectors are taken
as they are. How images are prepared stands in a file beside it (`model_file`).

Loading one runs no code from it: ONNX Runtime computes the operators that it has, and operators of others only from a
library that the caller registers, which is never done here. Weights in other files are read only from the model's
folder.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.cores import usable_cores
from lookalike.encoders.base import LoadRequest, Pending, Pixels
from lookalike.encoders.identity import EncoderIdentity, ModelIdentity, Numerics, Origin
from lookalike.encoders.model_file import files_digest, in_batches, only_vectors, open_model_file
from lookalike.encoders.vectors import Finish
from lookalike.errors import ConfigError, EncoderError, MissingDependency
from lookalike.images.preprocess import Preprocessing

#: Images of a forward pass on a CPU: more are not faster, and each needs memory.
_SLICE = 8
_CUDA = "CUDAExecutionProvider"
_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
#: An entry `location` of a tensor whose values are in another file, as protobuf writes it: key, value with its length.
_LOCATION = re.compile(rb"\x0a\x08location\x12([\x01-\x7f])")

Images = npt.NDArray[np.float32]


def has_cuda() -> bool:
    """Whether ONNX Runtime is here and was built for CUDA."""
    return importlib.util.find_spec("onnxruntime") is not None and _CUDA in _onnxruntime().get_available_providers()


@dataclass(frozen=True)
class OnnxEncoder:
    """An encoder whose forward pass ONNX Runtime computes.

    Attributes
    ----------
    identity, preprocessing:
        See `Encoder`.
    forward:
        From some images to their vectors.
    images:
        How many images `forward` gets at a time.
    """

    identity: EncoderIdentity
    preprocessing: Preprocessing
    forward: Callable[[Images], npt.NDArray[np.float32]]
    images: int

    def encode(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """See `Encoder.encode`."""
        images = np.ascontiguousarray(pixels, np.float32)
        return np.concatenate(
            [self.forward(images[at : at + self.images]) for at in range(0, len(images), self.images)]
        )

    def start(self, pixels: Pixels) -> Pending:
        """See `Encoder.start`."""
        vectors = self.encode(pixels)
        return lambda: vectors


def load(family_name: str, request: LoadRequest) -> OnnxEncoder:
    """Load an ONNX file.

    Raises
    ------
    MissingDependency
        When ONNX Runtime is not installed.
    ConfigError
        When a device or precision is asked for that it cannot give.
    EncoderError
        When the file cannot be read, or is not from images to vectors.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise MissingDependency.of("onnxruntime", "onnx", "for model=ONNX")
    path, preprocessing = open_model_file(request, family_name, (".onnx",))
    files = [path, *_external_files(path)]
    session = _session(path, request.device)
    height, width = preprocessing.crop or preprocessing.size
    batch = _check_input(session, (height, width), request.model_path)
    finish = Finish.of(request, reference=False)
    forward = _forward(session, batch, (height, width), request.model_path)
    forward = forward if batch is None else in_batches(forward, batch, _padded, np.concatenate)
    forward = _finished(forward, finish)
    probe = forward(np.zeros((1, 3, height, width), np.float32))
    device = "cuda" if session.get_providers()[0] == _CUDA else "cpu"
    is_half = session.get_inputs()[0].type == "tensor(float16)"
    identity = EncoderIdentity(
        ModelIdentity(
            family=family_name,
            architecture="ONNX graph",
            dimension=probe.shape[1],
            weights=files_digest(files),
            preprocessing=request.preprocessing_digest(preprocessing),
            pooling=finish.pooling("model"),
            normalisation=finish.normalisation,
        ),
        Numerics(precision="fp16" if is_half else "fp32", runtime=f"onnxruntime-{device}", decoder="pillow"),
        Origin(request.model_path, {"onnxruntime": _onnxruntime().__version__}),
    )
    return OnnxEncoder(identity, preprocessing, forward, _SLICE if device == "cpu" else 1 << 30)


def _session(path: Path, device: str) -> Any:
    """The model, ready to compute."""
    runtime = _onnxruntime()
    providers: list[Any] = ["CPUExecutionProvider"]
    if device.startswith("cuda"):
        if not has_cuda():
            raise ConfigError(
                f"device={device!r} is not possible: this ONNX Runtime computes on the CPU only",
                hint="use device=cpu, or install onnxruntime-gpu instead of onnxruntime",
            )
        providers.insert(0, (_CUDA, {"device_id": int(device.partition(":")[2] or 0)}))
    elif device not in ("auto", "cpu"):
        raise ConfigError(f"device={device!r} is not possible with model=ONNX", hint="use cpu or cuda")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = usable_cores()
    options.log_severity_level = 3  # warnings about the model are for whoever exported it
    try:
        return runtime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime has a dozen kinds, without a common one below Exception
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EncoderError(f"ONNX Runtime cannot load it: {first}", where=str(path), hint="export it again") from error


def _check_input(session: Any, size: tuple[int, int], model_path: str) -> int | None:
    """Refuse a model whose input is no batch of such images; return its fixed number of images, where it has one."""
    inputs = session.get_inputs()
    listed = ", ".join(f"{one.name} {one.type} {one.shape}" for one in inputs)
    shape = inputs[0].shape if len(inputs) == 1 else []
    if len(shape) != 4 or inputs[0].type not in _TYPES or (isinstance(shape[1], int) and shape[1] != 3):
        raise EncoderError(
            f"it does not take one batch of images (images x 3 x height x width, float32 or float16); its inputs are: "
            f"{listed}",
            where=model_path,
            hint="export the model with such an input",
        )
    wanted = tuple(shape[2:])
    if any(isinstance(its, int) and its != made for its, made in zip(wanted, size, strict=True)):
        raise EncoderError(
            f"its preprocessing makes images of {size[0]} x {size[1]}, and its input is {wanted[0]} x {wanted[1]}",
            where=model_path,
            hint="put the preprocessing of this very model beside it",
        )
    return shape[0] if isinstance(shape[0], int) else None


def _forward(
    session: Any, batch: int | None, size: tuple[int, int], model_path: str
) -> Callable[[Images], npt.NDArray[np.float32]]:
    """The session as a function, whose result is the one output with the vectors."""
    given = session.get_inputs()[0]
    kind = _TYPES[given.type]
    names = [one.name for one in session.get_outputs()]

    def outputs(images: Images, wanted: list[str]) -> list[Any]:
        try:
            made: list[Any] = session.run(wanted, {given.name: images.astype(kind, copy=False)})
        except Exception as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise EncoderError(f"ONNX Runtime cannot compute it: {first}", where=model_path) from error
        return made

    images = batch or 2
    probe = outputs(np.zeros((images, 3, *size), np.float32), names)
    vectors = only_vectors(
        {name: one for name, one in zip(names, probe, strict=True) if isinstance(one, np.ndarray)}, images, model_path
    )

    def forward(batch: Images) -> npt.NDArray[np.float32]:
        made: npt.NDArray[np.float32] = outputs(batch, [vectors])[0].astype(np.float32, copy=False)
        return made

    return forward


def _finished(
    forward: Callable[[Images], npt.NDArray[np.float32]], finish: Finish
) -> Callable[[Images], npt.NDArray[np.float32]]:
    """The forward pass with averaging and normalisation, which are the same for all families, and torch's."""
    if finish.augment == "none" and not finish.normalizes:
        return forward
    import torch

    wrapped = finish.wrap(lambda batch: torch.from_numpy(forward(batch.contiguous().numpy())))

    def finished(images: Images) -> npt.NDArray[np.float32]:
        return wrapped(torch.from_numpy(images)).numpy()

    return finished


def _external_files(path: Path) -> list[Path]:
    """The other files that hold weights of the model, by name.

    They are found in the bytes of the file, which has less than 2 GB where it is valid: reading it in the usual way
    would take another large package.
    """
    content = path.read_bytes()
    names = set()
    for found in _LOCATION.finditer(content):
        names.add(content[found.end() : found.end() + found.group(1)[0]].decode(errors="replace"))
    files = [path.parent / name for name in sorted(names)]
    for name, file in zip(sorted(names), files, strict=True):
        if not file.resolve().is_relative_to(path.parent.resolve()):
            raise EncoderError(f"its weights are in {name!r}, outside its own folder", where=str(path))
        if not file.is_file():
            raise EncoderError(
                f"its weights are in {name!r}, which does not exist", where=str(path), hint="copy that file, too"
            )
    return files


def _padded(images: Images, count: int) -> Images:
    return np.concatenate([images, np.zeros((count - len(images), *images.shape[1:]), images.dtype)])


def _onnxruntime() -> Any:
    """The package, which reports nothing to anybody: on Windows it would."""
    import onnxruntime

    onnxruntime.disable_telemetry_events()
    return onnxruntime
