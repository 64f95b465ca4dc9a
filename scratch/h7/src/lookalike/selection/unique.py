"""Unique neighbours: every source goes to one target at most, until a wanted number of sources is reached.

The passes are the drop-in contract's (section 4). Each one asks for more candidates, of the targets that are not
satisfied, among the sources that are free. Where the passes leave a target short, the rest is filled with the nearest
pairs that are left, so that the wanted number is reached whenever there are so many sources.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]
Distances = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]

#: Searches some targets (rows) for their k nearest free sources: distances and rows, targets x k, nearest first.
Ask = Callable[[Rows, int, Mask], tuple[Distances, Rows]]

#: Passes in which a target takes all that it wants or nothing.
PASSES = 8
#: Pairs that one search of the filling may return; where more would be needed, it searches again.
_MOST_PAIRS = 4_000_000


class Pairs(NamedTuple):
    """Targets with the sources that they took.

    Attributes
    ----------
    targets, sources:
        Rows.
    distances:
        Of each pair.
    ranks:
        Place of the source, from 1, among those that were free when the target was asked.
    """

    targets: Rows
    sources: Rows
    distances: Distances
    ranks: npt.NDArray[np.int32]

    @classmethod
    def join(cls, parts: Sequence[Pairs]) -> Pairs:
        """All pairs of several parts."""
        return cls(
            np.concatenate([np.empty(0, np.int64), *(part.targets for part in parts)]),
            np.concatenate([np.empty(0, np.int64), *(part.sources for part in parts)]),
            np.concatenate([np.empty(0, np.float32), *(part.distances for part in parts)]),
            np.concatenate([np.empty(0, np.int32), *(part.ranks for part in parts)]),
        )

    def at(self, which: Rows | Mask | slice) -> Pairs:
        """Some of the pairs."""
        return Pairs(self.targets[which], self.sources[which], self.distances[which], self.ranks[which])

    def nearest_first(self, path_order: Rows) -> Pairs:
        """The pairs by distance; equal distances by the source's path, then by target."""
        return self.at(np.lexsort((self.targets, path_order[self.sources], self.distances)))

    @property
    def total(self) -> float:
        """Sum of the distances."""
        return float(self.distances.sum(dtype=np.float64))


class Pass(NamedTuple):
    """One search on the way.

    Attributes
    ----------
    iteration:
        From 1.
    targets:
        Rows of the targets that were asked.
    distances, rows:
        What came back: targets x k.
    """

    iteration: int
    targets: Rows
    distances: Distances
    rows: Rows

    @property
    def k(self) -> int:
        """Candidates a target."""
        return int(self.rows.shape[1])


@dataclass(frozen=True)
class Matching:
    """What became of the targets of one matching.

    Attributes
    ----------
    kept:
        The pairs, nearest first.
    surplus:
        Pairs that the wanted number left out: their sources were taken, and farther than the others.
    passes:
        Every search, in order.
    topn:
        Sources that each target may take.
    filled:
        How many of the kept pairs the filling brought, after the passes.
    """

    kept: Pairs
    surplus: Pairs
    passes: tuple[Pass, ...]
    topn: int
    filled: int


