"""Fingerprints do not change from release to release: tables of yesterday stay comparable with those of today.

The weights are counted, not random, so that they are the same with every version of every library.
"""

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from lookalike import embed_images
from support import snapshots

#: As they were written before poolings, layers and sizes could be chosen.
BEFORE = {
    "CLIP": "1860d16a1e848752987fc8cab1372e8653fa1ed11c88216d211f85cfc2777713",
    "SigLIP": "60b9c48e6579961c4e7a925b02f67e0c8dae888b87db7849fb6ff53d28b4869f",
    "timm": "268be356b2abc7a495d90c28875893be4380164f41164ceda5a566a772feffd2",
}


def counted(folder):
    """Give every weight of a snapshot a value that follows from its place alone."""
    import torch

    weights = load_file(folder / "model.safetensors")
    for key, value in weights.items():
        if value.is_floating_point():
            weights[key] = (torch.arange(value.numel(), dtype=torch.float32) % 97 / 970).reshape(value.shape)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def timm_snapshot(folder):
    import timm

    timm.models.save_for_hf(timm.create_model("resnet10t", num_classes=0), folder, safe_serialization=True)
    return folder


@pytest.mark.parametrize(
    ("model", "make"), [("CLIP", snapshots.clip), ("SigLIP", snapshots.siglip), ("timm", timm_snapshot)]
)
def test_the_fingerprint_is_that_of_earlier_releases(model, make, tmp_path):
    folder = counted(make(tmp_path / "model"))
    path = tmp_path / "image.png"
    Image.fromarray(np.full((40, 50, 3), 90, np.uint8)).save(path)
    table = pa.table({"filepath": [str(path)]})
    result = embed_images(table, tmp_path / "out.parquet", model, str(folder), cache_dir="off", device="cpu")
    assert result.identity.fingerprint == BEFORE[model]
