"""Exact k nearest neighbours by blocks: one matrix product, a scan, and float64 for the few that matter.

For every block of sources: score it against all targets in float32; look only at the maximum of each group of
columns; where a maximum could still be among the k best, take the group's members as candidates. A candidate
is dropped only when its score plus the error bound is below the k-th best score minus the error bound, so no
true neighbour is ever lost. Where float32 cannot tell the sources of a block apart (a pool of images that are all
alike), the block is scored in float64. At the end the candidates, a few more than k a target, are measured in float64
and sorted by (distance, source row). The result is that of float64 brute force.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import NearestNeighborsConfig
from lookalike.errors import ConfigError, VectorError
from lookalike.neighbors.metrics import METRICS, Float64s, Floats, Metric, Prepared
from lookalike.progress import progress

Rows = npt.NDArray[np.int64]

#: Sources and targets scored at a time: their scores (8 MB in float32) stay near the processor.
_SOURCE_BLOCK = 4096
_TARGET_BLOCK = 512
#: Groups that a block's columns are dealt to, like cards: column c is in group c mod 256. A maximum over them is a
#: few passes over long rows, which is fast, and rows that follow each other (often alike) fall into many groups.
_GROUPS = 256
#: Candidates held for a block of targets before they are decided; bounds the memory of pools full of twins.
_MAX_CANDIDATES = 2_000_000
#: Values gathered at a time for float64 distances (16 MB for both sides).
_GATHER = 1_000_000
#: Scores that may be candidates, as a share of a block, before it is scored again in float64.
_CROWDED = 0.02
#: Beyond this, a distance could leave float32.
_LARGEST = 1e34


class Neighbors(NamedTuple):
    """The nearest sources of every target.

    Attributes
    ----------
    distances:
        targets x k, float32, ascending along a row.
    rows:
        targets x k, int64, rows of the source; equal distances are in ascending order of the row.
    """

    distances: npt.NDArray[np.float32]
    rows: Rows


def nearest_neighbors(
    target: Floats, source: Floats, k: int, metric: str = NearestNeighborsConfig.knn_metric
) -> Neighbors:
    """Find the k nearest sources of every target, exactly.

    Parameters
    ----------
    target:
        targets x dimension; float16, float32 or float64.
    source:
        sources x dimension.
    k:
        Neighbours a target; at most the number of sources are returned.
    metric:
        ``euclidean``, ``cosine`` (1 - cos) or ``manhattan``.

    Returns
    -------
    Neighbors
        Distances and rows, targets x min(k, sources).

    Raises
    ------
    ConfigError
        When `k` is below 1 or the metric is unknown.
    VectorError
        When a side is not a matrix, dimensions differ, or values are not finite or beyond 1e34.
    """
    if k < 1:
        raise ConfigError(f"k={k} is not possible", hint="k must be at least 1")
    if metric not in METRICS:
        raise ConfigError(f"metric={metric!r} is not possible", hint=f"use one of: {', '.join(METRICS)}")
    target, source = _checked(target, "target"), _checked(source, "source")
    if target.shape[1] != source.shape[1]:
        raise VectorError(
            f"targets have {target.shape[1]} dimensions, sources {source.shape[1]}",
            hint="embed both sides with one encoder",
        )
    k = min(k, len(source))
    measure = METRICS[metric]
    blocks = [
        _TargetBlock(first, target[first : first + _TARGET_BLOCK], measure, k)
        for first in range(0, len(target), _TARGET_BLOCK)
    ]
    with progress("searching", len(source), "vectors") as advance:
        for first in range(0, len(source), _SOURCE_BLOCK):
            sources = _Sides(source[first : first + _SOURCE_BLOCK], measure)
            for block in blocks:
                block.scan(sources, first)
                held = sum(other.candidate_count for other in blocks)
                if held > max(_MAX_CANDIDATES, 4 * len(target) * k):
                    for other in blocks:
                        other.decide(target, source)
            advance(min(first + _SOURCE_BLOCK, len(source)))
    distances = np.empty((len(target), k), np.float32)
    rows = np.empty((len(target), k), np.int64)
    for block in blocks:
        part = slice(block.first, block.first + len(block.best))
        distances[part], rows[part] = block.decide(target, source)
    return Neighbors(distances, rows)


@dataclass
class _Candidates:
    """Pairs that may be among the k best: target (within the block), source row, score plus margin."""

    targets: Rows
    rows: Rows
    uppers: npt.NDArray[np.float64]

    def __getitem__(self, index: npt.NDArray[np.generic]) -> _Candidates:
        """The candidates at an index or mask."""
        return _Candidates(self.targets[index], self.rows[index], self.uppers[index])


class _Sides:
    """A block of vectors, prepared for scoring in float32 and, where that is needed, in float64."""

    def __init__(self, vectors: Floats, measure: Metric) -> None:
        self._vectors = vectors
        self._measure = measure
        self.single = measure.prepare(vectors)

    @cached_property
    def wide(self) -> Prepared:
        """Prepared for scoring in float64."""
        return self._measure.prepare(self._vectors, wide=True)


@dataclass
class _TargetBlock:
    """What is known so far of some consecutive targets.

    Attributes
    ----------
    first:
        Row of the first target.
    vectors:
        The targets.
    measure:
        The metric.
    k:
        Neighbours wanted.
    best:
        targets x k: lower bounds (score minus margin) of the k best scores seen so far.
    candidates:
        Parts, one or more a source block.
    """

    first: int
    vectors: Floats
    measure: Metric
    k: int
    best: npt.NDArray[np.float64] = field(init=False)
    candidates: list[_Candidates] = field(init=False, default_factory=list)
    candidate_count: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.best = np.full((len(self.vectors), self.k), -np.inf)
        self.targets = _Sides(self.vectors, self.measure)

    def scan(self, sources: _Sides, first_row: int) -> None:
        """Take the candidates of one block of sources."""
        targets, columns, found, margin = self._hits(self.targets.single, sources.single)
        crowded = max(_CROWDED * len(self.best) * len(sources.single.vectors), 4 * self.best.size)
        if targets.size > crowded:
            targets, columns, found, margin = self._hits(self.targets.wide, sources.wide)
        if not targets.size:
            return
        self.best = _merge_best(self.best, targets, found - margin[targets])
        upper = found + margin[targets]
        keep = upper >= self.best.min(axis=1)[targets]
        self.candidates.append(_Candidates(targets[keep], columns[keep] + first_row, upper[keep]))
        self.candidate_count += int(keep.sum())

    def _hits(self, targets: Prepared, sources: Prepared) -> tuple[Rows, Rows, Float64s, Float64s]:
        """Target, column and score of what may be among the k best, and the margin of each target."""
        scores = self.measure.scores(targets, sources)
        margin = self.measure.margin(targets, sources)
        maxima = _group_maxima(scores)
        floor = self.best.min(axis=1)
        if np.isneginf(floor).any():
            # Too few sources seen: the k-th largest group maximum, too, bounds the k-th best from below.
            floor = _largest(np.hstack([self.best, maxima - margin[:, None]]), self.k).min(axis=1)
        # Rounded towards minus infinity: a threshold must never rise by its own rounding.
        threshold = np.nextafter((floor - margin).astype(scores.dtype), -np.inf, dtype=scores.dtype)
        rows, columns = _members(scores, maxima, threshold)
        return rows, columns, scores[rows, columns].astype(np.float64), margin

    def decide(self, target: Floats, source: Floats) -> tuple[npt.NDArray[np.float64], Rows]:
        """Measure the candidates in float64 and keep the k best of each target.

        Returns
        -------
        tuple
            Distances and rows, targets x k. Complete only when every source was scanned and k is at most
            their number.
        """
        joined = _Candidates(
            np.concatenate([part.targets for part in self.candidates]),
            np.concatenate([part.rows for part in self.candidates]),
            np.concatenate([part.uppers for part in self.candidates]),
        )
        joined = joined[joined.uppers >= self.best.min(axis=1)[joined.targets]]
        distances = _pair_distances(self.measure, target, source, joined.targets + self.first, joined.rows)
        order = np.lexsort((joined.rows, distances, joined.targets))
        order = order[_position_in_run(joined.targets[order]) < self.k]
        self.candidates = [joined[order]]
        self.candidate_count = len(order)
        shape = (len(self.best), -1)
        if len(order) != self.best.size:  # not every target has k candidates yet
            return np.empty((0, self.k)), np.empty((0, self.k), np.int64)
        return distances[order].reshape(shape), joined.rows[order].reshape(shape)


def _checked(vectors: Floats, side: str) -> Floats:
    """One side of a search as a finite float32 or float64 matrix."""
    matrix = np.asarray(vectors)
    if matrix.ndim != 2 or not matrix.shape[1] or not len(matrix):
        raise VectorError(f"{side} has shape {matrix.shape}; rows x dimension is needed, with at least one row")
    if matrix.dtype not in (np.float32, np.float64):
        matrix = matrix.astype(np.float32 if matrix.dtype == np.float16 else np.float64)
    # Two reductions instead of isfinite over a copy: a NaN or infinity shows in the minimum or the maximum.
    low, high = matrix.min(), matrix.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        rows = np.flatnonzero(~np.isfinite(matrix).all(axis=1))
        raise VectorError(f"{side} has NaN or infinity, first in rows {rows[:5].tolist()} (from 0)")
    if max(-float(low), float(high)) > _LARGEST:
        raise VectorError(f"{side} has values beyond {_LARGEST:g}", hint="scale the vectors down")
    return matrix


def _group_maxima(scores: Floats) -> Floats:
    """The maximum of each group of columns."""
    count = scores.shape[1]
    groups = min(_GROUPS, count)
    whole = count // groups * groups
    maxima: Floats = scores[:, :whole].reshape(len(scores), -1, groups).max(axis=1)
    rest = scores[:, whole:]
    np.maximum(maxima[:, : rest.shape[1]], rest, out=maxima[:, : rest.shape[1]])
    return maxima


def _members(scores: Floats, maxima: Floats, threshold: Floats) -> tuple[Rows, Rows]:
    """Targets and columns of the scores that reach their target's threshold, found through the maxima."""
    count, groups = scores.shape[1], maxima.shape[1]
    targets, hit_groups = np.nonzero(maxima >= threshold[:, None])
    columns = hit_groups[:, None] + np.arange(0, count, groups)
    inside = columns < count
    found = scores[targets[:, None], np.where(inside, columns, 0)]
    hit, position = np.nonzero((found >= threshold[targets][:, None]) & inside)
    return targets[hit], columns[hit, position]


