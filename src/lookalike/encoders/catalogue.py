"""Well-known models to begin with, and what to pick for inspection images.

A cell is empty ("" or 0) where a fact was not checked. Dimensions and sizes are those of the vision side, computed from
the configurations of the models; licences are those of the weights, from the publishers' own model cards and licence
files: see docs/encoders.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from lookalike.encoders.families import FAMILIES


@dataclass(frozen=True)
class KnownModel:
    """A model that many people have.

    Attributes
    ----------
    family:
        What the setting `model` says.
    path:
        What the setting `model_path` says; a Hugging Face id, or a timm name.
    dimension:
        Length of a vector.
    millions:
        Parameters of the vision side, in millions.
    licence:
        Of the weights.
    note:
        What must be known before it can be used.
    """

    family: str
    path: str
    dimension: int
    millions: float
    licence: str
    note: str = ""


_GATED = "accept its terms on the hub first"
_NVIDIA = "NVIDIA Open Model"
_ALL = (
    KnownModel("DINOv2", "facebook/dinov2-small", 384, 22, "Apache-2.0"),
    KnownModel("DINOv2", "facebook/dinov2-base", 768, 87, "Apache-2.0"),
    KnownModel("DINOv2", "facebook/dinov2-large", 1024, 304, "Apache-2.0"),
    KnownModel("DINOv3", "facebook/dinov3-vits16-pretrain-lvd1689m", 384, 22, "DINOv3", _GATED),
    KnownModel("DINOv3", "facebook/dinov3-vitb16-pretrain-lvd1689m", 768, 86, "DINOv3", _GATED),
    KnownModel("SigLIP", "google/siglip-base-patch16-224", 768, 93, "Apache-2.0"),
    KnownModel("SigLIP", "google/siglip-so400m-patch14-384", 1152, 428, "Apache-2.0"),
    KnownModel("SigLIP2", "google/siglip2-base-patch16-224", 768, 93, "Apache-2.0"),
    KnownModel("CLIP", "openai/clip-vit-base-patch32", 512, 88, "MIT"),
    KnownModel("CLIP", "openai/clip-vit-large-patch14", 768, 304, "MIT"),
    KnownModel("OpenCLIP", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", 512, 88, "MIT"),
    KnownModel("C-RADIO", "nvidia/C-RADIOv3-B", 0, 0, _NVIDIA),
    KnownModel("C-RADIO", "nvidia/C-RADIOv3-H", 0, 0, _NVIDIA),
    KnownModel("timm", "tf_efficientnet_lite0.in1k", 1280, 3.4, ""),
    KnownModel("timm", "vit_small_patch14_reg4_dinov2.lvd142m", 384, 22, "Apache-2.0"),
)


@dataclass(frozen=True)
class Advice:
    """One line of what to pick: the model (or what to do), and why."""

    what: str
    why: str


def known_models() -> list[KnownModel]:
    """The well-known models of the families that are here."""
    return [model for model in _ALL if model.family in FAMILIES]


def advice(has_gpu: bool) -> list[Advice]:
    """What to pick for inspection images, the first thing to try first.

    Parameters
    ----------
    has_gpu:
        Whether this machine has a GPU that PyTorch may use; without one the smaller model is named.
    """
    picks = [
        (
            "DINOv2",
            f"facebook/dinov2-{'base' if has_gpu else 'small'}",
            "learned from images alone: it keeps texture, edges and shape, of which no caption speaks; for products, "
            "too (Apache-2.0)" + ("" if has_gpu else "; the small one, because there is no GPU here"),
        ),
        (
            "SigLIP",
            "google/siglip-base-patch16-224",
            "the default of the reference: take it where tables of TAO's default are to be compared with, or where you "
            "want to describe a defect in words",
        ),
        (
            "timm",
            "your own checkpoint",
            "knows your products; but what it was never taught to see, it will not find either",
        ),
    ]
    return [
        *(Advice(f"model={family} model_path={path}", why) for family, path, why in picks if family in FAMILIES),
        Advice(
            "cut the component out of the board (crop=true)",
            "an encoder sees every image at some 224 to 518 pixels: a defect of ten pixels on a whole board is gone",
        ),
        Advice(
            "compare two encoders on your own images: lookalike tune --with",
            "no encoder is best for every product, and held-out targets tell them apart without labels",
        ),
    ]
