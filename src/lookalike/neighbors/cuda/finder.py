"""Exact nearest neighbours on a GPU: a bfloat16 pass over everything, float64 for the few that matter.

For a block of sources and a block of targets:

1. Score all pairs in bfloat16 (Manhattan: float32) and keep the largest score of each group of 16 sources.
2. The k-th nearest source so far, or the k-th largest group of the block, is a floor: a group whose maximum stays below
   it by more than the error bound holds no neighbour. The others' members are scored one by one.
3. A target with too many such groups or members is scored against the whole block in float32, and if that still leaves
   too many sources, in float64: the precision that can tell its sources apart.
4. What is left, a few more than k a target, is measured in float64 and merged into the k best by (distance, row).

Nothing is dropped but by a proven bound (`scores`), so the result is that of float64 brute force. On a CPU device
the same steps run in plain torch.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch

from lookalike.neighbors.base import Floats, Found, Rows
from lookalike.neighbors.cuda.exact import merge, pair_distances
from lookalike.neighbors.cuda.frame import Frame, choose_frame
from lookalike.neighbors.cuda.products import GROUP, passing
from lookalike.neighbors.cuda.scores import Bound, Scoring
from lookalike.neighbors.cuda.sides import Side, make_sources, make_targets

#: Sources of the first block, and of every other: the first has no floor but its own, so that more of it passes.
_FIRST = 131_072
_SOURCES = 524_288
#: More for a large k: with many groups to one neighbour, few groups hold one.
_SOURCES_PER_NEIGHBOR = 64
#: Values of a block of sources at most, and bytes of the device's memory for one: it is held in its own type, in
#: bfloat16 (Manhattan: three times in float32) and, where asked for, in float32.
_SOURCE_VALUES = 1 << 28
_SOURCE_SHARE = 32
#: Targets of a block, and group maxima: values, and how many of them a device has memory for (a 64th of it).
_TARGETS = 16_384
_MAXIMA = 1 << 26
_MAXIMA_SHARE = 64
#: Settling a target takes what so many maxima a neighbour take.
_SETTLED = 8
#: A target is crowded if more groups pass than this share of all, or than this. Reading one group's members for one
#: target costs what a matrix product needs for hundreds of them.
_GROUP_SHARE = 32
_LEAST_GROUPS = 16
#: The same for sources that are left to measure: more than this share, than this, and than twice k.
_PAIR_SHARE = 256
_LEAST_PAIRS = 64
#: Scores of a whole block at a time, in float32 (256 MB) and in float64 (128 MB).
_FINE = 1 << 26
_WIDE = 1 << 24

#: One search at a time on a device: those of several labels would need memory for a block each.
_turns: defaultdict[torch.device, threading.Lock] = defaultdict(threading.Lock)


class CudaFinder:
    """Finds the k nearest sources of some targets on one device; a `Finder`.

    Parameters
    ----------
    targets:
        targets x dimension, float32 or float64, finite; an array, or a tensor on any device.
    metric:
        ``cosine`` (1 - cos), ``euclidean``, ``manhattan`` or ``inner_product`` (minus the dot product).
    k:
        Neighbours a target.
    device:
        Where to search; Triton kernels need a CUDA device of compute capability 8 or more.
    """

    def __init__(self, targets: Floats | torch.Tensor, metric: str, k: int, device: torch.device) -> None:
        self._device = device
        self._metric = metric
        self._k = k
        self._raw_targets = _on_device(targets, device)
        count = len(targets)
        self._distances = torch.full((count, k), torch.inf, dtype=torch.float64, device=device)
        self._rows = torch.full((count, k), -1, dtype=torch.int64, device=device)
        self._widened = torch.zeros(count, dtype=torch.bool, device=device)
        self._maxima, self._source_values = _MAXIMA, _SOURCE_VALUES
        if device.type == "cuda":
            memory = torch.cuda.get_device_properties(device).total_memory
            self._maxima = memory // (4 * _MAXIMA_SHARE)
            self._source_values = min(_SOURCE_VALUES, memory // _SOURCE_SHARE)
        self._frame: Frame | None = None
        self._targets: Side | None = None

    def see(self, vectors: Floats | torch.Tensor, rows: Rows) -> None:
        """Take the next sources.

        Parameters
        ----------
        vectors:
            sources x dimension, float32 or float64, finite; an array, or a tensor on any device.
        rows:
            Their rows in the whole pool, ascending within a call and from call to call.
        """
        dimension = self._raw_targets.shape[1]
        most = max(GROUP, self._source_values // dimension)
        first = 0
        with _turns[self._device], on(self._device):
            while first < len(vectors):
                size = min(max(_SOURCES if self._frame else _FIRST, _SOURCES_PER_NEIGHBOR * self._k), most)
                part = slice(first, first + size)
                self._see_block(_on_device(vectors[part], self._device), _on_device(rows[part], self._device))
                first += size

    def finish(self) -> Found:
        """Return what was found."""
        return Found(self._distances.cpu().numpy(), self._rows.cpu().numpy(), self._widened.cpu().numpy())

    @property
    def found(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Distances and rows so far, on the device."""
        return self._distances, self._rows

    def _see_block(self, vectors: torch.Tensor, rows: torch.Tensor) -> None:
        """Take one block of sources."""
        if self._frame is None or self._targets is None:
            self._frame = choose_frame(self._metric, self._raw_targets, vectors)
            self._targets = make_targets(self._frame, self._raw_targets)
        sources = make_sources(self._frame, vectors)
        groups = -(-len(vectors) // GROUP)
        for part in _parts(
            len(self._raw_targets), min(_TARGETS, max(1, self._maxima // max(groups, _SETTLED * self._k)))
        ):
            index = torch.arange(part.start, part.stop, device=self._device)
            self._scan(index, Scoring(self._frame, self._targets.at(part), sources), rows)

    def _scan(self, index: torch.Tensor, scoring: Scoring, rows: torch.Tensor) -> None:
        """Take one block of sources for one block of targets, whose numbers are `index`."""
        # The bound first: the host is ready with it long before the product is.
        floor = scoring.floor(self._distances[index, -1])
        bound = scoring.bound("coarse")
        threshold = bound.threshold(floor, torch.float32)
        maxima = scoring.maxima()
        most = max(_LEAST_GROUPS, scoring.groups // _GROUP_SHARE)
        counts, groups = passing(maxima, threshold, most)
        width = int(counts.max())
        crowded = torch.zeros_like(index, dtype=torch.bool)
        maybe_crowded = width > most
        if maybe_crowded:  # the first sources, or nearer ones than all before: the block has its own floor
            floor = self._raised(floor, maxima, bound)
            counts, groups = passing(maxima, bound.threshold(floor, torch.float32), most)
            crowded = counts > most
            # With a large k, many groups pass that do hold neighbours: no fault of the precision.
            self._widened[index] |= crowded & (counts > 2 * self._k)
            counts = counts.masked_fill(crowded, 0)
            width = int(counts.max())
        if width:
            members = scoring.members(groups[:, :width], counts).flatten(1)
            narrow = self._settle(index, scoring, rows, members, bound, floor, groups)
            if narrow is not None:
                self._widened[index] |= narrow
                maybe_crowded, crowded = True, crowded | narrow
        if maybe_crowded:
            wide = self._settle_all(crowded.nonzero()[:, 0], index, scoring, rows, floor, last=False)
            self._widened[index] |= wide
            self._settle_all(wide.nonzero()[:, 0], index, scoring, rows, floor, last=True)

    def _settle_all(
        self,
        crowded: torch.Tensor,
        index: torch.Tensor,
        scoring: Scoring,
        rows: torch.Tensor,
        floor: torch.Tensor,
        *,
        last: bool,
    ) -> torch.Tensor:
        """Take all sources of the block for crowded targets; returns which targets have too many to measure."""
        remaining = torch.zeros_like(index, dtype=torch.bool)
        for some in torch.split(
            crowded, max(1, (_WIDE if last else _FINE) // max(len(rows), self._raw_targets.shape[1]))
        ):
            if not len(some):
                continue
            own = scoring.at(some)
            scores, bound = (own.wide(), own.bound("wide")) if last else (own.fine(), own.bound("fine"))
            left = self._settle(index[some], own, rows, scores, bound, floor[some], last=last)
            if left is not None:
                remaining[some] = left
        return remaining

    def _settle(
        self,
        index: torch.Tensor,
        scoring: Scoring,
        rows: torch.Tensor,
        scores: torch.Tensor,
        bound: Bound,
        floor: torch.Tensor,
        groups: torch.Tensor | None = None,
        *,
        last: bool = False,
    ) -> torch.Tensor | None:
        """Measure and merge the sources whose score may reach the floor.

        Parameters
        ----------
        index:
            Numbers of the targets.
        scoring:
            Theirs.
        rows:
            Of the sources.
        scores, bound, floor:
            targets x sources; theirs.
        groups:
            The groups that the scores are of, targets x groups (or more); None where they are of all sources in order.
        last:
            Measure them however many they are.

        Returns
        -------
        torch.Tensor | None
            Which targets have too many to measure; nothing was merged for them. None where there is no such target.
        """
        floor = self._raised(floor, scores, bound)
        limit = len(rows) if last else max(2 * self._k, _LEAST_PAIRS, len(rows) // _PAIR_SHARE)
        counts, columns = passing(scores, bound.threshold(floor, scores.dtype), min(limit, scores.shape[1]))
        crowded = counts > limit
        counts = counts.masked_fill(crowded, 0)
        # The host waits for the device here, once.
        width, any_crowded = torch.stack((counts.amax(), crowded.any())).tolist()
        if width:
            none = torch.arange(width, device=self._device) >= counts[:, None]
            columns = columns[:, :width].long().masked_fill_(none, 0)
            if groups is not None:
                columns = groups.gather(1, columns // GROUP).long() * GROUP + columns % GROUP
                columns.masked_fill_(none, 0)  # again: a target without a group that passed has no first group
            new_rows = rows[columns].masked_fill_(none, -1)
            pairs = columns.masked_fill_(none, -1)
            distances = pair_distances(self._metric, self._raw_targets, scoring.sources.raw, index, pairs)
            merge(self._distances, self._rows, index, distances, new_rows)
        return crowded if any_crowded else None

    def _raised(self, floor: torch.Tensor, scores: torch.Tensor, bound: Bound) -> torch.Tensor:
        """The floor, raised to what the k-th largest of these scores is certain to reach."""
        if scores.shape[1] < self._k:
            return floor
        return torch.maximum(floor, bound.lower(torch.topk(scores, self._k, dim=1, sorted=True).values[:, -1]))


def on(device: torch.device) -> AbstractContextManager[object]:
    """Make a device the current one of this thread: Triton launches its kernels there."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _parts(count: int, size: int) -> Iterator[slice]:
    """Slices of at most `size`."""
    return (slice(first, min(first + size, count)) for first in range(0, count, size))


def _on_device(values: Floats | Rows | torch.Tensor, device: torch.device) -> torch.Tensor:
    """An array as a contiguous tensor on the device."""
    if isinstance(values, np.ndarray):
        # torch does not take memory that may not be written without a warning.
        values = torch.from_numpy(np.require(values, requirements=["C", "W"]))
    return values.detach().to(device).contiguous()
