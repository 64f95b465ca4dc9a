"""What a search tells of the pool: hubs, targets that it has nothing for, and regions where all is taken.

Hubs. The k-occurrence of a pool image is the number of targets that have it among their k nearest. In many dimensions
a few images are near to very many others; how lopsided that is, is the skewness of the k-occurrences (Radovanović,
Nanopoulos and Ivanović, "Hubs in Space", Journal of Machine Learning Research 11, 2010, equation 1).

Surroundings. What is near is measured against the pool itself: nearly every pool image has another one within
some distance (`calibration`). A target that has none within it has nothing like it in the pool. A target that has some,
most of which were mined before or left out, is in a region that is exhausted.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.neighbors.base import Float64s, Neighbors, Rows
from lookalike.selection.pairs import Pairs
from lookalike.selection.space import Mask

#: A region is exhausted when more than this share of what is near was mined before or left out.
EXHAUSTED_SHARE = 0.5


@dataclass(frozen=True)
class Hubness:
    """How unevenly the pool images are found.

    Attributes
    ----------
    skewness:
        Of the k-occurrences; NaN where they do not differ.
    by_chance:
        What it would be if every target drew its k images at random: a binomial distribution's. NaN where each would
        draw all.
    rows, targets:
        The images that are found for most targets, worst first, and for how many.
    """

    skewness: float
    by_chance: float
    rows: Rows
    targets: Rows


def hubness(sources: Rows, *, targets: int, k: int, pool: int, worst: int) -> Hubness:
    """Measure how unevenly the pool images are found.

    Parameters
    ----------
    sources:
        The pool rows of all pairs of a target and one of its k nearest.
    targets, k:
        How many targets were searched for, and how many images each has.
    pool:
        How many pool images were searched.
    worst:
        How many images are named at most.
    """
    rows, counts = np.unique(sources, return_counts=True)
    order = np.lexsort((rows, -counts))[:worst]
    share = k / pool if pool else 1.0
    spread = targets * share * (1 - share)
    return Hubness(
        _skewness(counts.astype(np.float64), pool),
        float((1 - 2 * share) / np.sqrt(spread)) if spread > 0 else float("nan"),
        rows[order],
        counts[order].astype(np.int64),
    )


def _skewness(counts: Float64s, pool: int) -> float:
    """The skewness of the counts and as many zeros as make them `pool` numbers."""
    if not pool:
        return float("nan")
    mean = counts.sum() / pool
    rest = pool - len(counts)
    second = (((counts - mean) ** 2).sum() + rest * mean**2) / pool
    third = (((counts - mean) ** 3).sum() - rest * mean**3) / pool
    return float(third / second**1.5) if second > 0 else float("nan")


@dataclass(frozen=True)
class Surroundings:
    """What is near to every target, among its k nearest pool images, those that may not be mined included.

    Attributes
    ----------
    distances, rows:
        The nearest image that may be mined; infinity and -1 where there is none.
    near:
        How many of the k are near.
    mined_before, left_out:
        How many of these an earlier iteration mined, and how many may not be mined for another reason.
    """

    distances: Float64s
    rows: Rows
    near: Rows
    mined_before: Rows
    left_out: Rows

    @property
    def nothing_near(self) -> Mask:
        """Per target, whether the pool has nothing for it."""
        return np.asarray(self.near == 0)

    @property
    def exhausted(self) -> Mask:
        """Per target, whether most of what is near may not be mined."""
        return np.asarray(self.mined_before + self.left_out > EXHAUSTED_SHARE * self.near)


def surroundings(searched: Neighbors, barred: Neighbors | None, was_mined: Mask, limit: float, k: int) -> Surroundings:
    """Count what is near to every target.

    Parameters
    ----------
    searched:
        The nearest images of every target that may be mined; -1 and infinity where there are fewer.
    barred:
        The nearest ones that may not be, but for the targets themselves and their copies; None where there are none.
    was_mined:
        Per row of the pool, whether an earlier iteration mined it; asked of barred ones only.
    limit:
        Within this distance, an image is near.
    k:
        How many images of a target are looked at.
    """
    distances, rows = searched.distances[:, :k], searched.rows[:, :k]
    first = np.where(rows[:, 0] >= 0, distances[:, 0], np.inf).astype(np.float64)
    both, kinds = distances, np.zeros(rows.shape, np.int8)
    if barred is not None:
        own = np.where(was_mined[np.maximum(barred.rows, 0)], 1, 2).astype(np.int8)
        both, kinds = np.hstack([distances, barred.distances]), np.hstack([kinds, own])
        there = np.hstack([rows, barred.rows]) >= 0
        # Of equal distances those that may be mined come first: what is exhausted is not overstated.
        order = np.argsort(np.where(there, both, np.inf), axis=1, kind="stable")[:, :k]
        both = np.take_along_axis(both, order, axis=1)
        kinds, there = np.take_along_axis(kinds, order, axis=1), np.take_along_axis(there, order, axis=1)
    else:
        there = rows >= 0
    # In float32, as distances are: the limit is one of them.
    near = there & (both <= np.float32(limit))
    return Surroundings(
        first, rows[:, 0], *(np.asarray((near & (kinds == kind) if kind else near).sum(axis=1)) for kind in (0, 1, 2))
    )


def lists_of(pairs: Pairs, targets: int, k: int) -> Neighbors:
    """The k nearest images of every target, from pairs that have all of them."""
    distances = np.full((targets, k), np.inf, np.float32)
    rows = np.full((targets, k), -1, np.int64)
    listed = (pairs.ranks >= 1) & (pairs.ranks <= k)
    place = pairs.targets[listed], pairs.ranks[listed] - 1
    distances[place], rows[place] = pairs.distances[listed], pairs.rows[listed]
    return Neighbors(distances, rows)
