"""Pools with a planted class: what is looked for is small beside what varies for other reasons."""

from __future__ import annotations

import numpy as np

from lookalike.neighbors.sides import ArraySide
from lookalike.tables.embedding_stream import Chunk


def planted(targets=24, pool=600, members=40, dimension=24, seed=0):
    """Targets, pool, and which pool images are of the targets' class.

    Four loud directions (lighting, the kind of part) drown two quiet ones in which the class differs.
    """
    random = np.random.default_rng(seed)
    loud = np.r_[np.full(4, 30.0), np.ones(dimension - 4)]
    member = np.zeros(pool, bool)
    member[random.choice(pool, members, replace=False)] = True

    def images(classes):
        vectors = random.standard_normal((len(classes), dimension))
        vectors[:, 10:12] += 4.0 * np.asarray(classes)[:, None]
        return (vectors * loud).astype(np.float32)

    return images(np.ones(targets)), images(member), member


class RaggedSide(ArraySide):
    """A matrix that is given in pieces of uneven sizes, whatever is asked for."""

    def __init__(self, vectors, sizes):
        super().__init__(vectors, "ragged")
        self._sizes = sizes

    def chunks(self, size, *, labels=False):
        first, turn = 0, 0
        while first < self.rows:
            step = min(size, self._sizes[turn % len(self._sizes)])
            yield Chunk(first, self._matrix[first : first + step])
            first, turn = first + step, turn + 1
