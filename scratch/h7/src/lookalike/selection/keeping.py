"""Keeping images when more than scores decide: near-duplicates are one image, and the budget is filled with variety.

Groups of near-duplicates are found among the images that would be kept. What collapses frees places, which others
take, and these are looked at in turn, until all that is kept was looked at. So that this ends soon where much
collapses, more images are looked at than places were freed: as many as should hold that many different ones, by the
share of different images so far. Of a group the best score is kept, or what the floor needs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from lookalike.config.schemas import ScoringConfig
from lookalike.neighbors.base import Floats, Rows
from lookalike.neighbors.sides import Side, pick_vectors
from lookalike.selection.coverage import Coverage, Order, Same, cover, walk_of
from lookalike.selection.diversity import (
    CANDIDATES,
    MOST_COVERED,
    Aim,
    Diverse,
    FacilityLocation,
    MarginalRelevance,
)
from lookalike.selection.filters import Outcome, code
from lookalike.selection.pairs import Images, Limits, Outcomes, Pairs
from lookalike.selection.result import Diary
from lookalike.selection.space import Singles
from lookalike.selection.twins import Twins

#: The vectors that are held have this share of the memory limit: while more are taken, there are copies.
_SHARE = 4


class Keeper:
    """Decides what is kept, as often as it is asked.

    Parameters
    ----------
    pool:
        Where vectors are read.
    keys:
        Per row of the pool, a number that is equal for equal paths, or None.
    labels:
        Per target, the number of its label.
    settings:
        `dedup_threshold`, `diversity` and its method, `memory_limit`.
    diary:
        Where notes go.
    """

    def __init__(self, pool: Side, keys: Rows | None, labels: Rows, settings: ScoringConfig, diary: Diary) -> None:
        self._pool, self._keys, self._labels = pool, keys, labels
        self._settings, self._diary = settings, diary
        self._twins = Twins(pool, settings.dedup_threshold, keys) if settings.dedup_threshold >= 0 else None
        self._most = max(1, settings.memory_limit // _SHARE // (pool.dimension * np.dtype(pool.dtype).itemsize))
        self._held: tuple[Rows, Floats] | None = None
        #: Per row of the pool, its group of near-duplicates; None where they are not looked for.
        self.groups: Rows | None = None

    @property
    def collapsed(self) -> int:
        """How many of the images that were looked at are near-duplicates of others."""
        if self.groups is None:
            return 0
        grouped = self.groups[self.groups >= 0]
        return len(grouped) - len(np.unique(grouped))

    def keep(self, pairs: Pairs, images: Images, limits: Limits, stops: Outcomes | None) -> Coverage:
        """Decide every pair; the arguments are those of `cover`."""
        walk = walk_of(images)
        if self._twins is None:
            return self._cover(pairs, images, limits, stops, walk)
        while True:
            covered = self._cover(pairs, images, limits, stops, walk)
            seen = self._twins.seen
            new = _kept(covered)
            new = new[~seen[new]]
            if not len(new):
                self._note_chains(len(_kept(covered)) < limits.budget)
                return covered
            room = self._most - self._twins.held
            if room <= 0:
                return self._among_seen(pairs, images, limits, stops, walk)
            self._twins.see(self._more(walk[images.possible[walk]], new)[:room])
            self.groups = self._twins.groups()

    def _note_chains(self, short: bool) -> None:
        """Say so where nearly everything is linked to nearly everything, and the budget is not filled."""
        assert self._twins is not None
        groups = np.zeros(0, np.int64) if self.groups is None else self.groups[self.groups >= 0]
        largest, seen = int(np.bincount(groups).max(initial=0)), int(self._twins.seen.sum())
        note = (
            f"dedup_threshold={self._settings.dedup_threshold} links {largest} of {seen} images that were looked at "
            "into one group: lower it, unless they are all copies of one image"
        )
        if short and 2 * largest > seen and note not in self._diary.notes:
            self._diary.notes.append(note)

    def _more(self, walk: Rows, new: Rows) -> Rows:
        """What is looked at next: images that would be kept, and others after them where much collapses."""
        assert self._twins is not None
        seen = self._twins.seen
        looked_at = int(seen.sum())
        if not looked_at:
            return new
        different = max(1, looked_at - self.collapsed)
        wanted = -(-len(new) * looked_at // different)
        taken = seen.copy()
        taken[new] = True
        return np.concatenate([new, walk[~taken[walk]][: wanted - len(new)]])

    def _among_seen(self, pairs: Pairs, images: Images, limits: Limits, stops: Outcomes | None, walk: Rows) -> Coverage:
        """The best that can be said where memory allows to look at no more."""
        assert self._twins is not None
        seen = self._twins.seen
        stopped = np.zeros(len(seen), np.int8) if images.stopped is None else images.stopped.copy()
        stopped[~seen & (stopped == 0)] = code(Outcome.OVER_BUDGET)
        covered = self._cover(pairs, replace(images, stopped=stopped), limits, stops, walk)
        note = (
            f"memory_limit allows to look for near-duplicates among {int(seen.sum())} images only: no other is kept; "
            "raise it to fill the budget"
        )
        if note not in self._diary.notes:
            self._diary.notes.append(note)
        return covered

    def _cover(self, pairs: Pairs, images: Images, limits: Limits, stops: Outcomes | None, walk: Rows) -> Coverage:
        """`cover`, with what is known of near-duplicates."""
        order = None
        if self._settings.diversity and limits.budget:
            order = self._order(walk[images.possible[walk]], limits)
        return cover(
            pairs,
            images,
            self._labels,
            limits,
            stops=stops,
            same=Same(self._keys, self.groups),
            order=order,
            walk=walk,
        )

    def _order(self, walk: Rows, limits: Limits) -> Order:
        """The order that makes for variety, of the rows that may be kept."""
        settings = self._settings
        wanted = CANDIDATES * limits.budget
        if settings.diversity_method == "facility_location":
            wanted = max(limits.budget, min(wanted, MOST_COVERED))
        if self._most < min(wanted, len(walk)):
            note = f"memory_limit allows {self._most} candidates for diversity, and not {min(wanted, len(walk))}"
            wanted = self._most
            if note not in self._diary.notes:
                self._diary.notes.append(note)

        def make(units: Singles) -> Aim:
            if settings.diversity_method == "mmr":
                return MarginalRelevance(units, settings.diversity)
            return FacilityLocation(units, settings.diversity, limits.budget)

        return Diverse(walk, wanted, self._vectors, make)

    def _vectors(self, rows: Rows) -> Floats:
        """Vectors of the pool; those of the candidates, which are asked for again and again, are held."""
        if self._held is not None and np.array_equal(self._held[0], rows):
            return self._held[1]
        vectors = pick_vectors(self._pool, rows)
        if self._twins is not None and (self._held is None or len(rows) >= len(self._held[0])):
            self._held = rows, vectors
        return vectors


def _kept(covered: Coverage) -> Rows:
    """Rows that are kept."""
    return np.flatnonzero(covered.pool_outcomes == code(Outcome.KEPT))
