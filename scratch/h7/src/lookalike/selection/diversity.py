"""Filling the budget with images that differ: greedy, with one of two aims.

For a candidate x, r(x) is its relevance: 1 for the best score, 0 for the last of the candidates, by their places in the
order of the scores. Places and not scores: what a step of a score means differs from scoring to scoring, and a few
outliers would squeeze all others together. d is the setting `diversity`, S what is kept (by the floor, too), and
cosines are of the embeddings, centred on the mean of the candidates. Without that, all images of one kind of part have
nearly the same cosine to each other (textile: 0.98 to 1), and d would mean something else for every encoder and pool.

* ``mmr``, maximal marginal relevance (Carbonell and Goldstein, 1998): next comes the x with the largest
  (1 - d) r(x) - d max over s in S of cos(x, s); with nothing kept yet, the first candidate.
* ``facility_location``: next comes the x that adds most to
  (1 - d) / budget * sum of r(s) over s in S  +  d / R * sum over all candidates v of r(v) max(0, max over s in S of
  cos(v, s)), with R the sum of all r. Each part is at most 1. The sum is submodular, so that greedy reaches at least
  1 - 1/e of the best (Nemhauser, Wolsey and Fisher, 1978).

Both values of a candidate only fall while more is kept. So a value from earlier is an upper bound, and only candidates
at the top are measured again (lazy greedy; Minoux, 1978). Equal values are in the order of the scores.
"""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import numpy as np

from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.selection.coverage import InOrder
from lookalike.selection.space import BLOCK, Singles

#: Candidates for each image of the budget. Fewer leave little to choose from; an image beyond them has a poor score.
CANDIDATES = 10
#: Candidates of `facility_location`, whose work grows with their square; but never fewer than the budget. The cosines
#: of so many to each other are held (256 MB).
MOST_COVERED = 8192
#: A vector that is nearer to the centre than this share of its own values is at the centre.
_ROUNDING = 1e-7
#: Candidates that are measured again at a time.
_AT_A_TIME = 64


class Aim(ABC):
    """What a candidate is worth, given what is kept.

    Parameters
    ----------
    units:
        Vectors of the candidates, best score first, as `centred_units` gives them.
    share:
        The setting `diversity`.
    """

    def __init__(self, units: Singles, share: float) -> None:
        self._units, self._share = units, share
        count = len(units)
        self._relevance: Float64s = 1.0 - np.arange(count) / max(count - 1, 1)

    @abstractmethod
    def keep(self, unit: Singles) -> None:
        """A vector is kept."""

    @abstractmethod
    def bounds(self) -> Float64s:
        """Per candidate, at least what it is worth now."""

    @abstractmethod
    def measure(self, candidates: Rows) -> Float64s:
        """What some candidates are worth now."""


class MarginalRelevance(Aim):
    """``mmr``; see the module."""

    def __init__(self, units: Singles, share: float) -> None:
        super().__init__(units, share)
        self._kept = np.empty((256, units.shape[1]), np.float32)
        self._count = 0
        self._largest = np.full(len(units), -1.0)  # per candidate, its largest cosine to those kept so far
        self._stamps = np.zeros(len(units), np.int64)  # and how many these were

    def keep(self, unit: Singles) -> None:
        """See `Aim.keep`."""
        if self._count == len(self._kept):
            self._kept = np.concatenate([self._kept, np.empty_like(self._kept)])
        self._kept[self._count] = unit
        self._count += 1

    def bounds(self) -> Float64s:
        """See `Aim.bounds`: as if all that is kept were opposite."""
        bounds: Float64s = (1 - self._share) * self._relevance + self._share
        return bounds

    def measure(self, candidates: Rows) -> Float64s:
        """See `Aim.measure`."""
        news = self._kept[self._stamps[candidates].min() : self._count]
        if len(news):
            found = (self._units[candidates] @ news.T).max(axis=1)
            self._largest[candidates] = np.maximum(self._largest[candidates], found)
            self._stamps[candidates] = self._count
        worth: Float64s = (1 - self._share) * self._relevance[candidates] - self._share * self._largest[candidates]
        return worth


class FacilityLocation(Aim):
    """``facility_location``; see the module.

    Parameters
    ----------
    units, share:
        As of `Aim`.
    budget:
        How many images are kept in all.
    """

    def __init__(self, units: Singles, share: float, budget: int) -> None:
        super().__init__(units, share)
        total = max(float(self._relevance.sum()), 1.0)  # without candidates, nothing is measured
        self._weights = share / total * self._relevance
        self._own = (1 - share) / budget * self._relevance
        self._covered = np.zeros(len(units), np.float32)  # per candidate, its largest cosine to what is kept, from 0
        self._cosines = units @ units.T if len(units) <= MOST_COVERED else None

    def keep(self, unit: Singles) -> None:
        """See `Aim.keep`."""
        np.maximum(self._covered, self._units @ unit, out=self._covered)

    def bounds(self) -> Float64s:
        """See `Aim.bounds`: the values themselves."""
        return self.measure(np.arange(len(self._units)))

    def measure(self, candidates: Rows) -> Float64s:
        """See `Aim.measure`."""
        gains = np.empty(len(candidates))
        for first in range(0, len(candidates), _AT_A_TIME):
            part = candidates[first : first + _AT_A_TIME]
            more = self._units[part] @ self._units.T if self._cosines is None else self._cosines[part]
            more -= self._covered
            gains[first : first + _AT_A_TIME] = np.maximum(more, 0, out=more) @ self._weights
        worth: Float64s = gains + self._own[candidates]
        return worth


