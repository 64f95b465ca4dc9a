"""Models of the families that are one file (ONNX, TorchScript, exported programs), and their vectors by torch itself.

`MODELS` and `REFERENCES` have the form of those in `benchmarks.encoder_models`, and are part of them. The model is
timm's ResNet-50 with random weights (tiny: ResNet-10t at 64 pixels); the file lies in the folder beside timm's
`config.json`. The reference is the module that was exported, behind timm's own evaluation transform.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
#: Images that a reference computes at a time.
_BATCH = 16


def _module(folder: Path, tiny: bool) -> tuple[Any, int]:
    """The module, always with the same weights, and the side of its images; writes what belongs beside the file."""
    import timm
    import torch

    name, side = ("resnet10t", 64) if tiny else ("resnet50", 224)
    torch.manual_seed(0)
    module = timm.create_model(name, num_classes=0).eval()
    with torch.no_grad():  # statistics of its own for every channel, as a trained model has them
        for part in module.modules():
            if isinstance(part, torch.nn.BatchNorm2d):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.5, 1.5)
    settings = {
        "input_size": [3, side, side], "crop_pct": 0.95, "interpolation": "bicubic", "crop_mode": "center",
        "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "tiny": tiny,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps({"architecture": name, "pretrained_cfg": settings}))
    return module, side


def onnx(folder: Path, tiny: bool) -> Path:
    """An ONNX file for any number of images."""
    import torch

    module, side = _module(folder, tiny)
    path = folder / "model.onnx"
    program = torch.onnx.export(
        module, (torch.zeros(2, 3, side, side),), dynamo=True, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("images", min=1, max=4096)},),
    )  # fmt: skip
    assert program is not None
    program.save(str(path))
    return path


def torchscript(folder: Path, tiny: bool) -> Path:
    """A TorchScript archive, traced."""
    import torch

    module, side = _module(folder, tiny)
    path = folder / "model.ts"
    torch.jit.save(torch.jit.trace(module, torch.zeros(2, 3, side, side)), str(path))
    return path


def exported(folder: Path, tiny: bool) -> Path:
    """An exported program for any number of images."""
    import torch

    module, side = _module(folder, tiny)
    path = folder / "model.pt2"
    dynamic = ({0: torch.export.Dim("images", min=1, max=4096)},)
    torch.export.save(torch.export.export(module, (torch.zeros(2, 3, side, side),), dynamic_shapes=dynamic), str(path))
    return path


def reference(path: Path, images: Sequence[str]) -> Vectors:
    """The vectors of the module itself, in float32 on the CPU."""
    import timm
    import torch
    from PIL import Image

    settings = json.loads((path.parent / "config.json").read_text())["pretrained_cfg"]
    module, _ = _module(path.parent, settings["tiny"])
    transform = timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=settings))
    found = []
    for first in range(0, len(images), _BATCH):
        pictures = [transform(Image.open(name).convert("RGB")) for name in images[first : first + _BATCH]]
        with torch.inference_mode():
            found.append(module(torch.stack(pictures)).numpy())
    return np.concatenate(found)


#: By the value of the setting `model`: writes a model and returns its path. TorchScript and exported programs need
#: `trust_remote_code`.
MODELS: dict[str, Callable[[Path, bool], Path]] = {
    "ONNX": onnx,
    "TorchScript": torchscript,
    "ExportedProgram": exported,
}
#: By the same: the vectors by the module that was exported.
REFERENCES: dict[str, Callable[[Path, Sequence[str]], Vectors]] = dict.fromkeys(MODELS, reference)
