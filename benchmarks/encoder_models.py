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
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    return folder


def by_transformers(
    path: Path, images: Sequence[str], model: Callable[[str], Any], vectors: Callable[[Any, Any], Any], **sizes: Any
) -> Vectors:
    """The vectors of a transformers model: its own processor (Pillow-backed if there is one), float32, on the CPU.

    Parameters
    ----------
    path:
        The snapshot.
    images:
        Paths of images.
    model:
        Loads the model from the snapshot's path.
    vectors:
        From the model and its inputs to the vectors.
    sizes:
        Given to the processor, as `size` and `crop_size`.
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
            inputs = processor(images=pictures, return_tensors="pt", **sizes)
            found.append(vectors(module, inputs).float().numpy())
    return np.concatenate(found)


def _pooler_output(model: Any, inputs: Any) -> Any:
    return model(**inputs).pooler_output


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
    from transformers import CLIPModel

    return by_transformers(
        path, images, CLIPModel.from_pretrained, lambda model, inputs: model.get_image_features(**inputs).pooler_output
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

    return by_transformers(
        path, images, SiglipVisionModel.from_pretrained, lambda model, inputs: model(**inputs).pooler_output
    )


def siglip2(folder: Path, tiny: bool) -> Path:
    """SigLIP2 B/16 of 224 pixels: SigLIP's architecture and model_type, bilinear, another tokenizer."""
    from transformers import SiglipImageProcessorPil

    siglip(folder, tiny)
    side = 32 if tiny else 224
    SiglipImageProcessorPil(size={"height": side, "width": side}, resample=2).save_pretrained(folder)
    return folder


def naflex(folder: Path, tiny: bool) -> Path:
    """SigLIP2 B/16 NaFlex of 256 patches."""
    from transformers import Siglip2Config, Siglip2ImageProcessorPil, Siglip2Model

    config, patch, patches = Siglip2Config(), 16, 256
    if tiny:
        patch, patches = 8, 24
        text = {**_TINY_TEXT, "projection_size": 32}
        config = Siglip2Config(text_config=text, vision_config={**_TINY, "num_patches": 16, "patch_size": patch})
    Siglip2ImageProcessorPil(patch_size=patch, max_num_patches=patches).save_pretrained(folder)
    return save_random(lambda: Siglip2Model(config), folder)


def naflex_reference(path: Path, images: Sequence[str]) -> Vectors:
    """The attention-pooling head's output."""
    from transformers import Siglip2VisionModel

    return by_transformers(
        path, images, Siglip2VisionModel.from_pretrained, lambda model, inputs: model(**inputs).pooler_output
    )


def _dinov2(folder: Path, tiny: bool, config_class: Any, model_class: Any) -> Path:
    """DINOv2 B/14, which has positions for 518 pixels and a processor that makes 224."""
    from transformers import BitImageProcessorPil

    config = config_class(image_size=518, patch_size=14)
    if tiny:
        config = config_class(**_TINY, mlp_ratio=2, image_size=48, patch_size=8)
    edge, side = (36, 32) if tiny else (256, 224)
    BitImageProcessorPil(size={"shortest_edge": edge}, crop_size={"height": side, "width": side}).save_pretrained(
        folder
    )
    return save_random(lambda: model_class(config), folder)


def dinov2(folder: Path, tiny: bool) -> Path:
    """DINOv2 B/14."""
    from transformers import Dinov2Config, Dinov2Model

    return _dinov2(folder, tiny, Dinov2Config, Dinov2Model)


def dinov2_registers(folder: Path, tiny: bool) -> Path:
    """DINOv2 B/14 with registers."""
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    return _dinov2(folder, tiny, Dinov2WithRegistersConfig, Dinov2WithRegistersModel)


def dinov3(folder: Path, tiny: bool) -> Path:
    """DINOv3 ViT-B/16."""
    from transformers import DINOv3ViTConfig, DINOv3ViTImageProcessor, DINOv3ViTModel

    base = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = DINOv3ViTConfig(**base, num_register_tokens=4)
    if tiny:
        config = DINOv3ViTConfig(**_TINY, num_register_tokens=4, image_size=32, patch_size=8)
    side = config.image_size
    DINOv3ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return save_random(lambda: DINOv3ViTModel(config), folder)


def dinov3_convnext(folder: Path, tiny: bool) -> Path:
    """DINOv3 ConvNeXt Tiny."""
    from transformers import DINOv3ConvNextConfig, DINOv3ConvNextModel, DINOv3ViTImageProcessor

    config = DINOv3ConvNextConfig()
    if tiny:
        config = DINOv3ConvNextConfig(hidden_sizes=[8, 16, 24, 32], depths=[1, 1, 2, 1])
    side = 64 if tiny else 224
    DINOv3ViTImageProcessor(size={"height": side, "width": side}).save_pretrained(folder)
    return save_random(lambda: DINOv3ConvNextModel(config), folder)


def dino_reference(path: Path, images: Sequence[str]) -> Vectors:
    """The class token after the final norm."""
    from transformers import AutoModel

    return by_transformers(path, images, AutoModel.from_pretrained, _pooler_output)


def radio(folder: Path, tiny: bool) -> Path:
    """C-RADIO B/16 of 224 pixels, in transformers' layout."""
    from transformers import CLIPImageProcessorPil, RadioConfig, RadioModel

    config = RadioConfig(hidden_size=768, num_hidden_layers=12, num_attention_heads=12)
    if tiny:
        config = RadioConfig(
            hidden_size=192, num_hidden_layers=2, num_attention_heads=3, mlp_ratio=2.0, patch_size=8, image_size=32,
            max_img_size=64, num_cls_tokens=3, num_registers=5, summary_idxs=[0, 2],
        )  # fmt: skip
    side = 32 if tiny else 224
    # The model normalises by itself.
    CLIPImageProcessorPil(
        size={"height": side, "width": side}, do_center_crop=False, do_normalize=False
    ).save_pretrained(folder)
    return save_random(lambda: RadioModel(config), folder)


def radio_reference(path: Path, images: Sequence[str]) -> Vectors:
    """The summary."""
    from transformers import RadioModel

    return by_transformers(path, images, RadioModel.from_pretrained, lambda model, inputs: model(**inputs).summary)


#: By the value of the setting `model`: writes a snapshot and returns its path.
MODELS: dict[str, Callable[[Path, bool], Path]] = {
    "CLIP": clip,
    "SigLIP": siglip,
    "SigLIP2": siglip2,
    "SigLIP2: NaFlex": naflex,
    "DINOv2": dinov2,
    "DINOv2: registers": dinov2_registers,
    "DINOv3": dinov3,
    "DINOv3: ConvNeXt": dinov3_convnext,
    "C-RADIO": radio,
}
#: By the same: the vectors of a snapshot as the family's own library computes them.
REFERENCES: dict[str, Callable[[Path, Sequence[str]], Vectors]] = {
    "CLIP": clip_reference,
    "SigLIP": siglip_reference,
    "SigLIP2": siglip_reference,
    "SigLIP2: NaFlex": naflex_reference,
    "DINOv2": dino_reference,
    "DINOv2: registers": dino_reference,
    "DINOv3": dino_reference,
    "DINOv3: ConvNeXt": dino_reference,
    "C-RADIO": radio_reference,
}
