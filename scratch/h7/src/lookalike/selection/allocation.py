"""How a wanted number of sources is shared among classes: the drop-in contract's `class_stratified` (section 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from lookalike.selection.unique import Mask, Pairs, Rows, quotas

#: The pool of images without a rare class.
COMMON = "common"
#: The last matching: any source for any target.
ANY = "any"
#: Matches some targets with some free sources: name, targets, sources, how many are wanted.
Solve = Callable[[str, Rows, Mask, int], Pairs]


@dataclass(frozen=True)
class Stratum:
    """The targets and sources of one rare class, or those without any.

    Attributes
    ----------
    name:
        The class, or `COMMON`.
    targets:
        Rows of its targets; one with several rare classes is in several strata.
    sources:
        Per source, whether it is one of its own.
    quota:
        How many sources it should get.
    """

    name: str
    targets: Rows
    sources: Mask
    quota: int


@dataclass(frozen=True)
class Share:
    """What a stratum got.

    Attributes
    ----------
    stratum:
        The stratum.
    own, fallback:
        Sources from its own pool, and from the pool without rare classes.
    """

    stratum: Stratum
    own: int
    fallback: int

    @property
    def short(self) -> int:
        """How many sources are missing."""
        return self.stratum.quota - self.own - self.fallback


def make_strata(rare: Sequence[str], target_has: Mask, source_has: Mask, desired: int) -> list[Stratum]:
    """One stratum for each rare class, and the one without.

    Parameters
    ----------
    rare:
        The classes.
    target_has, source_has:
        images x classes: whether an image shows a class.
    desired:
        How many sources are wanted; the quotas sum to it.
    """
    targets = [np.flatnonzero(column) for column in target_has.T]
    targets.append(np.flatnonzero(~target_has.any(axis=1)))
    sources = [*source_has.T, ~source_has.any(axis=1)]
    shares = quotas([len(rows) for rows in targets], desired)
    columns = zip((*rare, COMMON), targets, sources, shares, strict=True)
    return [Stratum(*one) for one in columns]


def allocate(strata: Sequence[Stratum], targets: Rows, free: Mask, desired: int, solve: Solve) -> list[Share]:
    """Give every stratum its sources.

    First each one takes from its own pool, rare classes first. Then classes that are short take from the pool without
    rare classes. What is still missing may be any source, of any target: the wanted number comes before the shares.

    Parameters
    ----------
    strata:
        Rare classes in the order of the list, then the one without.
    targets:
        All targets.
    free:
        Per source, whether it may be taken.
    desired:
        How many sources are wanted.
    solve:
        Matches.
    """
    free = free.copy()

    def take(name: str, rows: Rows, sources: Mask, count: int) -> int:
        among = free & sources
        if not count or not len(rows) or not among.any():
            return 0
        kept = solve(name, rows, among, count)
        free[kept.sources] = False
        return len(kept.sources)

    *rare, common = strata
    own = [take(one.name, one.targets, one.sources, one.quota) for one in strata]
    fallback = [
        take(f"{one.name}_fallback", one.targets, common.sources, one.quota - got)
        for one, got in zip(rare, own, strict=False)
    ]
    take(ANY, targets, np.ones(len(free), np.bool_), desired - sum(own) - sum(fallback))
    return [Share(*one) for one in zip(strata, own, [*fallback, 0], strict=True)]
