"""Scores of `density_ratio` for many halves of the targets at once, as the choice of a scoring needs them.

What is near an image is one list, whoever is hidden: its nearest pool images and all targets, largest cosine first. The
nearest visible targets are the first ones of this list that are visible; the nearest images of the pool with the hidden
targets in it are the first ones that are not. So the list is sorted once, and a half costs no more than a walk along
its beginning.
"""

from __future__ import annotations

import numpy as np

from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.held import Hiding
from lookalike.neighbors.threads import in_parts
from lookalike.selection.space import Mask

#: Images at a time: what is done with them stays near the processor.
_AT_A_TIME = 256
#: So much of the list is walked, for each one that is looked for, before all of it is.
_BEGINNING = 5


def half_means(
    near: Floats, to_targets: Floats, hiding: Hiding, k: int, own: Rows | None = None
) -> tuple[Float64s, Float64s]:
    """Per half and image, the weighted mean cosine to the k nearest visible targets, and that to the k nearest others.

    The others are the images of the pool and the hidden targets; that mean is not weighted. Where there are fewer than
    k, all of them count; without any, the mean is 0.

    Parameters
    ----------
    near:
        images x k, cosines to the nearest images of the pool; -inf where there are fewer.
    to_targets:
        images x targets, cosines.
    hiding:
        Who is hidden, and how much each target counts.
    k:
        How many at most.
    own:
        Per image, which target it is itself; its cosine is left out.
    """
    images, pool = len(near), near.shape[1]
    visible, weights, means = *hiding, hiding.means
    like, unlike = (np.empty((len(visible), images)) for _ in range(2))
    # Columns of the lists: the pool's are never visible.
    shown = np.concatenate([np.zeros((len(visible), pool), np.bool_), visible], axis=1)
    scaled = np.concatenate([np.ones(pool), weights])

    def work(part: slice) -> None:
        cosines = np.concatenate([near[part], to_targets[part]], axis=1).astype(np.float32)
        if own is not None:
            cosines[np.arange(len(cosines)), pool + own[part]] = -np.inf
        order = np.argsort(-cosines, axis=1, kind="stable")
        ordered = np.take_along_axis(cosines, order, axis=1).astype(np.float64)
        there = np.isfinite(ordered)
        plain = np.where(there, ordered, 0.0)
        weighted = plain if (weights == weights[0]).all() else plain * scaled[order]
        for number, half in enumerate(shown):
            flags = half[order[:, : _BEGINNING * k]]
            if not _reaches(flags, k):
                flags = half[order]
            width = flags.shape[1]
            first = _first(flags & there[:, :width], k)
            if weighted is plain or not means[number]:
                like[number, part] = _mean(plain, first)
            else:
                like[number, part] = _mean(weighted, first) / means[number]
            unlike[number, part] = _mean(plain, _first(~flags & there[:, :width], k))

    in_parts(work, images, _AT_A_TIME)
    return like, unlike


def _reaches(flags: Mask, k: int) -> bool:
    """Whether every list has k of both kinds so far."""
    counts = flags.sum(axis=1)
    return bool(counts.min(initial=k) >= k and counts.max(initial=0) <= flags.shape[1] - k)


def _first(flags: Mask, k: int) -> Mask:
    """The first k that are true of each row."""
    return flags & (flags.cumsum(axis=1, dtype=np.int32) <= k)


def _mean(values: Float64s, chosen: Mask) -> Float64s:
    """Per row, the mean of those that are chosen; 0 without any."""
    total = (values[:, : chosen.shape[1]] * chosen).sum(axis=1)
    means: Float64s = total / np.maximum(chosen.sum(axis=1), 1)
    return means
