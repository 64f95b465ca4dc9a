"""Some rows of an embedding table that may be larger than memory: a sample, or rows by their numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import TableError, VectorError
from lookalike.tables.embedding_table import Parts
from lookalike.tables.vectors import Matrix, MatrixBuilder, is_vector_type

Rows = npt.NDArray[np.int64]

#: Row groups that a sample comes from at most: the others of a large pool are not read.
_MOST_GROUPS = 256
_READ_ROWS = 4096
_PAGES = 1 << 20


@dataclass(frozen=True)
class _Group:
    """A row group: its number in the file, its first row in the table, its rows."""

    number: int
    first: int
    rows: int


class VectorRows:
    """The vectors and paths of one embedding table of a run folder, read by row.

    Parameters
    ----------
    path:
        The parquet file.
    column:
        The embedding column; where the table has none of that name, `embedding`.

    Attributes
    ----------
    rows:
        Of the whole table.
    identity_json:
        The encoder identity, or None for a table made elsewhere.

    Raises
    ------
    TableError, VectorError
        When the table is missing or damaged, or the column holds no vectors.
    """

    def __init__(self, path: Path, column: str) -> None:
        parts = Parts.open(str(path))
        names = parts.schemas[0].names
        self.column = column if column in names else "embedding"
        parts.require(parts.key, self.column)
        self._key = parts.key
        if not is_vector_type(parts.schemas[0].field(self.column).type):
            raise VectorError("holds no lists of numbers", where=f"{path}, column {self.column!r}")
        self.path, self.identity_json, self.has_labels = path, parts.identity_json, "label" in names
        self._groups: list[_Group] = []
        first = 0
        metadata = pq.read_metadata(path)
        for number in range(metadata.num_row_groups):
            rows = metadata.row_group(number).num_rows
            self._groups.append(_Group(number, first, rows))
            first += rows
        self.rows = first

    def sample(self, most: int, seed: int = 0) -> Rows:
        """Choose rows at random, always the same ones for a seed; of a large table, from parts that are spread over it.

        Parameters
        ----------
        most:
            How many at most.
        seed:
            Of the choice.
        """
        if self.rows <= most:
            return np.arange(self.rows)
        random = np.random.default_rng(seed)
        groups = [group for group in self._groups if group.rows]
        if len(groups) > _MOST_GROUPS:
            least = max(_MOST_GROUPS, most // max(1, self.rows // len(groups)) * 2)
            places = np.unique(np.linspace(0, len(groups) - 1, min(least, len(groups))).round().astype(np.int64))
            groups = [groups[place] for place in places]
        there = np.concatenate([np.arange(group.first, group.first + group.rows) for group in groups])
        return np.sort(random.choice(there, min(most, len(there)), replace=False))

    def vectors(self, rows: Rows) -> Matrix:
        """Read the vectors of some rows, ascending and distinct."""
        builder = self._builder(len(rows))
        for _, batch in self.batches(rows, (self.column,)):
            builder.add(batch.column(0))
        return builder.matrix if builder.matrix is not None else np.zeros((0, 1), np.float32)

    def vector_batches(self, rows: Rows) -> Iterator[tuple[int, Matrix]]:
        """Read the same part by part: the place of the first in `rows`, and the vectors."""
        for first, batch in self.batches(rows, (self.column,)):
            builder = self._builder(batch.num_rows)
            builder.add(batch.column(0))
            assert builder.matrix is not None
            yield first, builder.matrix

    def filepaths(self, rows: Rows) -> list[str]:
        """Read the paths (or texts) of some rows, ascending and distinct."""
        parts = [batch.column(0).to_pylist() for _, batch in self.batches(rows, (self._key,))]
        return [str(path) for part in parts for path in part]

    def batches(self, rows: Rows, columns: tuple[str, ...]) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Read columns of some rows, ascending and distinct; only the row groups that hold one are read.

        Yields
        ------
        int
            The place in `rows` of the batch's first row.
        pyarrow.RecordBatch
            The columns of at most a few thousand rows.
        """
        place = 0
        held = [group for group in self._groups if _within(rows, group.first, group.rows).size]
        try:
            with pq.ParquetFile(self.path, pre_buffer=False, buffer_size=_PAGES) as reader:
                for group in held:
                    first = group.first
                    for batch in reader.iter_batches(
                        _READ_ROWS, row_groups=[group.number], columns=list(columns), use_threads=False
                    ):
                        wanted = _within(rows, first, batch.num_rows)
                        if wanted.size:
                            yield place, batch.select(columns).take(pa.array(wanted))
                        place, first = place + len(wanted), first + batch.num_rows
        except (pa.ArrowInvalid, OSError) as error:
            raise TableError(
                f"cannot be read: {error}", where=str(self.path), hint="check that the file is whole"
            ) from error

    def _builder(self, rows: int) -> MatrixBuilder:
        return MatrixBuilder(rows, np.float32, f"{self.path}, column {self.column!r}")


def _within(rows: Rows, first: int, count: int) -> Rows:
    """Those of some ascending rows that lie in a range, counted from its first."""
    begin, end = np.searchsorted(rows, (first, first + count))
    return rows[begin:end] - first