class Diverse(InOrder):
    """Candidates by what they add to what is kept, then the others in the order of the scores; an `Order`.

    Parameters
    ----------
    walk:
        Rows of the pool, best score first.
    candidates:
        How many of them are candidates.
    pick:
        Gives the vectors of rows.
    make:
        Makes the aim for the candidates' vectors.
    """

    def __init__(
        self, walk: Rows, candidates: int, pick: Callable[[Rows], Floats], make: Callable[[Singles], Aim]
    ) -> None:
        super().__init__(walk[candidates:])
        self._rows, self._pick, self._make = walk[:candidates], pick, make
        self._aim: Aim | None = None
        self._units: Singles = np.empty((0, 0), np.float32)
        self._centre: Float64s = np.empty(0)
        self._places: dict[int, int] = {}
        self._kept = 0

    def turns(self, kept: Rows) -> Iterator[int]:
        """See `Order.turns`."""
        vectors = self._pick(self._rows)
        self._centre = mean_of(vectors)
        self._units = centred_units(vectors, self._centre)
        del vectors
        self._places = dict(zip(self._rows.tolist(), range(len(self._rows)), strict=True))
        self._aim = aim = self._make(self._units)
        for row, unit in zip(kept.tolist(), self._of_floor(kept), strict=True):
            aim.keep(unit)
            self._kept += 1
            self._places.pop(row, None)
        left = np.array(sorted(self._places.values()), np.int64)
        # Of each: minus its worth, its place, and how many images were kept when that was measured.
        heap = [(-worth, place, -1) for worth, place in zip(aim.bounds()[left].tolist(), left.tolist(), strict=True)]
        heapq.heapify(heap)
        while heap:
            if heap[0][2] == self._kept:
                yield int(self._rows[heapq.heappop(heap)[1]])
                continue
            stale: list[int] = []
            while heap and len(stale) < _AT_A_TIME and heap[0][2] != self._kept:
                stale.append(heapq.heappop(heap)[1])
            for worth, place in zip(aim.measure(np.array(stale)).tolist(), stale, strict=True):
                heapq.heappush(heap, (-worth, place, self._kept))
        yield from super().turns(kept)

    def keep(self, row: int) -> None:
        """See `Order.keep`."""
        place = self._places.get(row)
        if place is not None and self._aim is not None:
            self._aim.keep(self._units[place])
            self._kept += 1

    def _of_floor(self, kept: Rows) -> Singles:
        """Vectors of what the floor has kept; few of them are no candidates."""
        others = np.array([row for row in kept.tolist() if row not in self._places], np.int64)
        vectors = {}
        if len(others):
            vectors = dict(zip(others.tolist(), centred_units(self._pick(others), self._centre), strict=True))
        found = [self._units[self._places[row]] if row in self._places else vectors[row] for row in kept.tolist()]
        return np.array(found, np.float32).reshape(len(kept), self._units.shape[1])


def mean_of(vectors: Floats) -> Float64s:
    """Their mean; 0 for none."""
    total = np.zeros(vectors.shape[1])
    for first in range(0, len(vectors), BLOCK):
        total += vectors[first : first + BLOCK].sum(axis=0, dtype=np.float64)
    mean: Float64s = total / max(len(vectors), 1)
    return mean


def centred_units(vectors: Floats, centre: Float64s) -> Singles:
    """Where vectors lie from a centre, as vectors of length 1 in float32; at the centre they are zero."""
    units = np.empty(vectors.shape, np.float32)
    for first in range(0, len(vectors), BLOCK):
        plain = vectors[first : first + BLOCK].astype(np.float64)
        part = plain - centre
        largest = np.abs(part).max(axis=1, keepdims=True, initial=0.0)
        # What is nothing but the rounding of the values has no direction.
        there = largest > _ROUNDING * np.abs(plain).max(axis=1, keepdims=True, initial=0.0)
        part = np.divide(part, largest, out=np.zeros_like(part), where=there)
        lengths = np.sqrt((part * part).sum(axis=1, keepdims=True))
        units[first : first + BLOCK] = np.divide(part, lengths, out=np.zeros_like(part), where=there)
    return units
