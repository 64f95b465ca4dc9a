"""All pairs within a cosine distance, exactly, in blocks: what a search for the k nearest cannot say.

As in `finder`: float32 products with a proven error bound tell most pairs apart, and the few that lie within the bound
of the threshold are measured in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from lookalike.neighbors.base import Floats, Rows
from lookalike.neighbors.metrics import METRICS, pair_distances

#: Rows of both sides that are multiplied at a time: 64 MB of scores.
_LEFT, _RIGHT = 2048, 8192


def pairs_within(
    left: Floats,
    right: Floats,
    threshold: float,
    known: Callable[[Rows, Rows], npt.NDArray[np.bool_]] | None = None,
) -> Iterator[tuple[Rows, Rows]]:
    """Rows of both sides whose cosine distance is at most the threshold, block by block.

    Parameters
    ----------
    left, right:
        rows x dimension.
    threshold:
        Compared in float32, as distances are: one of 0.3 has a distance that prints as 0.3.
    known:
        Per pair, whether it need not be given; asked for every block, before anything is measured.
    """
    metric, limit = METRICS["cosine"], np.float32(threshold)
    metric.consider(left, right)
    # A distance that is rounded to the threshold is within it.
    rounding = float(np.spacing(np.float32(max(threshold, 1.0))))
    for first in range(0, len(left), _LEFT):
        targets = metric.prepare_targets(left[first : first + _LEFT])
        for start in range(0, len(right), _RIGHT):
            sources = metric.prepare(right[start : start + _RIGHT])
            scores = np.empty((len(targets.vectors), len(sources.vectors)), np.float32)
            metric.product(targets.vectors, sources.vectors, scores)
            assert sources.scale is not None
            scores *= sources.scale
            margins = metric.margin(targets, sources) + rounding
            lefts, rights = np.nonzero(scores >= (1 - threshold - margins - rounding)[:, None])
            sure = scores[lefts, rights] > (1 - threshold + margins + rounding)[lefts]
            lefts, rights = lefts + first, rights + start
            if known is not None:
                news = ~known(lefts, rights)
                lefts, rights, sure = lefts[news], rights[news], sure[news]
            unsure = np.flatnonzero(~sure)
            measured = pair_distances(metric, left, right, lefts[unsure], rights[unsure]).astype(np.float32)
            sure[unsure[measured <= limit]] = True
            if sure.any():
                yield lefts[sure], rights[sure]
