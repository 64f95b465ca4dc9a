"""Which images are kept once they have scores: a floor for every target, limits, and a budget.

1. The floor: every target gets `min_per_target` kept images among its candidates, by few images with good scores
   (`floor`). An image that several targets have among their candidates counts for all of them.
2. The budget: the images are walked best score first (equal scores: the smaller distance to a target, then the pool's
   order), and each is kept for the nearest target that may still have one, until the budget is full.

A floor never goes over the budget or a limit. Pairs and images that break a rule of their own (`rules`) are left out of
both. Rows that are one image, by their path or as near-duplicates, are one for everything here: one of them is kept,
and it counts for the targets of all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from lookalike.neighbors.base import Rows
from lookalike.selection.filters import Outcome, code
from lookalike.selection.floor import Cover
from lookalike.selection.pairs import Images, Limits, Outcomes, Pairs
from lookalike.selection.space import Mask

__all__ = ["Coverage", "Images", "Limits", "Order", "Outcomes", "Pairs", "Same", "cover", "walk_of"]

#: Rows of a walk that are Python numbers at a time.
_AT_A_TIME = 65_536


class Same:
    """Which rows of the pool are one image.

    Parameters
    ----------
    keys:
        Per row, a number that is equal for equal paths; None: all differ.
    groups:
        Per row, the number of its group of near-duplicates; -1 for none. None: there are none.
    """

    def __init__(self, keys: Rows | None = None, groups: Rows | None = None) -> None:
        self._keys, self.numbers = None, None
        if keys is not None:
            self._keys = self.numbers = np.unique(keys, return_inverse=True)[1].astype(np.int64)
        if groups is not None:
            base = np.arange(len(groups)) if self.numbers is None else self.numbers
            # A row whose path is that of a grouped one is of the group, whether or not its vector was looked at.
            group = np.full(int(base.max(initial=-1)) + 1, -1, np.int64)
            grouped = groups >= 0
            group[base[grouped]] = groups[grouped]
            self.numbers = np.where(group[base] >= 0, len(group) + group[base], base)

    def number(self, row: int) -> int:
        """Equal for rows that are one image."""
        return row if self.numbers is None else int(self.numbers[row])

    def of(self, rows: Rows) -> Rows:
        """The same for many."""
        numbers: Rows = rows if self.numbers is None else self.numbers[rows]
        return numbers

    def instead(self, kept: Rows, rows: int) -> Rows:
        """Per row of the pool, the kept row that is the same image (its own, where it is kept itself); -1 for none."""
        instead = np.full(rows, -1, np.int64)
        if self.numbers is None or not len(kept):
            instead[kept] = kept
            return instead
        kept = kept[np.argsort(self.numbers[kept])]
        known = self.numbers[kept]
        place = np.minimum(np.searchsorted(known, self.numbers), len(known) - 1)
        return np.where(known[place] == self.numbers, kept[place], -1)

    def outcomes(self, rows: Rows, instead: Rows) -> Outcomes:
        """What became of rows for which others are kept: the same path, or only nearly the same."""
        same = rows == instead if self._keys is None else self._keys[rows] == self._keys[instead]
        return np.where(same, code(Outcome.DUPLICATE), code(Outcome.NEAR_DUPLICATE)).astype(np.int8)


class Order(Protocol):
    """In which order the images come to their turn, once the floor is filled."""

    def turns(self, kept: Rows) -> Iterator[int]:
        """Rows of the pool, each at most once; `kept` are those of the floor."""
        ...

    def keep(self, row: int) -> None:
        """An image that came to its turn is kept."""
        ...


class InOrder:
    """Images in the order of the walk.

    Parameters
    ----------
    walk:
        Rows of the pool, best score first.
    """

    def __init__(self, walk: Rows) -> None:
        self._walk = walk

    def turns(self, kept: Rows) -> Iterator[int]:
        """Python numbers, few of them at a time: most walks end long before the pool does."""
        for first in range(0, len(self._walk), _AT_A_TIME):
            yield from self._walk[first : first + _AT_A_TIME].tolist()

    def keep(self, row: int) -> None:
        """Nothing depends on it."""


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
    pool_outcomes:
        Per row of the pool, an index into `filters.OUTCOMES`.
    instead:
        Per row of the pool, the kept row that is the same image or a near-duplicate of it; -1 where there is none.
    """

    pairs: Pairs
    outcomes: Outcomes
    own: Rows
    kept_for: Rows
    by_floor: int
    cutoff: float
    pool_outcomes: Outcomes
    instead: Rows


