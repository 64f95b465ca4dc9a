"""The vision towers that transformers loads: what their families differ in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tower:
    """One kind of vision tower.

    Attributes
    ----------
    family:
        For the identity. A fixed-resolution SigLIP2 model is a SigLIP, by whichever name it was asked for.
    vision_class:
        The transformers class.
    vector:
        The attribute of its output that is the model's own vector.
    pooling:
        What the identity calls that.
    poolings:
        Other values of `pooling` that are possible.
    prefix:
        Tokens before the patches in `last_hidden_state`, registers not counted.
    blocks:
        Where its blocks are, for `layer`; empty where one cannot be chosen.
    fixed:
        Whether positions are learned for one size, and another has to be asked for in each call.
    graphs:
        Whether a CUDA graph of its forward pass is known to give the same vectors.
    """

    family: str
    vision_class: str
    vector: str
    pooling: str
    poolings: frozenset[str]
    prefix: int = 0
    blocks: str = ""
    fixed: bool = False
    graphs: bool = False

    def tokens_before(self, config: Any) -> int:
        """How many tokens of `last_hidden_state` are no patches: class tokens and registers."""
        registers = getattr(config, "num_register_tokens", 0)
        return int(getattr(config, "num_summary_tokens", self.prefix + registers))

    def dimension(self, config: Any, pooling: str, layer: int) -> int:
        """Length of the vectors."""
        if hasattr(config, "hidden_sizes"):
            return int(config.hidden_sizes[layer])
        if pooling == "model" and self.vector == "image_embeds":
            return int(config.projection_dim)
        if pooling == "model" and self.vector == "summary":
            return int(config.hidden_size) * len(config.summary_idxs)
        return int(config.hidden_size)


_ANY = frozenset({"cls", "mean", "gem"})
#: The poolings of towers without a class token.
_PATCHES = frozenset({"mean", "gem"})
_CLIP = Tower(
    "CLIP", "CLIPVisionModelWithProjection", "image_embeds", "class_token", _ANY, prefix=1, fixed=True, graphs=True
)
_SIGLIP = Tower("SigLIP", "SiglipVisionModel", "pooler_output", "attention", _PATCHES, fixed=True, graphs=True)
_NAFLEX = Tower("SigLIP2", "Siglip2VisionModel", "pooler_output", "attention", _PATCHES)
#: By `model_type` of the config.json.
TOWERS = {
    "clip": _CLIP,
    "clip_vision_model": _CLIP,
    "siglip": _SIGLIP,
    "siglip_vision_model": _SIGLIP,
    "siglip2": _NAFLEX,
    "siglip2_vision_model": _NAFLEX,
    "dinov2": Tower("DINOv2", "Dinov2Model", "pooler_output", "cls", _ANY, prefix=1, blocks="encoder.layer"),
    "dinov2_with_registers": Tower(
        "DINOv2", "Dinov2WithRegistersModel", "pooler_output", "cls", _ANY, prefix=1, blocks="encoder.layer"
    ),
    "dinov3_vit": Tower("DINOv3", "DINOv3ViTModel", "pooler_output", "cls", _ANY, prefix=1, blocks="model.layer"),
    # Its first token is the mean of all places, normalised after: no class token.
    "dinov3_convnext": Tower(
        "DINOv3", "DINOv3ConvNextModel", "pooler_output", "average", _PATCHES, prefix=1, blocks="model.stages"
    ),
    "radio": Tower("C-RADIO", "RadioModel", "summary", "summary", _PATCHES),
}
