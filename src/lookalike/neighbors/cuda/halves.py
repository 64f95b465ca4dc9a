"""Means over many halves of the targets at once, on a device; `selection.halves` has the definition, and the way."""

from __future__ import annotations

import torch

#: Values of the lists at a time; each takes some 40 bytes in between.
_VALUES = 1 << 24


def half_means(
    near: torch.Tensor,
    to_targets: torch.Tensor,
    visible: torch.Tensor,
    weights: torch.Tensor,
    means: list[float],
    k: int,
    own: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per half and image, the weighted mean cosine to the k nearest visible targets, and that to the k nearest others.

    Parameters
    ----------
    near:
        images x k, float64, cosines to the nearest images of the pool; -inf where there are fewer.
    to_targets:
        images x targets, float64, cosines.
    visible:
        halves x targets: who is.
    weights, means:
        Of the targets, and per half the mean of the visible ones' (`Hiding.means`).
    k:
        How many at most.
    own:
        Per image, which target it is itself; its cosine is left out.
    """
    images, pool = near.shape
    shown = torch.nn.functional.pad(visible, (pool, 0))  # the pool's are never visible
    scaled = torch.nn.functional.pad(weights, (pool, 0), value=1.0)
    like, unlike = (near.new_zeros((len(visible), images)) for _ in range(2))
    step = max(1, _VALUES // shown.shape[1])
    for first in range(0, images, step):
        part = slice(first, first + step)
        cosines = torch.cat([near[part], to_targets[part]], 1).float()
        if own is not None:
            cosines.scatter_(1, pool + own[part, None], -torch.inf)
        ordered, order = cosines.sort(dim=1, descending=True, stable=True)
        there = ordered > -torch.inf
        plain = torch.where(there, ordered.double(), 0.0)
        weighted = plain * scaled[order]
        for number, mean in enumerate(means):
            flags = shown[number][order]
            like[number, part] = _mean(weighted if mean else plain, flags & there, k) / (mean or 1.0)
            unlike[number, part] = _mean(plain, ~flags & there, k)
    return like, unlike


def _mean(values: torch.Tensor, flags: torch.Tensor, k: int) -> torch.Tensor:
    """Per row, the mean of the first k that are true; 0 without any."""
    chosen = flags & (flags.cumsum(1, dtype=torch.int32) <= k)
    return (values * chosen).sum(1) / chosen.sum(1).clamp_(min=1)
