"""SigLIP and CLIP in bf16 on a CPU: packed layers and the pooling head without copies against the plain model."""

import numpy as np
import pytest
import torch
from transformers import CLIPModel, SiglipModel

from lookalike import embed_images
from lookalike.encoders import attention, packed
from lookalike.encoders.attention import ContiguousAttention, without_copies
from lookalike.encoders.packed import PackedLinear, pack

KINDS = [("clip_snapshot", CLIPModel), ("siglip_snapshot", SiglipModel)]


def vectors(module, batch):
    with torch.inference_mode():
        return module.get_image_features(pixel_values=batch.to(module.dtype)).pooler_output.float()


def loaded(request, snapshot, kind, dtype):
    module = kind.from_pretrained(request.getfixturevalue(snapshot), dtype=dtype).eval().requires_grad_(False)
    size = module.config.vision_config.image_size
    return module, torch.randn(5, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("snapshot", "kind"), KINDS)
def test_packed_layers_give_the_vectors_of_the_plain_model(snapshot, kind, request):
    if not packed._works():
        pytest.skip("oneDNN has no bf16 here")
    exact, batch = loaded(request, snapshot, kind, torch.float32)
    plain, _ = loaded(request, snapshot, kind, torch.bfloat16)
    ours, _ = loaded(request, snapshot, kind, torch.bfloat16)
    pack(ours)
    assert any(isinstance(part, PackedLinear) for part in ours.modules())
    reference = vectors(exact, batch)
    of_plain, of_ours = (torch.cosine_similarity(reference, vectors(one, batch)) for one in (plain, ours))
    assert of_ours.min() > 0.999
    assert of_ours.min() > of_plain.min() - 1e-3
    np.testing.assert_array_equal(vectors(ours, batch), vectors(ours, batch))


def test_the_gelu_of_siglip_is_done_in_the_product_and_that_of_clip_is_another(request):
    if not packed._works():
        pytest.skip("oneDNN has no bf16 here")
    fused = {}
    for snapshot, kind in KINDS:
        module, _ = loaded(request, snapshot, kind, torch.bfloat16)
        pack(module)
        activations = [part.activation_fn for part in module.modules() if hasattr(part, "activation_fn")]
        fused[snapshot] = [isinstance(one, torch.nn.Identity) for one in activations]
    assert all(fused["siglip_snapshot"])
    assert not any(fused["clip_snapshot"])  # quick_gelu


def test_without_the_operators_the_plain_layers_stay(monkeypatch, request):
    monkeypatch.setattr(packed, "_ALIKE", 2.0)  # nothing is that alike
    module, _ = loaded(request, *KINDS[1], torch.bfloat16)
    pack(module)
    assert not any(isinstance(part, PackedLinear) for part in module.modules())


def test_trying_them_out_draws_no_random_number():
    state = torch.get_rng_state()
    packed._works()
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_without_copies_is_pytorchs(masked):
    generator = torch.Generator().manual_seed(0)
    plain = torch.nn.MultiheadAttention(48, 4, batch_first=True).eval().requires_grad_(False)
    probe, states = (torch.randn(3, positions, 48, generator=generator) for positions in (1, 11))
    mask = None
    if masked:
        mask = torch.zeros(3 * 4, 1, 11)
        mask[:, :, 8:] = torch.finfo(torch.float32).min
    expected = plain(probe, states, states, attn_mask=mask)[0]
    holder = torch.nn.Module()
    holder.head = plain
    without_copies(holder)
    assert isinstance(holder.head, ContiguousAttention)
    torch.testing.assert_close(holder.head(probe, states, states, attn_mask=mask)[0], expected)


@pytest.mark.parametrize(("precision", "packs"), [("bf16", 1), ("fp32", 0)])
def test_the_loader_of_siglip_uses_both(precision, packs, siglip_snapshot, images, tmp_path, monkeypatch):
    called = []
    monkeypatch.setattr(packed, "pack", lambda module: called.append("pack"))
    monkeypatch.setattr(attention, "without_copies", lambda module: called.append("head"))
    given = (images, tmp_path / "out.parquet", "SigLIP", str(siglip_snapshot))
    embed_images(*given, precision=precision, device="cpu", cache_dir="off")
    assert (called.count("head"), called.count("pack")) == (1, packs)
