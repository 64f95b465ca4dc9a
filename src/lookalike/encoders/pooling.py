"""From tokens to one vector: the settings `pooling` and `layer`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: The exponent of the generalised mean, and the least value that enters it: those of its paper.
GEM_POWER, GEM_LEAST = 3.0, 1e-6


def pool(tokens: torch.Tensor, pooling: str, present: torch.Tensor | None = None) -> torch.Tensor:
    """One vector of the tokens of each image.

    Parameters
    ----------
    tokens:
        images x tokens x dimension; the patches only, no class or register token.
    pooling:
        ``mean``, or ``gem``: the generalised mean of Radenović, Tolias and Chum (2018), that is the cube root of the
        mean of cubes, with values below `GEM_LEAST` raised to it.
    present:
        images x tokens, true for the tokens that count; all of them where it is None.

    Returns
    -------
    torch.Tensor
        images x dimension.
    """
    gem = pooling == "gem"
    values = tokens.float().clamp_min(GEM_LEAST).pow(GEM_POWER) if gem else tokens.float()
    if present is None:
        mean = values.mean(1)
    else:
        counted = present.to(values.dtype)[..., None]
        mean = (values * counted).sum(1) / counted.sum(1)
    return mean.pow(1 / GEM_POWER) if gem else mean


def pooling_name(pooling: str, layer: int) -> str:
    """The pooling of the identity; `layer` is -1 for the last one."""
    return pooling if layer == -1 else f"{pooling} of layer {layer}"
