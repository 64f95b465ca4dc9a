"""In which order a floor takes images, so that few of them, with good scores, serve every target.

An image serves all targets that have it among their candidates, and costs the logarithm of its place by score. Next is
always the image that serves most targets that still need one, for its cost: the greedy way to a cheap set cover
(Chvátal, A greedy heuristic for the set-covering problem, Mathematics of Operations Research 4, 1979).

By score alone, a floor takes many images that serve one target each, and where the budget is small little of it is left
for the best scores.
"""

from __future__ import annotations

import heapq

import numpy as np

from lookalike.neighbors.base import Rows
from lookalike.selection.space import Mask


class Cover:
    """The images that targets have among their candidates.

    Parameters
    ----------
    images, targets:
        Pairs of an image, by its number, and a target that has it among its candidates; in any order, and a pair can
        be there twice.
    places:
        Per pair, the place of its row by score, from 0.
    """

    def __init__(self, images: Rows, targets: Rows, places: Rows) -> None:
        order = np.lexsort((targets, images))
        images, targets, places = images[order], targets[order], places[order]
        new = np.ones(len(images), np.bool_)
        new[1:] = (images[1:] != images[:-1]) | (targets[1:] != targets[:-1])
        self._images, begins = np.unique(images, return_index=True)
        place = np.minimum.reduceat(places, begins) if len(begins) else places
        self._targets = targets[new]
        self._ends = np.searchsorted(images[new], self._images, side="right")
        self._costs = np.log(2.0 + place)
        # A worth only falls while others are taken: what was on top, and is worth as much still, is the next.
        worth = np.diff(self._ends, prepend=0) / self._costs
        self._waiting = list(zip((-worth).tolist(), place.tolist(), range(len(worth)), strict=True))
        heapq.heapify(self._waiting)

    def take(self, short: Mask) -> int | None:
        """The number of the next image; None where no image serves anyone who is short. Each comes once.

        Parameters
        ----------
        short:
            Per target, whether it still needs one; no target becomes short later.
        """
        while self._waiting:
            known, place, index = heapq.heappop(self._waiting)
            begin = self._ends[index - 1] if index else 0
            worth = float(short[self._targets[begin : self._ends[index]]].sum() / self._costs[index])
            if worth and worth >= -known:
                return int(self._images[index])
            if worth:
                heapq.heappush(self._waiting, (-worth, place, index))
        return None
