"""The search on a processor: blocks of scores, a scan, and float64 for the few that matter.

For every block of sources: score it against the targets in float32, and collect what may be among the k best. A source
is dropped only when its score plus the error bound is below the k-th best score minus the error bound, so no true
neighbour is ever lost. Where float32 cannot tell the sources of a block apart (a pool of images that are all alike),
the block is scored in float64. What was collected, a few more than k a target, is measured in float64 and sorted by
(distance, source row). The result is that of float64 brute force.
"""

from __future__ import annotations

import threading
from contextlib import nullcontext

import numpy as np

from lookalike.neighbors.base import Float64s, Floats, Found, Rows
from lookalike.neighbors.kernels import scan
from lookalike.neighbors.metrics import METRICS, Prepared, pair_distances
from lookalike.neighbors.threads import LEAST, cores, in_parts, one_blas_thread

#: Sources and, on a core, targets scored at a time: their scores (16 MB in float32) stay near the processor. Of sources
#: with many dimensions fewer, so that a block has at most so many values.
_SOURCE_BLOCK = 8192
_SOURCE_VALUES = 1 << 23
_TARGET_BLOCK = 512
#: Sources that are held for a target beside twice its k, before they are measured.
_SPARE = 512
#: Targets whose neighbours are sorted at a time, and the row of a neighbour that is not there.
_KEPT_BLOCK = 256
_NOWHERE = np.iinfo(np.int64).max


