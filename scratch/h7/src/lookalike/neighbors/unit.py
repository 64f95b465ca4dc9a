"""Vectors of length 1: a side of a search whose vectors are normalised while they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from lookalike.neighbors.base import Floats
from lookalike.neighbors.sides import Side, check_values
from lookalike.tables.embedding_stream import Chunk


def unit(vectors: Floats, name: str, first: int = 0) -> Floats:
    """Vectors scaled to length 1; zero vectors stay.

    Parameters
    ----------
    vectors:
        rows x dimension; changed in place where they own their memory, as a chunk that was just read does.
    name, first:
        Where they are from, for messages.
    """
    check_values(vectors, name, first)
    lengths = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    lengths[lengths == 0] = 1
    scaled: Floats = np.divide(
        vectors,
        lengths[:, None],
        out=vectors if vectors.flags.owndata else None,
        dtype=vectors.dtype,
        casting="same_kind",
    )
    return scaled


class UnitSide:
    """The same side with vectors of length 1.

    Parameters
    ----------
    side:
        As it is stored.
    """

    def __init__(self, side: Side) -> None:
        self._side = side
        self.name, self.rows, self.dimension, self.dtype = side.name, side.rows, side.dimension, side.dtype
        self.has_labels = side.has_labels

    def chunks(self, size: int, *, labels: bool = False) -> Iterator[Chunk]:
        """Read at most `size` rows at a time."""
        for chunk in self._side.chunks(size, labels=labels):
            yield replace(chunk, vectors=unit(chunk.vectors, self.name, chunk.first))
