"""What a search can say for itself: how it decided, and a check of some targets against brute force."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookalike.errors import SearchError
from lookalike.neighbors.base import Float64s, Floats, Found, Rows
from lookalike.neighbors.metrics import METRICS

Mask = npt.NDArray[np.bool_]
#: Labels as plain text, in an array of objects.
Labels = npt.NDArray[np.object_]

#: Targets that are checked, chosen at random, always the same.
SPOT_CHECKS = 32
#: Values of a block of sources that is scored at a time (50 MB in float64).
_BLOCK_VALUES = 6 << 20
#: Pairs measured at a time, in values.
_GATHER = 1_000_000
#: Measured distances nearer than this, relative to what they are sums of, are taken as equal: more than float64 sums
#: of 8,192 terms can differ by, and less than float32 shows.
_TOLERANCE = 1e-11


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
        Precision of the first pass: ``fp32`` on a processor; ``bf16`` on a GPU, but for Manhattan.
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

    It scores every source in float64, and measures all that could be among the k nearest as far as those scores can
    tell. It sees the chunks as they are read, and applies labels and exclusion on its own.

    Parameters
    ----------
    targets:
        Those to check: targets x dimension.
    labels:
        Their labels as `plain_label` gives them; None where labels do not matter.
    metric, k:
        Of the search.
    """

    def __init__(self, targets: Floats, labels: Labels | None, metric: str, k: int) -> None:
        self._metric = METRICS[metric]
        self._relative = metric in ("euclidean", "manhattan")  # nothing cancels in what is measured
        self._targets, self._labels = targets.astype(np.float64), labels
        # Euclidean distances do not change when all is moved, but scores lose fewer digits near the origin.
        moved = metric == "euclidean" and len(targets)
        self._centre = self._targets.mean(axis=0) if moved else np.zeros(targets.shape[1])
        self._prepared = self._metric.prepare_targets(self._targets - self._centre, wide=True)
        self._lengths = np.ones(len(targets)) if metric == "cosine" else np.linalg.norm(self._targets, axis=1)
        self._cosine = metric == "cosine"
        self._kept = k + 1  # one more tells whether the last one is a tie
        self._best = [_Best.of(self._kept) for _ in targets]

    def see(self, vectors: Floats, first: int, excluded: Mask | None, labels: Labels | None) -> None:
        """Take the next sources.

        Parameters
        ----------
        vectors, first:
            sources x dimension, and the row of the first one.
        excluded, labels:
            One value a source, or None.
        """
        size = max(1, _BLOCK_VALUES // vectors.shape[1])
        for begin in range(0, len(vectors) if len(self._targets) else 0, size):
            part = slice(begin, begin + size)
            scores, errors = self._scores(vectors[part])
            allowed = np.ones(scores.shape[1], np.bool_) if excluded is None else ~excluded[part]
            for number, best in enumerate(self._best):
                own = allowed
                if labels is not None and self._labels is not None:
                    own = allowed & (labels[part] == self._labels[number])
                places = best.contenders(scores[number], errors[number], own)
                distances, sizes = self._measure(number, vectors[part], places)
                best.add(distances, sizes, first + begin + places)

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
        for number, best in zip(numbers, self._best, strict=True):
            count = min(len(best.rows), self._kept - 1)
            near = _TOLERANCE * best.sizes
            # Rows of (nearly) equal distances may change places: float64 sums differ by their order.
            gaps = np.diff(best.distances, prepend=-np.inf, append=np.inf)
            apart = gaps > 2 * (np.append(near, 0) + np.insert(near, 0, 0))
            alone = (apart[1:] & apart[:-1])[:count]
            same_distances = (np.abs(found.distances[number, :count] - best.distances[:count]) <= near[:count]).all()
            same_rows = (found.rows[number, :count] == best.rows[:count])[alone].all()
            if not (same_distances and same_rows and (found.rows[number, count:] < 0).all()):
                raise SearchError(
                    f"target row {number} has other neighbours than float64 brute force finds: "
                    f"{found.rows[number, :5].tolist()} instead of {best.rows[:5].tolist()}",
                    hint="this is a bug: please report it with the vectors",
                )

    def _scores(self, block: Floats) -> tuple[Float64s, Float64s]:
        """Scores in float64 (targets x sources), and bounds on their errors."""
        sources = self._metric.prepare(block - self._centre, wide=True)
        scores = np.empty((len(self._targets), len(block)))
        self._metric.product(self._prepared.vectors, sources.vectors, scores)
        if sources.scale is not None:
            scores *= sources.scale
        if sources.offset is not None:
            scores += sources.offset
        magnitudes = self._prepared.magnitude[:, None], sources.magnitude[None]
        errors = self._metric.error(*magnitudes, block.shape[1], np.float64)
        return scores, np.broadcast_to(errors, scores.shape)

    def _measure(self, number: int, block: Floats, places: Rows) -> tuple[Float64s, Float64s]:
        """Distances of one target to some sources, and what their rounding is relative to."""
        step = max(1, _GATHER // block.shape[1])
        one = self._targets[number : number + 1]
        distances, sizes = [np.empty(0)], [np.empty(0)]
        for begin in range(0, len(places), step):
            some = block[places[begin : begin + step]].astype(np.float64)
            distances.append(self._metric.distances(np.repeat(one, len(some), 0), some))
            lengths = np.ones(len(some)) if self._cosine else np.linalg.norm(some, axis=1)
            sizes.append(distances[-1] if self._relative else self._lengths[number] * lengths)
        return np.concatenate(distances), np.concatenate(sizes)


@dataclass
class _Best:
    """What brute force knows of one target.

    Attributes
    ----------
    kept:
        How many are kept.
    distances, sizes, rows:
        Of the nearest so far, by (distance, row).
    lowers:
        The largest lower ends of scores so far: whoever is certain to stay below them is not measured.
    """

    kept: int
    distances: Float64s
    sizes: Float64s
    rows: Rows
    lowers: Float64s

    @classmethod
    def of(cls, kept: int) -> _Best:
        """Nothing yet."""
        return cls(kept, np.empty(0), np.empty(0), np.empty(0, np.int64), np.empty(0))

    def contenders(self, scores: Float64s, errors: Float64s, allowed: Mask) -> Rows:
        """Places of the sources of a block that may be among the nearest."""
        places = np.flatnonzero(allowed)
        scores, errors = scores[places], errors[places]
        lowers = np.concatenate([self.lowers, scores - errors])
        if len(lowers) > self.kept:
            lowers = np.partition(lowers, len(lowers) - self.kept)[-self.kept :]
        self.lowers = lowers
        if len(lowers) < self.kept:
            return places
        contenders: Rows = places[scores + errors >= lowers.min()]
        return contenders

    def add(self, distances: Float64s, sizes: Float64s, rows: Rows) -> None:
        """Take measured sources; their rows come after those before."""
        distances, sizes = np.concatenate([self.distances, distances]), np.concatenate([self.sizes, sizes])
        rows = np.concatenate([self.rows, rows])
        order = np.lexsort((rows, distances))[: self.kept]
        self.distances, self.sizes, self.rows = distances[order], sizes[order], rows[order]