def walk_of(images: Images) -> Rows:
    """Rows of the pool, best score first; of equal ones that with the smaller distance to a target."""
    walk = np.lexsort((images.distances, -images.scores))
    walked: Rows = walk[images.allowed[walk]]
    return walked


def cover(
    pairs: Pairs,
    images: Images,
    labels: Rows,
    limits: Limits,
    *,
    stops: Outcomes | None = None,
    same: Same | None = None,
    order: Order | None = None,
    walk: Rows | None = None,
) -> Coverage:
    """Decide every pair.

    Parameters
    ----------
    pairs:
        The neighbours of every target; images that are not in the pool are not among them.
    images:
        The pool.
    labels:
        Per target, the number of its label.
    limits:
        How many images are kept.
    stops:
        Per pair, the rule that it breaks by itself, as an index into `filters.OUTCOMES`; 0 for none.
    same:
        Which rows are one image; by default none.
    order:
        In which order the budget is filled; by default best score first.
    walk:
        What `walk_of` gives, where that is known already.
    """
    # Best score first; the pairs of an image stand together, its nearest target first.
    walk = walk_of(images) if walk is None else walk
    place = np.empty(len(images.scores), np.int64)
    place[walk] = np.arange(len(walk))
    sorted_ = np.lexsort((pairs.targets, pairs.distances, place[pairs.rows]))
    pairs = pairs.at(sorted_)
    stops = np.zeros(len(sorted_), np.int8) if stops is None else stops[sorted_]
    possible = images.possible
    state = _State(pairs.at(np.flatnonzero((stops == 0) & possible[pairs.rows])), images, labels, limits, same)
    state.fill_floor(place)
    state.fill_budget(order or InOrder(walk[possible[walk]]))
    return state.finish(pairs, stops, place)


