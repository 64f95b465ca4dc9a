"""Where a curve of diminishing returns begins to flatten."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

#: How far above the line between the ends a knee must be, of the whole height.
_LEAST = 0.05


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
    above = (y - y[0]) / (y[-1] - y[0]) - (x - x[0]) / (x[-1] - x[0])
    best = int(np.argmax(above))
    return int(order[best]) if above[best] >= _LEAST else None
