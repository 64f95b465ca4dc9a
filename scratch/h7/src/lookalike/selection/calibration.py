"""How far is near: distance thresholds from the pool's own distances, for one encoder and one metric.

A distance means nothing by itself: with one encoder every image is within 0.1 of every other, with the next one none
is. So the pool is measured against itself: how far each image is from its nearest other one, and how far two random
images are apart.

* ``distance_threshold``: a high quantile of the nearest distances. What is farther from a target than nearly every
  pool image is from its own nearest one is not of its kind.
* ``dedup_threshold``: where the nearest distances of different images end. Their logarithms lie about a median with
  some spread; three robust standard deviations below it hardly any pair of different images is to be expected. The
  spread is taken below the median only, and exact twins are left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.errors import VectorError
from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.metrics import METRICS
from lookalike.neighbors.search import Search, search
from lookalike.neighbors.sides import ArraySide, Side, pick_vectors

#: Random pairs that are measured, at most.
_RANDOM_PAIRS = 20_000
#: Random pool images that they are made with.
_RANDOM_IMAGES = 2_000
#: They are measured in so many parts, to hold little in float64.
_PARTS = 20
#: Fewer nearest distances say too little of where they end.
_LEAST = 20
#: Robust standard deviations below the median, and what makes a median of deviations one of them.
_DEVIATIONS, _PER_MEDIAN = 3.0, 1.4826
#: A nearest distance below this share of a random pair's is 0 but for rounding.
_TWIN = 1e-6


@dataclass(frozen=True)
class Calibration:
    """What is known of a pool's distances.

    Attributes
    ----------
    rows:
        Images whose nearest other one was looked for: all, or a random sample, ascending.
    nearest:
        How far it is.
    neighbors:
        Which row of the pool it is.
    random:
        Distances of random pairs, ascending.
    """

    rows: Rows
    nearest: Float64s
    neighbors: Rows
    random: Float64s

    @property
    def middle(self) -> float:
        """The median distance of a random pair."""
        return float(np.median(self.random))

    @property
    def twins(self) -> int:
        """Images with another one at distance 0."""
        return int((self.nearest <= _TWIN * self.middle).sum())

    def quantile(self, share: float) -> float:
        """The distance within which such a share of the images has its nearest other one."""
        return float(np.quantile(self.nearest, share))

    def random_within(self, distance: float) -> float:
        """The share of random pairs that are no farther apart."""
        return float(np.searchsorted(self.random, distance, side="right")) / len(self.random)

    def duplicates_end(self) -> float | None:
        """Below this, a nearest distance is no longer one of different images; None where that cannot be told."""
        apart = self.nearest[self.nearest > _TWIN * self.middle]
        if len(apart) < _LEAST:
            return None
        logs = np.log(apart)
        middle = float(np.median(logs))
        below = middle - logs[logs <= middle]
        return float(np.exp(middle - _DEVIATIONS * _PER_MEDIAN * float(np.median(below))))


def calibrate(pool: Side, metric: str, *, sample: int, seed: int, device: str, memory_limit: int) -> Calibration:
    """Measure a pool against itself.

    Parameters
    ----------
    pool:
        At least two rows.
    metric:
        ``cosine``, ``euclidean`` or ``manhattan``.
    sample:
        Images whose nearest other one is looked for among all: all of a pool of this size, else a random sample.
    seed:
        Of the sample and of the random pairs.
    device, memory_limit:
        Of the search.

    Raises
    ------
    VectorError
        When there are fewer than two rows, or values are not finite.
    """
    if pool.rows < 2:
        raise VectorError("has one row, and distances need two", where=pool.name, hint="name the whole pool")
    random = np.random.default_rng(seed)
    rows = np.arange(pool.rows)
    if pool.rows > sample:
        rows = np.sort(random.choice(pool.rows, sample, replace=False))
    vectors = pick_vectors(pool, rows)
    wanted = Search(2, metric, device=device, memory_limit=memory_limit, certified=True)
    found = search(ArraySide(vectors, pool.name), pool, wanted).neighbors
    # Of several twins the row itself may not be among the two: then the first of them is at distance 0 as well.
    own = found.rows[:, 0] == rows
    place = own.astype(np.int64)
    each = np.arange(len(rows))
    others = np.sort(random.choice(pool.rows, min(_RANDOM_IMAGES, pool.rows), replace=False))
    left = random.integers(0, len(rows), _RANDOM_PAIRS)
    right = random.integers(0, len(others), _RANDOM_PAIRS)
    differ = rows[left] != others[right]
    left, right = left[differ], right[differ]
    distances = _distances(metric, vectors, pick_vectors(pool, others), left, right)
    return Calibration(rows, found.distances[each, place].astype(np.float64), found.rows[each, place],
                       np.sort(distances))  # fmt: skip


def _distances(metric: str, one: Floats, two: Floats, left: Rows, right: Rows) -> Float64s:
    """Distances of pairs, some at a time."""
    return np.concatenate(
        [
            METRICS[metric].distances(one[rows].astype(np.float64), two[others].astype(np.float64))
            for rows, others in zip(np.array_split(left, _PARTS), np.array_split(right, _PARTS), strict=True)
        ]
    )
