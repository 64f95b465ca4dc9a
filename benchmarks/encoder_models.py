"""Every family of encoders at full size with random weights, and its vectors by its own library.

`MODELS` makes a model: a function of a folder and of whether it is to be tiny, which writes a snapshot there and
returns what `model_path` has to be. `REFERENCES` gives the vectors of such a snapshot as the family's own library
computes them on the CPU in float32: a function of the model path and of image paths, which returns images x dimension.
Both are keyed by the value of the setting `model`; a variant stands behind a colon (``DINOv3: ConvNeXt``).

Each entry stands alone. Random weights are made to depend on the image: a fresh model of some families gives every
image almost the same vector, and then everything would agree with everything.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Vectors = npt.NDArray[np.float32]
#: The tower of the tiny models.
_TINY = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
_TINY_TEXT = {**_TINY, "vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
#: Images that a reference computes at a time.
_BATCH = 16


def save_random(make: Callable[[], Any], folder: Path) -> Path:
    """Make a transformers model with random weights that are far from zero, and save it.

    Parameters
    ----------
    make:
        Makes the model; called after the seed is set.
    folder:
        Where it goes.
    """
    import torch

    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.02)
    model.save_pretrained(folder)
    return folder


def by_transformers(
    path: Path, images: Sequence[str], model: Callable[[str], Any], vectors: Callable[[Any], Any]
) -> Vectors:
    """The vectors of a transformers model: its own Pillow-backed processor, float32, on the CPU.

    Parameters
    ----------
    path:
        The snapshot.
    images:
        Paths of images.
    model:
        Loads the model from the snapshot's path.
    vectors:
        From the model's output to the vectors.
    """
    import torch
    from PIL import Image
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(path, backend="pil")
    module = model(str(path)).eval()
    found = []
    for first in range(0, len(images), _BATCH):
        pictures = [Image.open(name).convert("RGB") for name in images[first : first + _BATCH]]
        with torch.inference_mode():
            found.append(vectors(module(**processor(images=pictures, return_tensors="pt"))).float().numpy())
    return np.concatenate(found)


def clip(folder: Path, tiny: bool) -> Path:
    """CLIP ViT-B/32."""
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    config = CLIPConfig()
    if tiny:
        vision = {**_TINY, "image_size": 32, "patch_size": 8}
        config = CLIPConfig(text_config=_TINY_TEXT, vision_config=vision, projection_dim=24)
    side = config.vision_config.image_size
    CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(
        folder
    )
    return save_random(lambda: CLIPModel(config), folder)


def clip_reference(path: Path, images: Sequence[str]) -> Vectors:
    """The projected class token."""
    from transformers import CLIPVisionModelWithProjection

    return by_transformers(
        path, images, CLIPVisionModelWithProjection.from_pretrained, lambda output: output.image_embeds
    )


def siglip(folder: Path, tiny: bool) -> Path:
    """SigLIP B/16 of 224 pixels."""
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    config = SiglipConfig()
    if tiny:
        config = SiglipConfig(text_config=_TINY_TEXT, vision_config={**_TINY, "image_size": 32, "patch_size": 8})
    side = config.vision_config.image_size
    SiglipImageProcessorPil(size={"height": side, "width": side}).save_pretrained(folder)
    return save_random(lambda: SiglipModel(config), folder)


def siglip_reference(path: Path, images: Sequence[str]) -> Vectors:
    """The attention-pooling head's output."""
    from transformers import SiglipVisionModel

    return by_transformers(path, images, SiglipVisionModel.from_pretrained, lambda output: output.pooler_output)


#: By the value of the setting `model`: writes a snapshot and returns its path.
MODELS: dict[str, Callable[[Path, bool], Path]] = {
    "CLIP": clip,
    "SigLIP": siglip,
}
#: By the same: the vectors of a snapshot as the family's own library computes them.
REFERENCES: dict[str, Callable[[Path, Sequence[str]], Vectors]] = {
    "CLIP": clip_reference,
    "SigLIP": siglip_reference,
}