def match(ask: Ask, targets: Rows, free: Mask, path_order: Rows, desired: int, factor: int) -> Matching:
    """Give each target its nearest sources, none of them twice.

    Parameters
    ----------
    ask:
        Searches.
    targets:
        Rows of the targets, in the order in which they choose.
    free:
        Per source, whether it may be taken; every one that is true is another file.
    path_order:
        Per source, the place of its path among the sorted paths: decides between equal distances.
    desired:
        How many sources are wanted. Where fewer are free, all of them are taken.
    factor:
        The first pass asks for so many candidates for each source that a target may take; the i-th for i times as many.
    """
    desired = min(desired, int(free.sum())) if len(targets) else 0
    topn = max(1, -(-desired // max(1, len(targets))))
    free = free.copy()
    kept: list[Pairs] = []
    surplus: list[Pairs] = []
    passes: list[Pass] = []
    waiting, count = targets, 0
    while len(waiting) and count < desired and len(passes) < PASSES:
        available = int(free.sum())
        k = min(factor * (len(passes) + 1) * topn, available)
        if k < topn:
            break  # no target can have all that it wants
        passes.append(Pass(len(passes) + 1, waiting, *ask(waiting, k, free)))
        claims, satisfied = _in_turn(passes[-1], topn, len(free))
        claims = claims.nearest_first(path_order)
        kept.append(claims.at(slice(desired - count)))
        surplus.append(claims.at(slice(desired - count, None)))
        free[kept[-1].sources] = False
        count += len(kept[-1].sources)
        waiting = waiting[~satisfied]
        if k == available:
            break  # all that is free was offered: the next pass would offer the rest of it
    before = count
    need = np.full(len(waiting), topn)
    while len(waiting) and count < desired:
        most = max(topn, _MOST_PAIRS // len(waiting))
        # Others take `desired - count` sources at most, so that a longer list would not be used up.
        k = min(int(free.sum()), desired - count, most)
        passes.append(Pass(len(passes) + 1, waiting, *ask(waiting, k, free)))
        taken = _nearest_pairs(passes[-1], need, path_order, desired - count, complete=k == int(free.sum()))
        kept.append(taken)
        free[taken.sources] = False
        count += len(taken.sources)
        need -= np.bincount(np.searchsorted(waiting, taken.targets), minlength=len(waiting))
        waiting, need = waiting[need > 0], need[need > 0]
    return Matching(
        Pairs.join(kept).nearest_first(path_order), Pairs.join(surplus), tuple(passes), topn, count - before
    )


def _in_turn(asked: Pass, topn: int, sources: int) -> tuple[Pairs, Mask]:
    """Let the targets choose in turn: each takes its nearest free sources, `topn` of them or none.

    Returns
    -------
    Pairs, Mask
        What was taken; per target, whether it took.
    """
    taken = np.zeros(sources, np.bool_)
    satisfied = np.zeros(len(asked.targets), np.bool_)
    places = np.empty((len(asked.targets), topn), np.int64)
    for number, row in enumerate(asked.rows):
        found = np.flatnonzero(~taken[row])[:topn]
        if len(found) == topn:
            taken[row[found]] = True
            places[number], satisfied[number] = found, True
    places = places[satisfied]
    return Pairs(
        np.repeat(asked.targets[satisfied], topn),
        np.take_along_axis(asked.rows[satisfied], places, axis=1).reshape(-1),
        np.take_along_axis(asked.distances[satisfied], places, axis=1).reshape(-1),
        (places + 1).astype(np.int32).reshape(-1),
    ), satisfied


def _nearest_pairs(asked: Pass, need: Rows, path_order: Rows, count: int, *, complete: bool) -> Pairs:
    """Take the nearest pair of all, again and again, while its source is free and its target needs more.

    Where the lists are not `complete`, it stops at the end of the list of a target that still needs more: what that
    target would be offered next could be nearer than the next pair.
    """
    k = asked.k
    rows, distances = asked.rows.reshape(-1), asked.distances.reshape(-1)
    order = np.lexsort((np.arange(len(rows)), path_order[rows], distances))
    left = need.tolist()
    taken: set[int] = set()
    chosen: list[int] = []
    for position in order.tolist():
        number, source = position // k, int(rows[position])
        if left[number] and source not in taken:
            taken.add(source)
            chosen.append(position)
            left[number] -= 1
            if len(chosen) == count:
                break
        if left[number] and not complete and position % k == k - 1:
            break
    places = np.array(chosen, np.int64)
    return Pairs(asked.targets[places // k], rows[places], distances[places], (places % k + 1).astype(np.int32))


def quotas(counts: Sequence[int], desired: int) -> list[int]:
    """Share a number by largest remainder; equal remainders go to the first.

    Parameters
    ----------
    counts:
        The size of each group; not all 0.
    desired:
        The number, which the shares sum to.
    """
    total = sum(counts)
    shares = [desired * count // total for count in counts]
    remainders = [desired * count % total for count in counts]
    order = sorted(range(len(counts)), key=lambda number: (-remainders[number], number))
    for number in order[: desired - sum(shares)]:
        shares[number] += 1
    return shares
