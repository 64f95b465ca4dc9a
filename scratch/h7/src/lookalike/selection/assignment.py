"""The exact assignment: of all ways to give sources to targets, the one with the least total distance.

It is a linear program over candidate pairs: each source goes to one target at most, each target takes `topn` sources
at most, and the number of pairs is given. Its matrix is totally unimodular, so that a vertex is a whole assignment. The
prices of its dual say whether a pair that is no candidate could lower the total; while one could, candidates are added.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import linprog
from scipy.sparse import coo_array, csr_array, vstack

from lookalike.selection.unique import Ask, Mask, Matching, Pairs, Rows

Prices = npt.NDArray[np.float64]

#: Candidate pairs that the program may have; beyond, it takes minutes and gigabytes.
_MOST_CANDIDATES = 4_000_000
#: Prices are exact but for rounding.
_TOLERANCE = 1e-9


class Assignment(NamedTuple):
    """The exact assignment.

    Attributes
    ----------
    kept:
        The pairs, nearest first.
    candidates:
        Pairs that the program chose from.
    proven:
        Whether no pair that was no candidate could lower the total distance.
    """

    kept: Pairs
    candidates: int
    proven: bool


def assign(ask: Ask, greedy: Matching, free: Mask, path_order: Rows) -> Assignment:
    """Find the assignment of the least total distance, with as many pairs as the greedy one has.

    Parameters
    ----------
    ask:
        Searches.
    greedy:
        What `match` found: its first search are the first candidates, and its pairs are candidates, too.
    free, path_order:
        As `match` got them.
    """
    if not len(greedy.kept.targets):
        return Assignment(greedy.kept, 0, proven=True)
    first = greedy.passes[0]
    targets, available = first.targets, int(free.sum())
    lists = _flat(targets, first.distances, first.rows)
    width = np.full(len(targets), first.k)
    last = first.distances[:, -1].astype(np.float64)
    while True:
        candidates = _distinct(Pairs.join([lists, greedy.kept]), len(free))
        chosen, prices = _solve(candidates, targets, greedy.topn, len(greedy.kept.targets))
        # A pair beyond the end of a target's list is at least as far as that end, and a source has no price above 0:
        # such a pair can pay only where the end is nearer than the price of the target.
        short = (width < available) & (last < prices - _TOLERANCE)
        k = min(available, 2 * int(width[short].max())) if short.any() else 0
        if not short.any() or len(lists.targets) + k * int(short.sum()) > _MOST_CANDIDATES:
            break
        distances, rows = ask(targets[short], k, free)
        others = lists.at(~np.isin(lists.targets, targets[short]))
        lists = Pairs.join([others, _flat(targets[short], distances, rows)])
        width[short], last[short] = k, distances[:, -1]
    kept = candidates.at(chosen)
    if kept.total > greedy.kept.total:  # by less than the solver's tolerance
        kept = greedy.kept
    return Assignment(kept.nearest_first(path_order), len(candidates.targets), proven=not short.any())


def _flat(targets: Rows, distances: npt.NDArray[np.float32], rows: Rows) -> Pairs:
    """The lists of some targets as pairs."""
    k = rows.shape[1]
    ranks = np.tile(np.arange(1, k + 1, dtype=np.int32), len(targets))
    return Pairs(np.repeat(targets, k), rows.reshape(-1), distances.reshape(-1), ranks)


def _distinct(pairs: Pairs, sources: int) -> Pairs:
    """Each pair once, the first of its kind."""
    return pairs.at(np.unique(pairs.targets * sources + pairs.sources, return_index=True)[1])


def _solve(candidates: Pairs, targets: Rows, topn: int, count: int) -> tuple[Mask, Prices]:
    """Solve the program.

    Returns
    -------
    Mask, Prices
        The chosen candidates; per target, what one more pair of it may cost at most without raising the total.
    """
    number = len(candidates.targets)
    every = np.arange(number)
    sources, columns = np.unique(candidates.sources, return_inverse=True)
    rows = np.searchsorted(targets, candidates.targets)
    ones = np.ones(number)
    limits = vstack(
        [
            coo_array((ones, (rows, every)), (len(targets), number)),
            coo_array((ones, (columns, every)), (len(sources), number)),
        ]
    ).tocsr()
    bounds = np.concatenate([np.full(len(targets), topn), np.ones(len(sources))])
    exact = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    for method in ("highs-ipm", "highs-ds"):  # the first is faster and ends on a vertex nearly always
        solved = linprog(
            candidates.distances.astype(np.float64), limits, bounds, csr_array(np.ones((1, number))), [count],
            method=method, options=exact,
        )  # fmt: skip
        if solved.status == 0:
            chosen = solved.x > 0.5
            if int(chosen.sum()) == count and (limits @ chosen <= bounds).all():
                return chosen, solved.ineqlin.marginals[: len(targets)] + solved.eqlin.marginals[0]
    raise AssertionError(f"the assignment was not solved: {solved.message}")
