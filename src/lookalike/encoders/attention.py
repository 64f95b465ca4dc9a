"""PyTorch's multi-head attention, computed without copies of its weights: for SigLIP's attention-pooling head.

`torch.nn.MultiheadAttention` with `batch_first` hands its projections a transposed, strided input. PyTorch then
multiplies every position by a copy of the weights of its own: 460 MB are copied for one batch of SigLIP-B/16, which
takes about a quarter of a forward pass in bf16 on a CPU. The same products on contiguous input need no copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional


class ContiguousAttention(nn.Module):
    """What an `nn.MultiheadAttention` computes, from its own parameters; attention weights are not returned.

    Parameters
    ----------
    plain:
        One with `batch_first`, whose keys and values have the size of its queries.
    """

    def __init__(self, plain: nn.MultiheadAttention) -> None:
        super().__init__()
        self.heads = plain.num_heads
        self.in_proj_weight, self.in_proj_bias = plain.in_proj_weight, plain.in_proj_bias
        self.out_proj = plain.out_proj

    def forward(
        self, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, attn_mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, None]:
        """Attend; sides are images x positions x dimension, the mask (added) is images * heads x queries x keys."""
        given = zip((query, key, value), self.in_proj_weight.chunk(3), self.in_proj_bias.chunk(3), strict=True)
        queries, keys, values = (
            _by_heads(functional.linear(side, weight, bias), self.heads) for side, weight, bias in given
        )
        mask = None if attn_mask is None else attn_mask.reshape(-1, self.heads, *attn_mask.shape[1:])
        attended = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        return self.out_proj(attended.transpose(1, 2).flatten(-2)), None


def _by_heads(projected: torch.Tensor, heads: int) -> torch.Tensor:
    """From images x positions x dimension to images x heads x positions x dimension of a head."""
    images, positions, dimension = projected.shape
    return projected.view(images, positions, heads, dimension // heads).transpose(1, 2)


def without_copies(module: Any) -> None:
    """Replace every `nn.MultiheadAttention` inside a model that can be, in place; the weights stay the same tensors."""
    for name, child in list(module.named_children()):
        if isinstance(child, nn.MultiheadAttention):
            usual = child.batch_first and child._qkv_same_embed_dim and child.bias_k is None and not child.add_zero_attn
            if usual and child.in_proj_bias is not None:
                setattr(module, name, ContiguousAttention(child))
        else:
            without_copies(child)