def _merge_best(
    best: npt.NDArray[np.float64], targets: Rows, lowers: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """The k largest of each row's values and of the new ones that belong to it."""
    k = best.shape[1]
    order = np.lexsort((-lowers, targets))
    position = _position_in_run(targets[order])
    order, position = order[position < k], position[position < k]
    new = np.full((len(best), int(position.max()) + 1), -np.inf)
    new[targets[order], position] = lowers[order]
    return _largest(np.hstack([best, new]), k)


def _largest(values: npt.NDArray[np.float64], k: int) -> npt.NDArray[np.float64]:
    """The k largest values of each row, in no order."""
    if values.shape[1] <= k:
        return values
    return np.partition(values, values.shape[1] - k, axis=1)[:, -k:]


def _position_in_run(values: Rows) -> Rows:
    """For sorted values: how many equal ones stand before each."""
    index = np.arange(len(values))
    starts = np.r_[True, values[1:] != values[:-1]] if len(values) else np.empty(0, np.bool_)
    return index - np.maximum.accumulate(np.where(starts, index, 0))


def _pair_distances(
    measure: Metric, target: Floats, source: Floats, target_rows: Rows, source_rows: Rows
) -> npt.NDArray[np.float64]:
    """Float64 distances of pairs, gathered a bounded number of values at a time."""
    distances = np.empty(len(target_rows))
    step = max(1, _GATHER // target.shape[1])
    for first in range(0, len(target_rows), step):
        part = slice(first, first + step)
        left = target[target_rows[part]].astype(np.float64)
        right = source[source_rows[part]].astype(np.float64)
        distances[part] = measure.distances(left, right)
    return distances
