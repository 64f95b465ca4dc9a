"""The two sides of a search, whatever they come as: arrays, tensors, embedding tables, or paths to them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import ConfigError, VectorError
from lookalike.neighbors.base import Floats
from lookalike.tables.embedding_stream import Chunk, EmbeddingStream, plain_label
from lookalike.tables.embedding_table import EmbeddingTable

#: Beyond this, a distance could leave float32.
LARGEST = 1e34
#: Rows read at a time where some are picked.
_PICKED = 16_384


class Side(Protocol):
    """Vectors that can be read chunk by chunk, more than once; `EmbeddingStream` is one."""

    name: str
    rows: int
    dimension: int
    dtype: type[np.float32] | type[np.float64]
    has_labels: bool

    def chunks(self, size: int, *, labels: bool = False) -> Iterator[Chunk]:
        """Read at most `size` rows at a time."""
        ...


class ArraySide:
    """A matrix in memory, with or without labels.

    Parameters
    ----------
    vectors:
        rows x dimension; float16, float32, float64 or whole numbers.
    name:
        For messages.
    labels:
        One a row, or None.

    Raises
    ------
    VectorError
        When it is no matrix, or has more or fewer labels than rows.
    """

    def __init__(self, vectors: Any, name: str, labels: pa.Array | pa.ChunkedArray | None = None) -> None:
        matrix = np.asarray(_on_host(vectors) if hasattr(vectors, "detach") else vectors)
        if matrix.ndim != 2 or not matrix.shape[1]:
            raise VectorError(f"{name} has shape {matrix.shape}; rows x dimension is needed")
        if matrix.dtype.kind not in "fiub":
            raise VectorError(f"{name} holds {matrix.dtype}, not numbers")
        if labels is not None and len(labels) != len(matrix):
            raise VectorError(f"{name} has {len(matrix)} rows and {len(labels)} labels")
        self.name = name
        self.rows, self.dimension = matrix.shape
        self.dtype: type[np.float32] | type[np.float64] = (
            np.float32 if matrix.dtype in (np.float16, np.float32) else np.float64
        )
        self.has_labels = labels is not None
        self._matrix, self._labels = matrix, labels

    def chunks(self, size: int, *, labels: bool = False) -> Iterator[Chunk]:
        """Views of the matrix, copies only where its type or layout has to change."""
        for first in range(0, self.rows, size):
            vectors: Floats = np.ascontiguousarray(self._matrix[first : first + size], self.dtype)
            pieces: tuple[pa.Array, ...] = ()
            if labels and self._labels is not None:
                piece = self._labels.slice(first, len(vectors))
                pieces = tuple(piece.chunks) if isinstance(piece, pa.ChunkedArray) else (piece,)
            yield Chunk(first, vectors, pieces)

    def vectors(self, rows: npt.NDArray[np.int64]) -> Floats:
        """The vectors of some rows."""
        picked: Floats = self._matrix[rows].astype(self.dtype, copy=False)
        return picked


class LabelledSide:
    """The same side with other labels.

    Parameters
    ----------
    side:
        Its vectors are taken.
    labels:
        One number a row.
    """

    def __init__(self, side: Side, labels: npt.NDArray[np.int64]) -> None:
        self._side, self._labels = side, labels
        self.name, self.rows, self.dimension, self.dtype = side.name, side.rows, side.dimension, side.dtype
        self.has_labels = True

    def chunks(self, size: int, *, labels: bool = False) -> Iterator[Chunk]:
        """Read at most `size` rows at a time."""
        for chunk in self._side.chunks(size):
            own = self._labels[chunk.first : chunk.first + len(chunk.vectors)]
            yield replace(chunk, labels=(pa.array(own),) if labels else ())


def pick_vectors(side: Side, rows: npt.NDArray[np.int64]) -> Floats:
    """The vectors of some rows of a side, which fit in memory.

    Parameters
    ----------
    side:
        One that can pick them itself, as `EmbeddingStream` and `ArraySide` can, is not read through.
    rows:
        Distinct, in any order; the vectors come in that order.
    """
    order = np.argsort(rows)
    ascending = rows[order]
    found: Floats = np.empty((len(rows), side.dimension), side.dtype)
    if not len(rows):
        return found
    picker = getattr(side, "vectors", None)
    if callable(picker):
        found[order] = picker(ascending)
        return found
    for chunk in side.chunks(_PICKED):
        begin, end = np.searchsorted(ascending, (chunk.first, chunk.first + len(chunk.vectors)))
        found[order[begin:end]] = chunk.vectors[ascending[begin:end] - chunk.first]
    return found


def open_side(given: Any, name: str, column: str, labels: Any = None) -> Side:
    """What was given as one side of a search.

    Parameters
    ----------
    given:
        A matrix, a tensor, an `EmbeddingTable`, an `EmbeddingStream`, or the path of an embedding table.
    name:
        ``target`` or ``source``.
    column:
        The embedding column, where a path is given.
    labels:
        One a row, for a matrix or a tensor; a table has its own.

    Raises
    ------
    ConfigError
        When labels are given beside a table.
    VectorError, TableError
        When it cannot be a side.
    """
    is_table = isinstance(given, (str, Path, EmbeddingTable, EmbeddingStream))
    if is_table and labels is not None:
        raise ConfigError(f"{name}_labels are for arrays; a table has its own", hint="leave them out")
    if isinstance(given, (str, Path)):
        return EmbeddingStream(str(given), column)
    if isinstance(given, EmbeddingStream):
        return given
    if isinstance(given, EmbeddingTable):
        return ArraySide(given.vectors, given.name, given.labels)
    texts = None if labels is None else pa.array([plain_label(label) for label in labels], pa.string())
    return ArraySide(given, name, texts)


def _on_host(tensor: Any) -> Any:
    """A tensor that NumPy can take: it knows no bfloat16."""
    tensor = tensor.detach().cpu()
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor


def check_values(vectors: Floats, name: str, first: int) -> None:
    """Refuse vectors that are not finite, or whose distances could leave float32.

    Parameters
    ----------
    vectors:
        A chunk.
    name, first:
        Where it is from, for messages.
    """
    if not vectors.size:
        return
    # Two reductions instead of isfinite over a copy: a NaN or infinity shows in the minimum or the maximum.
    low, high = vectors.min(), vectors.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        rows = first + np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        raise VectorError(f"{name} has NaN or infinity, first in rows {rows[:5].tolist()} (from 0)")
    if max(-float(low), float(high)) > LARGEST:
        raise VectorError(f"{name} has values beyond {LARGEST:g}", hint="scale the vectors down")
