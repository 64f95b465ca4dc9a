"""Where curves of diminishing returns begin to flatten: each alone, and several together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from lookalike.neighbors.base import Float64s

#: How far above the line between the ends a knee must be, of the whole height.
_LEAST = 0.05
#: A curve of shares that rises by less says nothing of where to stop.
_LEAST_RISE = 0.02


@dataclass(frozen=True)
class Knee:
    """Where several curves together begin to flatten.

    Attributes
    ----------
    place:
        The place of the point; None where they have no knee.
    alone:
        Of every curve that rises, the place of its own knee; None where it has none.
    """

    place: int | None
    alone: dict[str, int | None]


def knee(across: Sequence[float], up: Sequence[float]) -> int | None:
    """Where a rising curve begins to flatten: the point that is highest above the straight line between its ends.

    Both axes are scaled to 0..1 first (Satopää et al., "Finding a 'Kneedle' in a Haystack", 2011).

    Parameters
    ----------
    across, up:
        Points of the curve, in any order.

    Returns
    -------
    int or None
        The place of the point; None for less than three different points, and for a curve that is hardly higher than
        the line.
    """
    order = np.lexsort((up, across))
    x, y = np.asarray(across, np.float64)[order], np.asarray(up, np.float64)[order]
    if len(np.unique(x)) < 3 or not np.isfinite(y).all() or y[-1] <= y[0]:
        return None
    above = _scaled(y) - _scaled(x)
    best = int(np.argmax(above))
    return int(order[best]) if above[best] >= _LEAST else None


def shared_knee(across: Sequence[float], curves: Mapping[str, Sequence[float]]) -> Knee:
    """Where several curves over one axis begin to flatten together: the knee of their mean, each scaled to 0..1.

    Parameters
    ----------
    across:
        Of all curves, in any order.
    curves:
        Shares from 0 to 1 by what they are of. One that is not known, or rises by less than 0.02 from its first to its
        last point, has no say.
    """
    order = np.argsort(np.asarray(across, np.float64), kind="stable")
    rising = {name: np.asarray(up, np.float64) for name, up in curves.items() if _rises(np.asarray(up)[order])}
    alone = {name: knee(across, up.tolist()) for name, up in rising.items()}
    if not rising:
        return Knee(None, alone)
    scaled = [(up - up[order[0]]) / (up[order[-1]] - up[order[0]]) for up in rising.values()]
    return Knee(knee(across, np.mean(scaled, axis=0).tolist()), alone)


def _rises(up: Float64s) -> bool:
    """Whether a curve, in the order of its axis, is known and rises."""
    return bool(len(up) and np.isfinite(up).all() and up[-1] - up[0] >= _LEAST_RISE)


def _scaled(values: Float64s) -> Float64s:
    """From 0 at the first to 1 at the last."""
    scaled: Float64s = (values - values[0]) / (values[-1] - values[0])
    return scaled