class _State:
    """Who has what so far.

    `pairs` are those that break no rule of their own.
    """

    def __init__(self, pairs: Pairs, images: Images, labels: Rows, limits: Limits, same: Same | None) -> None:
        self._pairs, self._images, self._labels, self._limits = pairs, images, labels, limits
        self._same = same or Same()
        self._kept: dict[int, int] = {}  # row -> the target that it is kept for
        self._taken: set[int] = set()  # numbers of the images that are kept
        self._by_target = np.zeros(len(labels), np.int64)
        self._by_label = np.zeros(int(labels.max(initial=-1)) + 1, np.int64)
        self._own = np.zeros(len(labels), np.int64)
        self._room = np.ones(len(labels), np.bool_)  # per target, whether limits allow one more
        self._any_room = True
        self._extra: list[int] = []
        self._turned = np.zeros(len(images.scores), np.bool_)
        self._by_floor = 0
        # The pairs of an image are a run: sorted by its number, they are found by bisection.
        numbers = self._same.of(pairs.rows)
        self._order = np.argsort(numbers, kind="stable")
        self._sorted = numbers[self._order]

    def fill_floor(self, place: Rows) -> None:
        """Keep for every target what it must have; `place` is that of each row by score."""
        limits, pairs = self._limits, self._pairs
        if limits.floor:
            near = (pairs.ranks >= 1) & (pairs.ranks <= limits.candidates)
            cover = Cover(self._same.of(pairs.rows[near]), pairs.targets[near], place[pairs.rows[near]])
            while len(self._kept) < limits.budget:
                short = (self._own < limits.floor) & self._room
                number = cover.take(short)
                if number is None:
                    break
                # For the nearest target that needs it, of its rows that with the best score.
                mine = self._of_number(number)
                first = mine[near[mine] & short[pairs.targets[mine]]][0]
                self._keep(int(pairs.rows[first]), int(pairs.targets[first]))
        self._by_floor = len(self._kept)

    def fill_budget(self, order: Order) -> None:
        """Keep the best images."""
        for row in order.turns(np.array(list(self._kept), np.int64)):
            if len(self._kept) >= self._limits.budget or not self._any_room:
                return
            self._turned[row] = True
            mine = self._of(row)
            targets = self._pairs.targets[mine[self._pairs.rows[mine] == row]].tolist()
            if not targets:
                self._extra.append(row)
                targets = [int(self._images.targets[row])]
            for target in () if self._is_taken(row) else targets:
                if self._room[target]:
                    self._keep(row, target)
                    order.keep(row)
                    break

    def finish(self, pairs: Pairs, stops: Outcomes, place: Rows) -> Coverage:
        """Name the rule that stopped each pair and each image that is not kept."""
        images = self._images
        if self._extra:
            extra = np.array(self._extra, np.int64)
            ranks = np.full(len(extra), -1, np.int32)
            pairs = pairs.with_others(Pairs(images.targets[extra], extra, ranks, images.distances[extra]))
            sorted_ = np.lexsort((pairs.targets, pairs.distances, place[pairs.rows]))
            pairs, stops = pairs.at(sorted_), np.append(stops, np.zeros(len(extra), np.int8))[sorted_]
        kept = np.array(list(self._kept), np.int64)
        kept_for = np.full(len(place), -1, np.int64)
        kept_for[kept] = list(self._kept.values())
        instead = self._same.instead(kept, len(place))
        filled = kept[self._by_floor :]
        last = place[filled].max(initial=-1)
        # What never came to its turn was stopped by the budget, unless the walk ended because no target had room.
        late = ~self._turned & (len(kept) >= self._limits.budget)
        full = (self._by_target >= self._limits.per_target) & (self._limits.per_target > 0)

        def outcomes(rows: Rows, targets: Rows, stopped: Outcomes, kept: Mask) -> Outcomes:
            there, waits = instead[rows] >= 0, late[rows]
            rules: list[tuple[Mask, Outcomes | int]] = [
                (stopped > 0, stopped),
                (kept, code(Outcome.KEPT)),
                (there, self._same.outcomes(rows, instead[rows])),
                (waits & (place[rows] < last), code(Outcome.LESS_DIVERSE)),
                (waits, code(Outcome.OVER_BUDGET)),
                (full[targets], code(Outcome.OVER_TARGET_LIMIT)),
            ]
            found = np.full(len(rows), code(Outcome.OVER_LABEL_LIMIT), np.int8)
            for broken, outcome in reversed(rules):
                found = np.where(broken, outcome, found).astype(np.int8)
            return found

        everyone = np.arange(len(place))
        stopped = np.zeros(len(place), np.int8) if images.stopped is None else images.stopped
        first = images.targets.copy()
        first[self._pairs.rows[::-1]] = self._pairs.targets[::-1]  # of several, the nearest is written last
        of_pool = outcomes(everyone, first, stopped, kept_for >= 0)
        of_pool[~images.allowed] = code(Outcome.EXCLUDED)
        of_pairs = outcomes(
            pairs.rows,
            pairs.targets,
            np.where(stops > 0, stops, stopped[pairs.rows]).astype(np.int8),
            kept_for[pairs.rows] == pairs.targets,
        )
        cutoff = float(images.scores[filled].min()) if len(filled) else float("nan")
        return Coverage(pairs, of_pairs, self._own, self._by_target, self._by_floor, cutoff, of_pool, instead)

    def _of(self, row: int) -> Rows:
        """The pairs of an image, its nearest target first."""
        return self._of_number(self._same.number(row))

    def _of_number(self, number: int) -> Rows:
        """The same, by its number."""
        begin, end = np.searchsorted(self._sorted, (number, number + 1))
        mine: Rows = self._order[begin:end]
        return mine

    def _is_taken(self, row: int) -> bool:
        """Whether the image of a row is kept."""
        return self._same.number(row) in self._taken

    def _keep(self, row: int, target: int) -> Rows:
        """Keep an image for a target; return the targets that have it among their candidates."""
        self._kept[row] = target
        self._taken.add(self._same.number(row))
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
        owners: Rows = np.unique(self._pairs.targets[mine][self._pairs.ranks[mine] <= limits.candidates])
        self._own[owners] += 1
        return owners