class CpuFinder:
    """Finds the k nearest sources of some targets while the sources pass by; a `Finder`.

    Parameters
    ----------
    targets:
        targets x dimension, float32 or float64, finite.
    metric:
        A key of `METRICS`.
    k:
        Neighbours a target.
    """

    def __init__(self, targets: Floats, metric: str, k: int) -> None:
        count, room = len(targets), 2 * k + _SPARE
        self._metric = METRICS[metric]
        self._targets = targets
        self._prepared = self._metric.prepare_targets(targets)
        self._heap = np.full((count, k), -np.inf)
        self._picked = np.empty((count, room), np.int64)
        self._uppers = np.empty((count, room))
        self._counts = np.zeros(count, np.int64)
        self._distances = np.full((count, k), np.inf)
        self._rows = np.full((count, k), -1, np.int64)
        self._widened = np.zeros(count, np.bool_)
        self._spread = True
        self._own = threading.local()

    @staticmethod
    def bytes_of_target(dimension: int, k: int) -> int:
        """Memory that one target needs, its vector not counted."""
        return 4 * dimension + 48 * (2 * k + _SPARE) + 72 * k  # while it is measured

    def see(self, vectors: Floats, rows: Rows) -> None:
        """See `Finder.see`."""
        self._metric.consider(self._prepared.vectors, vectors)
        size = min(_SOURCE_BLOCK, max(256, _SOURCE_VALUES // vectors.shape[1]))
        # Each core multiplies and scans for targets of its own, unless they are too few to go round.
        self._spread = not self._metric.by_blas or len(self._targets) >= LEAST * cores()
        with one_blas_thread() if self._spread else nullcontext():
            for first in range(0, len(vectors), size):
                sources = vectors[first : first + size]
                crowded = self._scan(self._metric.prepare(sources), first)
                if crowded.size:
                    self._widened[crowded] = True
                    wide = self._metric.prepare(sources, wide=True)
                    for part in range(0, len(crowded), _TARGET_BLOCK):
                        self._scan_wide(crowded[part : part + _TARGET_BLOCK], wide, first, (vectors, rows))
        self._settle(slice(0, len(self._targets)), vectors, rows)

    def finish(self) -> Found:
        """See `Finder.finish`."""
        return Found(self._distances, self._rows, self._widened)

    def _scan(self, sources: Prepared, first: int) -> Rows:
        """Collect from one block of sources; return the targets for which float32 leaves too many."""
        starts = np.zeros(len(self._targets), np.int64)
        margins = self._metric.margin(self._prepared, sources)

        def collect(part: slice, scores: Floats) -> None:
            self._collect(part, scores, sources, margins[part], first, starts[part], True)

        if self._spread:
            least = LEAST if self._metric.by_blas else 1
            in_parts(lambda part: collect(part, self._scores(part, sources)), len(starts), _TARGET_BLOCK, least)
        else:
            scores = self._scores(slice(0, len(starts)), sources)
            in_parts(lambda part: collect(part, scores[part]), len(starts))
        return np.flatnonzero(starts < len(sources.vectors))

    def _scores(self, part: slice, sources: Prepared) -> Floats:
        """Scores of some targets, before scale and offset."""
        targets = self._prepared.vectors[part]
        shape, kind = (len(targets), len(sources.vectors)), np.result_type(targets, sources.vectors)
        # Memory of the thread's own that is used again: the system takes a while to give new memory.
        scratch = getattr(self._own, "scratch", None)
        if scratch is None or scratch.size < shape[0] * shape[1] or scratch.dtype != kind:
            scratch = self._own.scratch = np.empty(shape[0] * shape[1], kind)
        scores: Floats = scratch[: shape[0] * shape[1]].reshape(shape)
        self._metric.product(targets, sources.vectors, scores)
        return scores

    def _scan_wide(self, targets: Rows, sources: Prepared, first: int, chunk: tuple[Floats, Rows]) -> None:
        """The same with scores in float64; what even they cannot tell apart is measured as soon as room ends."""
        prepared = self._metric.prepare_targets(self._targets[targets], wide=True)
        scores = np.empty((len(targets), len(sources.vectors)))

        def work(part: slice) -> None:
            self._metric.product(prepared.vectors[part], sources.vectors, scores[part])

        in_parts(work, len(targets))
        margins = self._metric.margin(prepared, sources)
        for number, target in enumerate(targets):
            part, row = slice(target, target + 1), slice(number, number + 1)
            starts = np.zeros(1, np.int64)
            while True:
                self._collect(part, scores[row], sources, margins[row], first, starts, False)
                if starts[0] == scores.shape[1]:
                    break
                self._settle(part, *chunk)

    def _collect(
        self, part: slice, scores: Floats, sources: Prepared, margins: Float64s, first: int, starts: Rows, restore: bool
    ) -> None:
        """Run the scan for some targets; see `kernels.scan`."""
        columns, kind = scores.shape[1], scores.dtype
        scale = np.ones(columns, kind) if sources.scale is None else sources.scale.astype(kind, copy=False)
        offset = np.zeros(columns, kind) if sources.offset is None else sources.offset.astype(kind, copy=False)
        state = [array[part] for array in (self._heap, self._picked, self._uppers, self._counts)]
        scan(scores, scale, offset, margins, first, starts, restore, *state)

    def _settle(self, part: slice, vectors: Floats, rows: Rows) -> None:
        """Measure what some targets hold of a chunk, and keep the k best of it and of what was measured before."""
        held = np.arange(self._picked.shape[1]) < self._counts[part, None]
        held &= self._uppers[part] >= self._heap[part, :1]
        self._counts[part] = 0
        targets, places = np.nonzero(held)
        if not targets.size:
            return
        picked = self._picked[part][targets, places]
        distances = pair_distances(self._metric, self._targets, vectors, targets + part.start, picked)
        found = rows[picked]
        ends = np.searchsorted(targets, np.arange(len(held) + 1))

        def keep(some: slice) -> None:
            own = slice(ends[some.start], ends[some.stop])
            whole = slice(part.start + some.start, part.start + some.stop)
            self._keep(whole, targets[own] - some.start, distances[own], found[own])

        in_parts(keep, len(held), _KEPT_BLOCK)

    def _keep(self, part: slice, targets: Rows, distances: Float64s, found: Rows) -> None:
        """Keep the k best of what some targets have and of what was found, whose targets ascend from 0."""
        k, known = self._heap.shape[1], int((self._rows[part] >= 0).sum(axis=1).max())
        places = known + _position_in_run(targets)
        shape = (part.stop - part.start, max(k, int(places.max(initial=0)) + 1))
        # What is not there comes last.
        lengths, rows = np.full(shape, np.inf), np.full(shape, _NOWHERE)
        lengths[:, :known] = self._distances[part, :known]
        rows[:, :known] = np.where(self._rows[part, :known] < 0, _NOWHERE, self._rows[part, :known])
        lengths[targets, places], rows[targets, places] = distances, found
        order = np.lexsort((rows, lengths), axis=1)[:, :k]
        kept = np.take_along_axis(rows, order, axis=1)
        self._distances[part] = np.take_along_axis(lengths, order, axis=1)
        self._rows[part] = np.where(kept == _NOWHERE, -1, kept)


def _position_in_run(values: Rows) -> Rows:
    """For sorted values: how many equal ones stand before each."""
    index = np.arange(len(values))
    starts = np.r_[True, values[1:] != values[:-1]][: len(values)]
    return index - np.maximum.accumulate(np.where(starts, index, 0))
