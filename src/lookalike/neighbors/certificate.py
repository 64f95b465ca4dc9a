"""What a search can say for itself: how it decided, and a check of some targets against brute force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.errors import SearchError
from lookalike.neighbors.base import Float64s, Floats, Found, Rows
from lookalike.neighbors.metrics import METRICS

#: Targets that are checked, chosen at random, always the same.
SPOT_CHECKS = 32
#: Sources scored at a time (50 MB in float64 at 768 dimensions).
_BLOCK = 8192
#: Sources measured beyond k in every block: float64 scores order all but near-equal ones rightly.
_SPARE = 32
#: Pairs measured at a time, in values.
_GATHER = 1_000_000
#: Distances nearer than this, relative to the largest of the target, are taken as equal.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Certificate:
    """How exact neighbours were found.

    Attributes
    ----------
    targets:
        All of them.
    widened:
        Those that the first pass could not decide: they were scored at higher precision.
    first_pass:
        Precision of the first pass: ``fp32`` on a processor, ``bf16`` on a GPU.
    checked:
        Targets whose neighbours were found again by float64 brute force over the whole pool, and were the same.
    """

    targets: int
    widened: int
    first_pass: str
    checked: int

    def __str__(self) -> str:
        decided = f"{self.targets - self.widened} of {self.targets} queries decided in {self.first_pass}"
        higher = f", {self.widened} at higher precision" if self.widened else ""
        return f"{decided}{higher}; {self.checked} checked against float64 brute force: the same"


class SpotCheck:
    """Brute force in float64, by NumPy, for a few targets while the sources pass by.

    Parameters
    ----------
    targets:
        Those to check: targets x dimension.
    metric, k:
        Of the search.
    """

    def __init__(self, targets: Floats, metric: str, k: int) -> None:
        self._metric = METRICS[metric]
        self._squared = metric == "euclidean"
        self._targets = targets.astype(np.float64)
        # Euclidean distances do not change when all is moved, but scores lose fewer digits near the origin.
        self._centre = self._targets.mean(axis=0) if self._squared else np.zeros(targets.shape[1])
        self._prepared = self._metric.prepare_targets(self._targets - self._centre, wide=True)
        self._errors = np.zeros(len(targets))
        self._kept = k + 1  # one more tells whether the last one is a tie
        self._distances = [np.empty(0)] * len(targets)
        self._rows: list[Rows] = [np.empty(0, np.int64)] * len(targets)

    def see(self, vectors: Floats, rows: Rows) -> None:
        """Take the next sources; see `Finder.see`."""
        for first in range(0, len(vectors), _BLOCK):
            block = vectors[first : first + _BLOCK]
            scores = self._scores(block)
            for target in range(len(self._targets)):
                best = _largest(scores[target], self._kept + _SPARE)
                distances = np.concatenate([self._distances[target], self._measure(target, block, best)])
                found = np.concatenate([self._rows[target], rows[first + best]])
                order = np.lexsort((found, distances))[: self._kept]
                self._distances[target], self._rows[target] = distances[order], found[order]

    def compare(self, found: Found, numbers: Rows) -> None:
        """Refuse a search that found something else.

        Parameters
        ----------
        found:
            Of all targets.
        numbers:
            Which of them are checked here.

        Raises
        ------
        SearchError
            When a distance, or a row that is no tie, differs.
        """
        for check, number in enumerate(numbers):
            values, rows = self._distances[check], self._rows[check]
            count = min(len(rows), self._kept - 1)
            given = found.distances[number, :count]
            if self._squared:  # what the scores' error is an error of
                values, given = values**2, given**2
            near = _TOLERANCE * np.abs(values).max(initial=0.0) + 4 * self._errors[check]
            # Rows of (nearly) equal distances may change places: float64 sums differ by their order.
            apart = np.diff(values, prepend=-np.inf, append=np.inf) > 2 * near
            alone = (apart[1:] & apart[:-1])[:count]
            same_distances = (np.abs(given - values[:count]) <= near).all()
            same_rows = (found.rows[number, :count] == rows[:count])[alone].all()
            if not (same_distances and same_rows and (found.rows[number, count:] < 0).all()):
                raise SearchError(
                    f"target row {number} has other neighbours than float64 brute force finds: "
                    f"{found.rows[number, :5].tolist()} instead of {rows[:5].tolist()}",
                    hint="this is a bug: please report it with the vectors; device=cpu may avoid it",
                )

    def _scores(self, block: Floats) -> Floats:
        """Scores in float64 (targets x sources)."""
        sources = self._metric.prepare(block - self._centre, wide=True)
        self._errors = np.maximum(self._errors, self._metric.margin(self._prepared, sources))
        scores = np.empty((len(self._targets), len(block)))
        self._metric.product(self._prepared.vectors, sources.vectors, scores)
        if sources.scale is not None:
            scores *= sources.scale
        return scores if sources.offset is None else scores + sources.offset

    def _measure(self, target: int, block: Floats, rows: Rows) -> Float64s:
        """Distances of one target to some rows of a block, a bounded number of values at a time."""
        step = max(1, _GATHER // block.shape[1])
        parts = [rows[first : first + step] for first in range(0, len(rows), step)]
        one = self._targets[target : target + 1]
        return np.concatenate(
            [self._metric.distances(np.repeat(one, len(part), 0), block[part].astype(np.float64)) for part in parts]
        )


def _largest(scores: Floats, count: int) -> Rows:
    """Places of the largest scores, in no order."""
    if len(scores) <= count:
        return np.arange(len(scores))
    return np.argpartition(scores, len(scores) - count)[-count:]
