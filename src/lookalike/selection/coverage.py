"""Which images are kept once they have scores: a floor for every target, limits, and a budget.

1. The floor: pairs of a target and one of its own candidates are walked best score first, and an image is kept for a
   target that has fewer than `min_per_target` kept images among its candidates. An image that several targets have
   among their candidates counts for all of them.
2. The budget: the images are walked best score first (equal scores: the smaller distance to a target, then the pool's
   order), and each is kept for the nearest target that may still have one, until the budget is full.

A floor never goes over the budget or a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookalike.neighbors.base import Rows
from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.selection.space import Mask, Singles

Outcomes = npt.NDArray[np.int8]

#: Rows of a walk that are Python numbers at a time.
_AT_A_TIME = 65_536


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
        Whether the image may be kept.
    """

    scores: Singles
    targets: Rows
    distances: Singles
    allowed: Mask


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


@dataclass(frozen=True)
class Coverage:
    """What became of every pair, best score first.

    Attributes
    ----------
    pairs:
        All that were given, and one (with its nearest target) for every image that came to its turn without any.
    outcomes:
        Per pair, an index into `filters.OUTCOMES`.
    own:
        Per target, how many of its own candidates are kept, for whatever target.
    kept_for:
        Per target, how many images are kept for it.
    by_floor:
        How many images were kept by the floor.
    cutoff:
        The least score that was kept by the budget and not by the floor; NaN where nothing was.
    """

    pairs: Pairs
    outcomes: Outcomes
    own: Rows
    kept_for: Rows
    by_floor: int
    cutoff: float


def cover(pairs: Pairs, images: Images, labels: Rows, limits: Limits) -> Coverage:
    """Decide every pair.

    Parameters
    ----------
    pairs:
        The neighbours of every target; images that may not be kept are not among them.
    images:
        The pool.
    labels:
        Per target, the number of its label.
    limits:
        How many images are kept.
    """
    # Best score first; the pairs of an image stand together, its nearest target first.
    place = np.empty(len(images.scores), np.int64)
    walk = np.lexsort((images.distances, -images.scores))
    walk = walk[images.allowed[walk]]
    place[walk] = np.arange(len(walk))
    pairs = pairs.at(np.lexsort((pairs.targets, pairs.distances, place[pairs.rows])))
    state = _State(pairs, images, labels, limits)
    state.fill_floor()
    visited = state.fill_budget(walk)
    return state.finish(place, visited)


class _State:
    """Who has what so far."""

    def __init__(self, pairs: Pairs, images: Images, labels: Rows, limits: Limits) -> None:
        self._pairs, self._images, self._labels, self._limits = pairs, images, labels, limits
        self._kept: dict[int, int] = {}  # image -> the target that it is kept for
        self._by_target = np.zeros(len(labels), np.int64)
        self._by_label = np.zeros(int(labels.max(initial=-1)) + 1, np.int64)
        self._own = np.zeros(len(labels), np.int64)
        self._room = np.ones(len(labels), np.bool_)  # per target, whether limits allow one more
        self._any_room = True
        self._extra: list[int] = []
        self._cutoff, self._by_floor = float("nan"), 0
        # The pairs of an image are a run: sorted by row, they are found by bisection.
        self._order = np.argsort(pairs.rows, kind="stable")
        self._sorted = pairs.rows[self._order]

    def fill_floor(self) -> None:
        """Keep for every target what it must have, best score first."""
        limits, pairs = self._limits, self._pairs
        short = len(self._labels) if limits.floor else 0
        near = (pairs.ranks >= 1) & (pairs.ranks <= limits.candidates)
        for number in np.flatnonzero(near).tolist() if short else ():
            target, row = int(pairs.targets[number]), int(pairs.rows[number])
            if self._own[target] >= limits.floor or row in self._kept or not self._may(target):
                continue
            if len(self._kept) >= limits.budget or not short:
                return
            owners = self._keep(row, target)
            short -= int((self._own[owners] == limits.floor).sum())

    def fill_budget(self, walk: Rows) -> int:
        """Keep the best images; return how many came to their turn."""
        self._by_floor = len(self._kept)
        for visited, row in enumerate(_one_by_one(walk)):
            if len(self._kept) >= self._limits.budget or not self._any_room:
                return visited
            if row in self._kept:
                continue
            targets = self._pairs.targets[self._of(row)].tolist()
            if not targets:
                self._extra.append(row)
                targets = [int(self._images.targets[row])]
            for target in targets:
                if self._may(target):
                    self._keep(row, target)
                    self._cutoff = float(self._images.scores[row])
                    break
        return len(walk)

    def finish(self, place: Rows, visited: int) -> Coverage:
        """Name the rule that stopped each pair that is not kept."""
        pairs = self._pairs
        if self._extra:
            extra = np.array(self._extra, np.int64)
            ranks = np.full(len(extra), -1, np.int32)
            pairs = pairs.with_others(Pairs(self._images.targets[extra], extra, ranks, self._images.distances[extra]))
            pairs = pairs.at(np.lexsort((pairs.targets, pairs.distances, place[pairs.rows])))
        kept_for = np.full(len(place), -1, np.int64)
        kept_for[list(self._kept)] = list(self._kept.values())
        full_target = (self._by_target >= self._limits.per_target) & (self._limits.per_target > 0)
        # What never came to its turn was stopped by the budget, unless the walk ended because no target had room.
        late = (place[pairs.rows] >= visited) & (len(self._kept) >= self._limits.budget)
        rules = [
            (kept_for[pairs.rows] == pairs.targets, Outcome.KEPT),
            (kept_for[pairs.rows] >= 0, Outcome.DUPLICATE),
            (late, Outcome.OVER_BUDGET),
            (full_target[pairs.targets], Outcome.OVER_TARGET_LIMIT),
        ]
        outcomes = np.select(
            [rule for rule, _ in rules],
            [OUTCOMES.index(outcome) for _, outcome in rules],
            OUTCOMES.index(Outcome.OVER_LABEL_LIMIT),
        ).astype(np.int8)
        return Coverage(pairs, outcomes, self._own, self._by_target, self._by_floor, self._cutoff)

    def _of(self, row: int) -> Rows:
        """The pairs of an image, its nearest target first."""
        begin, end = np.searchsorted(self._sorted, (row, row + 1))
        mine: Rows = self._order[begin:end]
        return mine

    def _may(self, target: int) -> bool:
        """Whether one more image may be kept for a target."""
        return bool(self._room[target])

    def _keep(self, row: int, target: int) -> Rows:
        """Keep an image for a target; return the targets that have it among their candidates."""
        self._kept[row] = target
        self._by_target[target] += 1
        self._by_label[self._labels[target]] += 1
        limits = self._limits
        if limits.per_target and self._by_target[target] >= limits.per_target:
            self._room[target] = False
        if limits.per_label and self._by_label[self._labels[target]] >= limits.per_label:
            self._room[self._labels == self._labels[target]] = False
        if limits.per_target or limits.per_label:
            self._any_room = bool(self._room.any())
        mine = self._of(row)
        owners: Rows = self._pairs.targets[mine][self._pairs.ranks[mine] <= limits.candidates]
        self._own[owners] += 1
        return owners


def _one_by_one(rows: Rows) -> Iterator[int]:
    """Python numbers, few of them at a time: most walks end long before the pool does."""
    for first in range(0, len(rows), _AT_A_TIME):
        yield from rows[first : first + _AT_A_TIME].tolist()
