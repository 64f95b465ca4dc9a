"""What a selection decides on: the pool's images, the pairs of a target and an image, and the limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookalike.neighbors.base import Rows
from lookalike.selection.space import Mask, Singles

Outcomes = npt.NDArray[np.int8]


@dataclass(frozen=True)
class Images:
    """What is known of every pool image, row by row.

    Attributes
    ----------
    scores:
        Larger is better.
    targets, distances:
        The nearest target, and how far it is.
    allowed:
        Whether the image is in the pool at all.
    stopped:
        The rule that it breaks whatever else is kept, as an index into `filters.OUTCOMES`; 0 for none. None: no image
        breaks one.
    """

    scores: Singles
    targets: Rows
    distances: Singles
    allowed: Mask
    stopped: Outcomes | None = None

    @property
    def possible(self) -> Mask:
        """Whether the image may be kept, as far as that does not depend on others."""
        return self.allowed if self.stopped is None else self.allowed & (self.stopped == 0)


@dataclass(frozen=True)
class Pairs:
    """Pairs of a target and a pool image.

    Attributes
    ----------
    targets, rows:
        Of both sides.
    ranks:
        From 1; -1 where the image is not among the target's neighbours that were looked for.
    distances:
        Of the pairs.
    """

    targets: Rows
    rows: Rows
    ranks: npt.NDArray[np.int32]
    distances: Singles

    def at(self, order: Rows) -> Pairs:
        """Some pairs, in an order."""
        return Pairs(self.targets[order], self.rows[order], self.ranks[order], self.distances[order])

    def with_others(self, others: Pairs) -> Pairs:
        """These and others."""
        return Pairs(
            np.concatenate([self.targets, others.targets]),
            np.concatenate([self.rows, others.rows]),
            np.concatenate([self.ranks, others.ranks]),
            np.concatenate([self.distances, others.distances]),
        )


@dataclass(frozen=True)
class Limits:
    """How many images are kept.

    Attributes
    ----------
    budget:
        Of all.
    floor:
        Kept for every target at least, as far as there are candidates, budget and limits.
    per_target, per_label:
        At most; 0 for no limit.
    candidates:
        Ranks up to which a neighbour counts as a target's own.
    """

    budget: int
    floor: int = 1
    per_target: int = 0
    per_label: int = 0
    candidates: int = 20
