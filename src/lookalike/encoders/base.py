"""The interface that every encoder fits, and what the PyTorch ones share."""

from __future__ import annotations

import hashlib
import json
import logging
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import ImageEmbeddingsConfig as _Config
from lookalike.encoders.identity import EncoderIdentity
from lookalike.errors import ConfigError
from lookalike.images.decode import DecodeSettings
from lookalike.images.preprocess import Preprocessing

if TYPE_CHECKING:
    import torch

#: A batch: a float32 array, or (on a card) a tensor where the encoder is, in the encoder's type.
Pixels: TypeAlias = "npt.NDArray[np.float32] | torch.Tensor"
#: Vectors that are on their way.
Pending: TypeAlias = Callable[[], "npt.NDArray[np.float32]"]

log = logging.getLogger(__name__)


#: Families whose vectors in bf16 keep a cosine of 0.9999 to fp32. timm is not one: EfficientNet-Lite0 has 0.98 to 0.99.
#: DINOv2, DINOv3 and C-RADIO keep it, too, with random weights at full size. Real ones were not measured, and
#: their tokens are known for outliers (Darcet et al. 2023): they stay in fp32 unless bf16 is asked for.
_KEEPS_BF16 = frozenset({"CLIP", "SigLIP", "SigLIP2"})


class Encoder(Protocol):
    """Turns images into vectors.

    Attributes
    ----------
    identity:
        What wrote the vectors.
    preprocessing:
        Turns one decoded image into the array that `encode` takes. Called from several threads.
    """

    @property
    def identity(self) -> EncoderIdentity:
        """What wrote the vectors."""
        ...

    @property
    def preprocessing(self) -> Preprocessing:
        """Turns one decoded image into the array that `encode` takes; called from several threads."""
        ...

    def encode(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """Turn a batch (images x the shape of the preprocessing) into vectors (images x dimension, float32)."""
        ...

    def start(self, pixels: Pixels) -> Pending:
        """Begin what `encode` does; calling the result waits for it. On a card the two overlap with other work."""
        ...


@dataclass(frozen=True)
class LoadRequest:
    """What the user asks for when a model is loaded; the fields are those of the configuration.

    Attributes
    ----------
    decoding:
        How files become pixels; its colour and orientation rules are part of the preprocessing digest.
    model_path, architecture, device, precision, runtime, and the rest:
        See `ImageEmbeddingsConfig`.
    """

    model_path: str
    architecture: str
    device: str
    precision: str
    decoding: DecodeSettings
    runtime: str = _Config.runtime
    model_config_path: str = _Config.model_config_path
    pooling: str = _Config.pooling
    layer: int = _Config.layer
    normalize: str = _Config.normalize
    image_size: int = _Config.image_size
    augment: str = _Config.augment
    trust_remote_code: bool = _Config.trust_remote_code

    @classmethod
    def of(cls, settings: _Config, device: str, decoding: DecodeSettings) -> LoadRequest:
        """What the settings of a run ask for, on one device."""
        given = {f.name: getattr(settings, f.name) for f in fields(cls) if hasattr(settings, f.name)}
        return cls(**{**given, "device": device, "decoding": decoding})

    def preprocessing_digest(self, preprocessing: Preprocessing) -> str:
        """SHA-256 over everything between a file and the model's input."""
        steps = asdict(preprocessing)
        if not preprocessing.most_patches:  # came later: the digests of everything else stay what they were
            del steps["most_patches"]
        rules = {"exif": self.decoding.exif, "bit_depth": self.decoding.bit_depth, **steps}
        return hashlib.sha256(json.dumps(rules, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class TorchEncoder:
    """An encoder whose forward pass is a PyTorch function.

    Attributes
    ----------
    identity, preprocessing:
        See `Encoder`.
    forward:
        From a batch on `device` to vectors on it.
    device:
        Where the weights are.
    dtype:
        Of the weights and the batch.
    slices:
        How many images `forward` gets at a time.
    """

    identity: EncoderIdentity
    preprocessing: Preprocessing
    forward: Callable[[torch.Tensor], torch.Tensor]
    device: torch.device
    dtype: torch.dtype
    slices: Slices

    def encode(self, pixels: Pixels) -> npt.NDArray[np.float32]:
        """See `Encoder.encode`."""
        return self.start(pixels)()

    def start(self, pixels: Pixels) -> Pending:
        """See `Encoder.start`."""
        import torch

        # PyTorch computes float32 convolutions on CUDA in TF32 by default: fp32 here means fp32.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            batch = torch.from_numpy(pixels) if isinstance(pixels, np.ndarray) else pixels
            vectors = self._forward(batch)
            if self.device.type != "cuda":
                ready = vectors.cpu().numpy()
                return lambda: ready
            host = torch.empty(vectors.shape, dtype=vectors.dtype, pin_memory=True)
            host.copy_(vectors, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(torch.cuda.current_stream(self.device))

        def wait() -> npt.NDArray[np.float32]:
            copied.synchronize()
            return host.numpy()

        return wait

    def memory_ran_out(self) -> None:
        """Take no more memory than the model needs from now on; called where something else on its device has none."""
        from lookalike.encoders.graph import GraphedForward

        if isinstance(self.forward, GraphedForward):
            self.forward.stop_recording()

    def _forward(self, batch: torch.Tensor) -> torch.Tensor:
        """Run the model slice by slice; where memory runs out, in smaller slices from then on."""
        import torch

        done: list[torch.Tensor] = []
        first = 0
        while first < len(batch):
            part = batch[first : first + self.slices.images]
            try:
                done.append(self.forward(part.to(self.device, self.dtype, non_blocking=True)).float())
            except torch.OutOfMemoryError:
                if len(part) == 1:
                    raise
                self.slices.halve(len(part))
            else:
                first += len(part)
        return torch.cat(done)


@dataclass
class Slices:
    """How many images a model takes at a time; it changes when memory runs out.

    Attributes
    ----------
    images:
        For a GPU, as many as there are. For a CPU, few: the activations of a large batch leave the cache and, with
        glibc, are given back to the system after every layer, which makes EfficientNet-Lite0 3 times slower at 64
        images than at 4.
    """

    images: int
    _said: bool = field(default=False, repr=False)

    @classmethod
    def of(cls, device: torch.device, *, cpu: int) -> Slices:
        """The right slices for a device, `cpu` images on a CPU."""
        return cls(cpu if device.type == "cpu" else sys.maxsize)

    def halve(self, failed: int) -> None:
        """Take half of what was too much, and say so the first time."""
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        level = logging.DEBUG if self._said else logging.WARNING
        self._said = True
        self.images = failed // 2
        log.log(level, "memory ran out at %d images at a time; going on with %d", failed, self.images)


def choose_device(wanted: str) -> torch.device:
    """Resolve the setting `device`: ``auto`` takes a CUDA device, then Apple's, then the CPU.

    Raises
    ------
    ConfigError
        When the device is unknown or not there; names those that are.
    """
    import torch

    present = ["cpu"]
    if torch.cuda.is_available():
        present = [f"cuda:{index}" for index in range(torch.cuda.device_count())] + present
    if torch.backends.mps.is_available():
        present = ["mps", *present]
    if wanted == "auto":
        return torch.device(present[0])
    name = "cuda:0" if wanted == "cuda" else wanted
    if name not in present:
        raise ConfigError(f"device={wanted!r} is not here", hint=f"use auto or one of: {', '.join(present)}")
    return torch.device(name)


def choose_precision(wanted: str, device: torch.device, family: str) -> str:
    """Resolve the setting `precision` to ``fp32``, ``bf16`` or ``fp16``.

    Parameters
    ----------
    wanted:
        The setting.
    device:
        Where the model runs.
    family:
        ``auto`` takes bf16 for a family that keeps its vectors, where it is fast.
    """
    import torch

    if wanted != "auto":
        return wanted
    if not keeps_bf16(family):
        return "fp32"
    if device.type == "cuda":
        with torch.cuda.device(device):
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu":
        # Older releases of torch do not tell; without the instructions bf16 is slower than fp32.
        has: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
        return "bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else "fp32"
    return "fp32"


def keeps_bf16(family: str) -> bool:
    """Whether vectors of a family keep a cosine of 0.9999 to fp32 when they are computed in bf16."""
    return family in _KEEPS_BF16


def torch_dtype(precision: str) -> torch.dtype:
    """The torch type of a resolved precision."""
    import torch

    return {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]


def weights_digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 over tensors by name: the same for a sharded, renamed or converted file of the same weights."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        # reshape(-1) first: a scalar tensor has no dimension to reinterpret.
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
