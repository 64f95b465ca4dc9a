"""Near-duplicates: groups of images that are linked, each to the next, by a cosine distance within a threshold.

Links are exact, and groups are connected (single linkage): two images are in one group where a chain of links joins
them, whether or not they are near each other themselves. Images of one path are in one group.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from lookalike.neighbors.base import Floats, Rows
from lookalike.neighbors.sides import Side, pick_vectors
from lookalike.neighbors.within import pairs_within
from lookalike.selection.space import Mask

#: Vectors that are compared with all before them at a time.
_AT_A_TIME = 2048


class Twins:
    """Groups the images that it has seen.

    Parameters
    ----------
    pool:
        Where vectors are read.
    threshold:
        The largest cosine distance of a link; at 0, of the same direction. Equal vectors are always linked.
    keys:
        Per row of the pool, a number that is equal for equal paths, or None.
    """

    def __init__(self, pool: Side, threshold: float, keys: Rows | None) -> None:
        self._pool, self._threshold, self._keys = pool, threshold, keys
        self._nodes = np.full(pool.rows, -1, np.int64)  # per row seen, its vector; equal vectors are one
        self._known: dict[bytes, int] = {}
        self._of_key: dict[int, int] = {}
        self._held: Floats = np.empty((0, pool.dimension), pool.dtype)
        self._count = 0
        self._labels = np.empty(0, np.int64)  # per vector, its component

    @property
    def seen(self) -> Mask:
        """Per row of the pool, whether it was looked at."""
        return np.asarray(self._nodes >= 0)

    @property
    def held(self) -> int:
        """How many different vectors are in memory."""
        return self._count

    def see(self, rows: Rows) -> None:
        """Look at more images.

        Parameters
        ----------
        rows:
            Of the pool, not seen before, each once.
        """
        vectors = pick_vectors(self._pool, rows)
        vectors += 0.0  # -0.0 is 0.0
        digests = [blake2b(vector, digest_size=16).digest() for vector in vectors]
        fresh: list[int] = []
        for place, digest in enumerate(digests):
            if digest not in self._known:
                self._known[digest] = self._count + len(fresh)
                fresh.append(place)
        self._nodes[rows] = [self._known[digest] for digest in digests]
        self._link(self._hold(vectors[fresh]))
        if self._keys is not None:
            nodes = self._nodes[rows].tolist()
            firsts = [
                self._of_key.setdefault(key, node) for key, node in zip(self._keys[rows].tolist(), nodes, strict=True)
            ]
            self._join(np.array(firsts, np.int64), np.array(nodes, np.int64))

    def groups(self) -> Rows:
        """Per row of the pool, the number of its group, from 0 by the first row of each; -1 for rows without twins."""
        groups = np.full(len(self._nodes), -1, np.int64)
        seen = np.flatnonzero(self._nodes >= 0)
        _, first, of_row, count = np.unique(
            self._labels[self._nodes[seen]], return_index=True, return_inverse=True, return_counts=True
        )
        number = np.full(len(first), -1, np.int64)
        several = np.flatnonzero(count > 1)
        number[several[np.argsort(first[several])]] = np.arange(len(several))
        groups[seen] = number[of_row]
        return groups

    def _hold(self, vectors: Floats) -> int:
        """Take new vectors, each in a component of its own; return the number of the first."""
        old, self._count = self._count, self._count + len(vectors)
        if self._count > len(self._held):
            larger = np.empty((max(self._count, 2 * len(self._held)), vectors.shape[1]), vectors.dtype)
            larger[:old] = self._held[:old]
            self._held = larger
        self._held[old : self._count] = vectors
        fresh = np.arange(old, self._count) + 1 + self._labels.max(initial=-1) - old
        self._labels = np.concatenate([self._labels, fresh])
        return old

    def _link(self, old: int) -> None:
        """Join what is near: vectors from a number on with all before them, and with each other."""
        for first in range(old, self._count, _AT_A_TIME):
            end = min(first + _AT_A_TIME, self._count)

            def joined(lefts: Rows, rights: Rows, first: int = first) -> Mask:
                return np.asarray(self._labels[first + lefts] == self._labels[rights])

            for lefts, rights in pairs_within(self._held[first:end], self._held[:end], self._threshold, joined):
                self._join(first + lefts, rights)

    def _join(self, lefts: Rows, rights: Rows) -> None:
        """Make one component of those of each pair of vectors."""
        size = int(self._labels.max(initial=-1)) + 1
        links = coo_array((np.ones(len(lefts), np.int8), (self._labels[lefts], self._labels[rights])), (size, size))
        self._labels = connected_components(links, directed=False)[1].astype(np.int64)[self._labels]
