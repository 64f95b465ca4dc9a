"""Every architecture of TAO at full size, without memory: names and shapes against another library's own model."""

import math

import pytest
import timm
import torch
from transformers import RadioConfig, RadioModel

from lookalike.encoders import tao_openclip, tao_radio, tao_siglip

open_clip = pytest.importorskip("open_clip")


@pytest.fixture(autouse=True)
def without_memory():
    """Weights have a shape, but no values."""
    with torch.device("meta"):
        yield


def shapes_of(module):
    return {name: tuple(weight.shape) for name, weight in module.state_dict().items()}


def count(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


def test_all_types_of_the_contract_are_there():
    rests = ("patch14-224", "patch14-384", "patch16-256", "patch16-384", "patch16-512")
    assert set(tao_siglip.TYPES) == {f"siglip2-so400m-{rest}" for rest in rests}
    clipa = {f"ViT-L-14-SigLIP-CLIPA-{side}" for side in (84, 224, 336)}
    clipa |= {f"ViT-H-14-SigLIP-CLIPA-{side}" for side in (84, 224, 336, 574)}
    assert set(tao_openclip.TYPES) == clipa
    assert set(tao_radio.TYPES) == {f"c-radio_v3-{letter}" for letter in "blhg"}


@pytest.mark.parametrize("name", tao_siglip.TYPES)
def test_siglip2(name):
    """timm's tower of the same name has the same weights, but with queries, keys and values in one."""
    settings = tao_siglip.TYPES[name]
    ours = shapes_of(tao_siglip.build(settings))
    patch, side = name.removeprefix("siglip2-so400m-patch").split("-")
    theirs = shapes_of(timm.create_model(f"vit_so400m_patch{patch}_siglip_{side}", num_classes=0))
    assert count(ours) == count(theirs)
    assert ours["embeddings.position_embedding.weight"] == theirs["pos_embed"][1:]
    assert ours["embeddings.patch_embedding.weight"] == theirs["patch_embed.proj.weight"]
    assert (settings["hidden_size"], settings["image_size"]) == (1152, int(side))


@pytest.mark.parametrize("name", tao_openclip.TYPES)
def test_clipa(name):
    """open_clip's own CLIPA models differ in the input size only."""
    config = tao_openclip.TYPES[name]
    ours = tao_openclip.build_tower(config, "here")
    own = open_clip.get_model_config(f"ViT-{name[4]}-14-CLIPA")
    theirs = tao_openclip.build_tower(own, "here")
    side = int(name.rsplit("-", 1)[1])
    expected = {**shapes_of(theirs), "positional_embedding": (1 + (side // 14) ** 2, config["vision_cfg"]["width"])}
    assert shapes_of(ours) == expected
    assert ours.image_size == (side, side)
    assert ours.output_dim == config["embed_dim"] == own["embed_dim"] == {"L": 768, "H": 1024}[name[4]]
    heads = [tower.transformer.resblocks[0].attn.num_heads for tower in (ours, theirs)]
    assert heads[0] == heads[1]


@pytest.mark.parametrize(
    ("letter", "width", "depth", "heads", "scaled"),
    [("b", 768, 12, 12, True), ("l", 1024, 24, 16, True), ("h", 1280, 32, 16, False), ("g", 1536, 40, 24, False)],
)
def test_radio(letter, width, depth, heads, scaled):
    """transformers' RADIO of that size has the same weights in its blocks, patches and class tokens."""
    backbone = timm.create_model(**tao_radio.TYPES[f"c-radio_v3-{letter}"], img_size=224, num_classes=0)
    ours = shapes_of(backbone)
    config = RadioConfig(
        hidden_size=width, num_hidden_layers=depth, num_attention_heads=heads, num_cls_tokens=4, num_registers=4
    )
    theirs = shapes_of(RadioModel(config))
    blocks = {name: shape for name, shape in ours.items() if name.startswith("blocks.")}
    layers = {name: shape for name, shape in theirs.items() if name.startswith("encoder.layer.")}
    if not scaled:
        layers = {name: shape for name, shape in layers.items() if "layer_scale" not in name}
    assert count(blocks) == count(layers)
    assert backbone.blocks[0].attn.num_heads == heads
    assert math.prod(ours["patch_embed.proj.weight"]) == math.prod(theirs["embeddings.patch_projection.weight"])
    assert ours["cls_token"][1] + ours["reg_token"][1] == theirs["embeddings.cls_register_token"][0]
