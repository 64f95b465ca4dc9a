"""Which pool images are near to some others: what may be a copy, and what is barred by distance alone."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from lookalike.neighbors.base import Rows
from lookalike.neighbors.search import nearest_neighbors
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.workflow.barring.bars import Mask, Singles
from lookalike.workflow.barring.reference import Reference

#: Images share neighbours: so many times more are asked for than may be read.
_SHARED = 4
#: The vectors of pool images that are measured at a time have this share of the memory limit.
_SHARE = 4
#: The pool's own distances: rows that are drawn, and the share of them that may have a neighbour as near as a copy.
_DRAWN, _SHARE_OF_COPIES = 1000, 0.01
#: Cosine distances of equal vectors differ from 0 by rounding.
SAME_VECTOR = 1e-6


class Nearest(NamedTuple):
    """Of some pool rows, the nearest image of a reference: cosine distance, and its row in `Reference.paths`."""

    distances: Singles
    rows: Rows


class Measure:
    """Distances between a pool and some images.

    Parameters
    ----------
    pool:
        The pool; its vectors are read part by part.
    device, memory_limit:
        Of the search.
    """

    def __init__(self, pool: EmbeddingStream, device: str, memory_limit: int) -> None:
        self._pool, self._device, self._memory = pool, device, memory_limit
        self._own: float | None = None

    def neighbours(self, reference: Reference, barred: Mask, most: int, each: int) -> Rows:
        """Pool rows that are among the nearest of any image of a reference: the nearest of each first, then the second.

        Parameters
        ----------
        reference:
            Images with vectors.
        barred:
            Rows of the pool that are left out.
        most, each:
            How many rows are given at most, and how many neighbours an image has at most.
        """
        left = int((~barred).sum())
        if not left or not most or not len(reference.vectors):
            return np.empty(0, np.int64)
        k = min(max(1, _SHARED * most // len(reference.vectors)), each, left)
        found = nearest_neighbors(
            reference.vectors, self._pool, k, "cosine", excluded=barred, device=self._device, memory_limit=self._memory
        )
        rank = np.broadcast_to(np.arange(found.rows.shape[1]), found.rows.shape).ravel()
        rows, distances = found.rows.ravel(), found.distances.ravel()
        order = np.lexsort((rows, distances, rank))
        order = order[rows[order] >= 0]
        _, first = np.unique(rows[order], return_index=True)
        chosen: Rows = rows[order[np.sort(first)]]
        return chosen[:most]

    def nearest(self, rows: Rows, reference: Reference) -> Nearest:
        """Of some pool rows, ascending, the nearest image of a reference; the pool passes by once."""
        size = max(1, self._memory // _SHARE // (self._pool.dimension * np.dtype(self._pool.dtype).itemsize))
        distances, images = np.empty(len(rows), np.float32), np.empty(len(rows), np.int64)
        for chunk in self._pool.chunks(size) if len(rows) else ():
            begin, end = np.searchsorted(rows, (chunk.first, chunk.first + len(chunk.vectors)))
            if begin == end:
                continue
            found = nearest_neighbors(
                chunk.vectors[rows[begin:end] - chunk.first], reference.vectors, 1, "cosine", device=self._device,
                memory_limit=self._memory,
            )  # fmt: skip
            distances[begin:end], images[begin:end] = found.distances[:, 0], reference.rows[found.rows[:, 0]]
        return Nearest(distances, images)

    def distances(self, rows: Rows, reference: Reference, images: Rows) -> Singles:
        """Of some pool rows, the cosine distance to one image each; NaN where that has no vector."""
        apart = np.full(len(rows), np.nan, np.float32)
        first: Rows = np.full(len(reference.paths), -1, np.int64)
        first[reference.rows[::-1]] = np.arange(len(reference.rows))[::-1]
        known = np.flatnonzero(first[images] >= 0)
        known = known[np.argsort(rows[known])]
        size = max(1, self._memory // _SHARE // (self._pool.dimension * 8))
        for begin in range(0, len(known), size):
            part = known[begin : begin + size]
            one = self._pool.vectors(rows[part]).astype(np.float64)
            other = reference.vectors[first[images[part]]].astype(np.float64)
            lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
            cosines = np.einsum("ij,ij->i", one, other) / np.where(lengths == 0, 1, lengths)
            apart[part] = np.maximum(1 - cosines, 0)
        return apart

    def own_spacing(self) -> float:
        """How near different pool images are: 1 % of them have a neighbour at this cosine distance or less.

        Equal vectors are left out. 0 but for rounding, where there are too few to tell.
        """
        if self._own is None:
            random = np.random.default_rng(0)
            rows = np.sort(random.choice(self._pool.rows, min(_DRAWN, self._pool.rows), replace=False))
            found = nearest_neighbors(
                self._pool.vectors(rows), self._pool, 2, "cosine", device=self._device, memory_limit=self._memory
            )
            others = np.where(found.rows == rows[:, None], np.inf, found.distances).min(axis=1)
            others = others[(others > SAME_VECTOR) & np.isfinite(others)]
            enough = len(others) * _SHARE_OF_COPIES >= 1
            self._own = float(np.quantile(others, _SHARE_OF_COPIES, method="lower")) if enough else SAME_VECTOR
        return self._own
