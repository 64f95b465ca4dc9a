"""Whether this iteration's targets and neighbours differ from the last one's by more than chance.

Distances of two iterations are compared by the probability that one of this iteration is larger than one of the last
(Vargha and Delaney, "A Critique and Improvement of the CL Common Language Effect Size Statistics", Journal of
Educational and Behavioral Statistics 25, 2000). It asks for no distribution, outliers have no say, and it means the
same for every encoder: 0.5 is no difference, and from 0.71 on they call it large.

Targets are compared by the distance of their means, against that of random halves of both (a permutation test): means
of few vectors in many dimensions are apart by chance alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.neighbors.base import Float64s, Floats

#: From here on, a probability of superiority is a large difference.
LARGE = 0.71
#: Shuffles of a permutation test, vectors of each side at most, and shuffles that are computed at a time.
_SHUFFLES, _MOST, _AT_A_TIME = 999, 2_000, 100
#: With fewer on a side, a comparison says nothing.
LEAST = 5


@dataclass(frozen=True)
class Shift:
    """How far the mean of the targets moved.

    Attributes
    ----------
    distance:
        Between the two means, of vectors of length 1.
    by_chance:
        The median distance where all targets are shuffled over both iterations.
    chance:
        The share of the shuffles with a distance as large (1 is added to both counts: it is never 0).
    """

    distance: float
    by_chance: float
    chance: float


def superiority(now: Float64s, then: Float64s) -> float:
    """The probability that a value of `now` is larger than one of `then`, ties counted half; NaN for too few."""
    if min(len(now), len(then)) < LEAST:
        return float("nan")
    from scipy.stats import rankdata  # a second to import, and few runs have an iteration before them

    ranks = rankdata(np.concatenate([now, then]))
    return float((ranks[: len(now)].mean() - (len(now) + 1) / 2) / len(then))


def centroid_shift(now: Floats, then: Floats, seed: int) -> Shift | None:
    """How far the mean of the targets moved from one iteration to the next; None for too few.

    Parameters
    ----------
    now, then:
        Vectors; more than 2,000 of a side are a random part of them.
    seed:
        Of the part and of the shuffles.
    """
    if min(len(now), len(then)) < LEAST:
        return None
    random = np.random.default_rng(seed)
    sides = [_units(side[_some(len(side), random)]) for side in (now, then)]
    first, everything = len(sides[0]), np.concatenate(sides)
    distance = float(np.linalg.norm(sides[0].mean(axis=0) - sides[1].mean(axis=0)))
    total, rest = everything.sum(axis=0), len(everything) - first
    shuffled = []
    for begin in range(0, _SHUFFLES, _AT_A_TIME):
        chosen = np.zeros((min(_AT_A_TIME, _SHUFFLES - begin), len(everything)))
        for row in chosen:
            row[random.permutation(len(everything))[:first]] = 1
        sums = chosen @ everything
        shuffled.append(np.linalg.norm(sums / first - (total - sums) / rest, axis=1))
    by_chance = np.concatenate(shuffled)
    # What is equal but for rounding counts as equal.
    reached = int((by_chance >= distance * (1 - 1e-9) - 1e-12).sum())
    return Shift(distance, float(np.median(by_chance)), (1 + reached) / (1 + len(by_chance)))


def _some(count: int, random: np.random.Generator) -> slice | np.ndarray[tuple[int], np.dtype[np.int64]]:
    return slice(None) if count <= _MOST else np.sort(random.choice(count, _MOST, replace=False))


def _units(vectors: Floats) -> Float64s:
    """Vectors of length 1; those of length 0 stay."""
    wide: Float64s = vectors.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    units: Float64s = wide / np.where(lengths > 0, lengths, 1.0)
    return units
