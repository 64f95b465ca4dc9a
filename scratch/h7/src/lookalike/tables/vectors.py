"""Between a parquet column of lists and a matrix."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import VectorError

Matrix = npt.NDArray[np.floating]


def list_array(vectors: Matrix) -> pa.ListArray:
    """A matrix (rows x dimension) as an Arrow list column, without a copy of the values."""
    rows, dimension = vectors.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(dimension)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(vectors).reshape(-1)))


def lost_in(vectors: npt.NDArray[np.float32], storage: str) -> npt.NDArray[np.bool_]:
    """Which vectors a smaller type cannot hold: a value would become infinity, or all values would become 0."""
    if np.dtype(storage) == vectors.dtype:
        return np.zeros(len(vectors), np.bool_)
    with np.errstate(over="ignore"):
        stored = vectors.astype(storage)
    lost: npt.NDArray[np.bool_] = ~np.isfinite(stored).all(axis=1) | (vectors.any(axis=1) & ~stored.any(axis=1))
    return lost


def is_vector_type(kind: pa.DataType) -> bool:
    """Whether a column type is a list of numbers."""
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))


class MatrixBuilder:
    """Fill one matrix from the chunks of an embedding column, checking every vector on the way.

    The matrix is allocated once, so that peak memory is the matrix and one chunk.

    Parameters
    ----------
    rows:
        Number of rows to come.
    dtype:
        Of the matrix: float32 or float64.
    where:
        File and column, for messages.
    first:
        Row of the first vector in the whole table, for messages.
    dimension:
        Of the vectors; that of the first one if not given.
    """

    def __init__(
        self,
        rows: int,
        dtype: type[np.float32] | type[np.float64],
        where: str,
        first: int = 0,
        dimension: int | None = None,
    ) -> None:
        self.rows = rows
        self.dtype = dtype
        self.where = where
        self.first = first
        self.filled = 0
        self.matrix: Matrix | None = None if dimension is None else np.empty((rows, dimension), dtype)

    def add(self, chunk: pa.Array) -> None:
        """Append one Arrow list array.

        Raises
        ------
        VectorError
            When a vector is null, empty, of another length than those before it, or not finite. The message
            names the first such rows, counted from 0 over the whole table.
        """
        if isinstance(chunk, pa.FixedSizeListArray):
            lengths = np.full(len(chunk), chunk.type.list_size)
        else:
            lengths = np.diff(chunk.offsets.to_numpy())
        # Arrow may give a null row of a fixed-size list any values: the null mask decides.
        self._refuse(~chunk.is_valid().to_numpy(zero_copy_only=False), "null vectors", "re-embed those rows")
        self._refuse(lengths == 0, "empty vectors", "re-embed those rows")
        if not len(chunk):
            return
        dimension = self.matrix.shape[1] if self.matrix is not None else int(lengths[0])
        self._refuse(
            lengths != dimension,
            f"vectors that are not {dimension}-dimensional as the first row is",
            "embed all rows with one encoder",
        )
        values = chunk.flatten()
        if values.null_count:
            missing = ~values.is_valid().to_numpy(zero_copy_only=False).reshape(-1, dimension).all(axis=1)
            self._refuse(missing, "vectors with null values", "re-embed those rows")
        block = values.to_numpy(zero_copy_only=False).reshape(-1, dimension)
        # Two reductions, where isfinite takes a copy: a NaN or infinity shows in the minimum or the maximum.
        if not (np.isfinite(block.min()) and np.isfinite(block.max())):
            self._refuse(~np.isfinite(block).all(axis=1), "vectors with NaN or infinity", "re-embed those rows")
        if self.matrix is None:
            self.matrix = np.empty((self.rows, dimension), self.dtype)
        self.matrix[self.filled : self.filled + len(block)] = block
        self.filled += len(block)

    def _refuse(self, bad: npt.NDArray[np.bool_], what: str, hint: str) -> None:
        rows = np.flatnonzero(bad)
        if rows.size:
            first = (rows[:5] + self.first + self.filled).tolist()
            raise VectorError(
                f"{what}, {rows.size} in this part of the table; first rows (from 0): {first}",
                where=self.where,
                hint=hint,
            )
