"""Tiny random models in the layout that the hub uses: real loading code, no network."""

from __future__ import annotations

from pathlib import Path

from support.tokenizers import clip_tokenizer, siglip_tokenizer

VOCABULARY = {"vocab_size": 100, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}


def clip(folder: Path, *, seed: int = 0, image_size: int = 32) -> Path:
    """A CLIP snapshot: 24-d vectors, shortest edge and centre crop."""
    import torch
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

    torch.manual_seed(seed)
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = CLIPConfig(
        text_config={**tower, **VOCABULARY, "max_position_embeddings": 77},
        vision_config={**tower, "image_size": image_size, "patch_size": 8},
        projection_dim=24,
    )
    CLIPModel(config).save_pretrained(folder)
    CLIPImageProcessorPil(
        size={"shortest_edge": image_size}, crop_size={"height": image_size, "width": image_size}
    ).save_pretrained(folder)
    clip_tokenizer(folder)
    return folder


def siglip(folder: Path, *, seed: int = 0, image_size: int = 32, hidden: int = 32) -> Path:
    """A SigLIP snapshot; fixed-resolution SigLIP2 repositories have the same configuration and classes."""
    import torch
    from transformers import SiglipConfig, SiglipImageProcessorPil, SiglipModel

    torch.manual_seed(seed)
    tower = {"hidden_size": hidden, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = SiglipConfig(
        text_config={**tower, **VOCABULARY, "max_position_embeddings": 64},
        vision_config={**tower, "image_size": image_size, "patch_size": 8},
    )
    model = SiglipModel(config)
    # A fresh SigLIP starts with a probe and biases near zero: make the vectors depend on the image.
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.05)
    model.save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": image_size, "width": image_size}).save_pretrained(folder)
    siglip_tokenizer(folder)
    return folder
