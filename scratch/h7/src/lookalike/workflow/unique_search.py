"""The searches of unique neighbour matching: targets and pool of length 1, and what the searches say for themselves."""

from __future__ import annotations

import numpy as np

from lookalike.config.schemas import LEAST_MEMORY
from lookalike.neighbors.certificate import Certificate
from lookalike.neighbors.search import Search, search
from lookalike.neighbors.sides import ArraySide, Side
from lookalike.neighbors.unit import UnitSide, unit
from lookalike.selection.unique import Distances, Mask, Rows
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.embedding_table import EmbeddingTable

#: A pool of at most this share of the memory limit is read once and held, because there are several searches.
_HELD_SHARE = 3


class UnitSearch:
    """Searches some targets for their nearest free sources, all of them scaled to length 1.

    Parameters
    ----------
    target, source:
        The two sides.
    metric, device, memory_limit:
        Of the searches.

    Attributes
    ----------
    certificate:
        Of all searches so far.
    zeros:
        Zero vectors among the targets and the sources: they have no length to scale.
    """

    def __init__(
        self, target: EmbeddingTable, source: EmbeddingStream, metric: str, device: str, memory_limit: int
    ) -> None:
        self._name, self._metric, self._device, self._memory = target.name, metric, device, memory_limit
        self._targets = unit(target.vectors[:], target.name)  # of a view, so that the table stays as it is
        self._source: Side = UnitSide(source)
        size = source.rows * source.dimension * np.dtype(source.dtype).itemsize
        if size <= memory_limit // _HELD_SHARE:
            (chunk,) = self._source.chunks(source.rows)
            self._source = ArraySide(chunk.vectors, source.name)
            self._memory = max(LEAST_MEMORY, memory_limit - size)
        self.certificate = Certificate(0, 0, "", 0)
        self.zeros = (int((~self._targets.any(axis=1)).sum()), 0)

    def __call__(self, targets: Rows, k: int, free: Mask) -> tuple[Distances, Rows]:
        """Find the k nearest free sources of some targets: an `Ask` of the matching."""
        wanted = Search(k, self._metric, excluded=~free, device=self._device, memory_limit=self._memory, certified=True)
        found = search(ArraySide(self._targets[targets], self._name), self._source, wanted)
        one, two = self.certificate, found.certificate
        self.certificate = Certificate(
            one.targets + two.targets, one.widened + two.widened, two.first_pass, one.checked + two.checked
        )
        self.zeros = (self.zeros[0], found.zeros[1])
        return found.neighbors.distances, found.neighbors.rows
