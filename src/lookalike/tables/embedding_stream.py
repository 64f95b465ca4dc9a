"""Reading embedding tables: part by part, for pools that do not fit in memory, or as a whole."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.cores import usable_cores
from lookalike.errors import TableError, VectorError
from lookalike.tables.embedding_table import EmbeddingTable, Parts
from lookalike.tables.image_table import check_filepath, nulls
from lookalike.tables.row_groups import RowGroup, row_groups, side_by_side, threads_for
from lookalike.tables.vectors import Matrix, MatrixBuilder, is_vector_type

#: Rows read at a time: bounds what reading holds beside the matrix (64 MB at 1,024 float32 dimensions).
_READ_ROWS = 16_384
#: Rows that a message names.
_SHOWN = 5
#: Bytes of a file that are read at a time.
_PAGES = 1 << 20
#: Rows that are looked at before anything else.
_FIRST_ROWS = 1024

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Chunk:
    """Some consecutive rows of one side of a search.

    Attributes
    ----------
    first:
        Row of the first.
    vectors:
        rows x dimension.
    labels:
        The `label` column in pieces, where it was asked for.
    """

    first: int
    vectors: Matrix
    labels: tuple[pa.Array, ...] = ()


class EmbeddingStream:
    """Read an embedding table chunk by chunk.

    Parameters
    ----------
    path:
        A parquet file, or a folder of parquet files, read in the order of their names.
    column:
        The embedding column.
    filepath_column:
        The column of the paths; whatever its name, it is read as `filepath`. A table of texts has none: there
        `filepath` is its column `text`.

    Raises
    ------
    TableError
        When the table is missing or damaged, lacks the column or has no rows.
    VectorError
        When the column does not hold lists of numbers.

    Attributes
    ----------
    name:
        The path, as given.
    rows, dimension, dtype:
        Of the whole table; float32, or float64 where the file says so.
    identity_json:
        The encoder identity as JSON, or None for a table made elsewhere.
    has_labels:
        Whether there is a column `label`.
    """

    def __init__(self, path: str, column: str, filepath_column: str = "filepath") -> None:
        self._parts = Parts.open(path)
        self._parts.require(column)
        if filepath_column == "filepath":
            filepath_column = self._parts.key
        self._column, self._filepath = column, filepath_column
        self.name, self.identity_json = path, self._parts.identity_json
        self.has_labels = any("label" in schema.names for schema in self._parts.schemas)
        kinds = [schema.field(column).type for schema in self._parts.schemas]
        if not all(map(is_vector_type, kinds)):
            raise VectorError(f"holds {kinds[0]}, not lists of numbers", where=self._where)
        # Tables of doubles keep their precision: the search is exact in what the table says.
        wide = any(kind.value_type.bit_width > 32 for kind in kinds)
        self.dtype: type[np.float32] | type[np.float64] = np.float64 if wide else np.float32
        self._types = _common_types(self._parts, (filepath_column, "label"))
        self.rows = sum(pq.read_metadata(file).num_rows for file in self._parts.files)
        if not self.rows:
            raise TableError("has no rows", where=path, hint="check how the table was made")
        batch = next(batch for batch in self._batches((column,), _FIRST_ROWS) if batch.num_rows)
        first = MatrixBuilder(batch.num_rows, self.dtype, self._where)
        first.add(batch.column(0))
        assert first.matrix is not None
        self.dimension = first.matrix.shape[1]

    @property
    def _where(self) -> str:
        return f"{self.name}, column {self._column!r}"

    def chunks(self, size: int, *, labels: bool = False) -> Iterator[Chunk]:
        """Read `size` rows at a time; while a chunk is used, the next one is read, on several threads where that pays.

        Raises
        ------
        VectorError
            When a vector is null, of another length than the first, or not finite.
        """
        with_labels = labels and self.has_labels
        groups = row_groups(self._parts.files)
        each = self.dimension * np.dtype(self.dtype).itemsize
        threads = threads_for(groups, each, size * each, usable_cores())
        if threads > 1:
            return _one_ahead(self._chunks_of_groups(groups, threads, size, with_labels))
        return _one_ahead(self._chunks(size, with_labels))

    def check_filepaths(self) -> None:
        """Refuse a column `filepath` that is missing or has nulls."""
        self._parts.require(self._filepath)
        first, count = 0, 0
        rows: list[int] = []
        for batch in self._batches((self._filepath,), _READ_ROWS):
            missing = np.flatnonzero(~batch.column(0).is_valid().to_numpy(zero_copy_only=False))
            count += len(missing)
            rows += (first + missing[: _SHOWN - len(rows)]).tolist()
            if batch.num_rows and not count:
                check_filepath(self._plain(pa.Table.from_batches([batch])), self.name)
            first += batch.num_rows
        if count:
            raise nulls(count, rows, self.name, self._filepath)

    def filepaths(self) -> Iterator[pa.Array]:
        """The paths of all rows, piece by piece."""
        self._parts.require(self._filepath)
        for batch in self._batches((self._filepath,), _READ_ROWS):
            if batch.num_rows:
                column = check_filepath(self._plain(pa.Table.from_batches([batch])), self.name).column("filepath")
                yield column.combine_chunks()

    def read_scalars(self) -> pa.Table:
        """The columns `filepath` and, where there is one, `label`, of all rows."""
        self._parts.require(self._filepath)
        try:
            return check_filepath(self._plain(self._parts.read((self._filepath, "label"))), self.name)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(error) from error

    def pick(self, rows: npt.NDArray[np.int64], columns: tuple[str, ...]) -> pa.Table:
        """Read other columns of some rows, in ascending order; a column that no file has is left out.

        Parameters
        ----------
        rows:
            Ascending and distinct.
        columns:
            Their names; `filepath` is the column of the paths.
        """
        columns = tuple(self._filepath if name == "filepath" else name for name in columns)
        there = tuple(name for name in columns if any(name in schema.names for schema in self._parts.schemas))
        self._types |= _common_types(self._parts, tuple(name for name in there if name not in self._types))
        picked, first = [], 0
        for batch in self._batches(there, _READ_ROWS):
            begin, end = np.searchsorted(rows, (first, first + batch.num_rows))
            if end > begin:
                picked.append(pa.Table.from_batches([batch.take(pa.array(rows[begin:end] - first))]))
            first += batch.num_rows
        if not picked:
            picked = [pa.table({name: pa.array([], self._types[name]) for name in there})]
        return self._plain(pa.concat_tables(picked))

    def vectors(self, rows: npt.NDArray[np.int64]) -> Matrix:
        """Read the vectors of some rows, which fit in memory.

        Parameters
        ----------
        rows:
            Ascending and distinct.
        """
        builder, first = MatrixBuilder(len(rows), self.dtype, self._where, 0, self.dimension), 0
        for batch in self._batches((self._column,), _READ_ROWS):
            begin, end = np.searchsorted(rows, (first, first + batch.num_rows))
            if end > begin:
                builder.add(batch.column(0).take(pa.array(rows[begin:end] - first)))
            first += batch.num_rows
        assert builder.matrix is not None
        return builder.matrix

    def _plain(self, table: pa.Table) -> pa.Table:
        """The table with its column of paths under the name `filepath`."""
        return table.rename_columns(["filepath" if name == self._filepath else name for name in table.column_names])

    def _chunks(self, size: int, with_labels: bool) -> Iterator[Chunk]:
        columns = (self._column, "label") if with_labels else (self._column,)
        first, builder = 0, None
        labels: list[pa.Array] = []
        for batch in self._batches(columns, min(size, _READ_ROWS)):
            start = 0
            while start < batch.num_rows:
                if builder is None:
                    rows = min(size, self.rows - first)
                    builder = MatrixBuilder(rows, self.dtype, self._where, first, self.dimension)
                part = batch.slice(start, builder.rows - builder.filled)
                builder.add(part.column(0))
                if with_labels:
                    labels.append(part.column(1))
                start += part.num_rows
                if builder.filled == builder.rows:
                    assert builder.matrix is not None
                    yield Chunk(first, builder.matrix, tuple(labels))
                    first, builder, labels = first + builder.rows, None, []

    def _chunks_of_groups(self, groups: list[RowGroup], threads: int, size: int, with_labels: bool) -> Iterator[Chunk]:
        """The same chunks, from row groups that are decoded side by side."""
        first, filled = 0, 0
        labels: list[pa.Array] = []
        chunk: Matrix = np.empty((min(size, self.rows), self.dimension), self.dtype)
        jobs = (functools.partial(self._decode, group, with_labels) for group in groups)
        for vectors, own in side_by_side(jobs, threads):
            start = 0
            while start < len(vectors):
                count = min(len(vectors) - start, len(chunk) - filled)
                chunk[filled : filled + count] = vectors[start : start + count]
                if own is not None:
                    labels.append(own.slice(start, count))
                start, filled = start + count, filled + count
                if filled == len(chunk):
                    yield Chunk(first, chunk, tuple(labels))
                    first, filled, labels = first + filled, 0, []
                    chunk = np.empty((min(size, self.rows - first), self.dimension), self.dtype)

    def _decode(self, group: RowGroup, with_labels: bool) -> tuple[Matrix, pa.Array | None]:
        """The vectors of a row group, checked, and its labels."""
        try:
            table = group.read((self._column, "label") if with_labels else (self._column,)).combine_chunks()
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(error) from error
        builder = MatrixBuilder(group.rows, self.dtype, self._where, group.first, self.dimension)
        for piece in table.column(self._column).chunks:
            builder.add(piece)
        assert builder.matrix is not None
        if not with_labels:
            return builder.matrix, None
        if "label" not in table.column_names:
            return builder.matrix, pa.nulls(group.rows, self._types["label"])
        return builder.matrix, self._alike("label", table.column("label").combine_chunks())

    def _batches(self, columns: tuple[str, ...], rows: int) -> Iterator[pa.RecordBatch]:
        """Some columns of all files, with nulls where a file lacks one that another has."""
        try:
            for file, schema in zip(self._parts.files, self._parts.schemas, strict=True):
                there = [name for name in columns if name in schema.names]
                # Read ahead by pages: by default all of a row group is read at once, however large it is.
                with pq.ParquetFile(file, pre_buffer=False, buffer_size=_PAGES) as reader:
                    for batch in reader.iter_batches(rows, columns=there, use_threads=False):
                        arrays = [
                            self._alike(name, batch[name])
                            if name in there
                            else pa.nulls(batch.num_rows, self._types[name])
                            for name in columns
                        ]
                        yield pa.RecordBatch.from_arrays(arrays, names=list(columns))
        except (pa.ArrowInvalid, OSError) as error:
            raise self._damaged(error) from error

    def _alike(self, name: str, array: pa.Array) -> pa.Array:
        """A column in the type that all files of the table can have."""
        kind = self._types.get(name, array.type)
        return array if array.type == kind else array.cast(kind)

    def _damaged(self, error: Exception) -> TableError:
        return TableError(f"cannot be read: {error}", where=self.name, hint="check that the file is whole")


def _common_types(parts: Parts, columns: tuple[str, ...]) -> dict[str, pa.DataType]:
    """The types that columns have when all files are one table; refuses files that cannot be."""
    types: dict[str, pa.DataType] = {}
    for name in columns:
        kinds = [schema.field(name).type for schema in parts.schemas if name in schema.names]
        if not kinds:
            continue
        if any(kind != kinds[0] for kind in kinds):  # a dictionary is the type of its values
            kinds = [kind.value_type if pa.types.is_dictionary(kind) else kind for kind in kinds]
        try:
            merged = pa.unify_schemas([pa.schema([(name, kind)]) for kind in kinds], promote_options="permissive")
        except pa.ArrowTypeError as error:
            raise TableError(f"its files cannot be read as one table: {error}", where=parts.name) from error
        types[name] = merged.field(name).type
    return types


def read_embedding_table(path: str, column: str, filepath_column: str = "filepath") -> EmbeddingTable:
    """Read the parts of an embedding table that a search needs.

    Parameters
    ----------
    path, column, filepath_column:
        As of `EmbeddingStream`.

    Raises
    ------
    TableError
        When the table is missing or damaged, or lacks `filepath` or the column; names what it has.
    VectorError
        When the column holds anything but finite vectors of one length.
    """
    stream = EmbeddingStream(path, column, filepath_column)
    scalars = stream.read_scalars()
    (chunk,) = stream.chunks(stream.rows)
    return EmbeddingTable(
        name=path,
        filepaths=scalars.column("filepath").combine_chunks(),
        vectors=chunk.vectors,
        labels=scalars.column("label") if "label" in scalars.column_names else None,
        identity_json=stream.identity_json,
    )


def label_codes(labels: pa.Array, codes: dict[str, int], *, learn: bool) -> npt.NDArray[np.int64]:
    """Numbers of labels, which are equal when they agree as text without case and outer blanks.

    Parameters
    ----------
    labels:
        A piece of a column of any plain type.
    codes:
        The numbers of what is known.
    learn:
        Give new labels numbers; otherwise they get -1.
    """

    def number(label: object) -> int:
        text = plain_label(label)
        return codes.setdefault(text, len(codes)) if learn else codes.get(text, -1)

    try:
        encoded = labels if pa.types.is_dictionary(labels.type) else labels.dictionary_encode()
    except pa.ArrowNotImplementedError:  # lists and the like, which hardly any table has as labels
        return np.array([number(label) for label in labels.to_pylist()], np.int64)
    numbers = [number(label) for label in encoded.dictionary.to_pylist()]
    numbers.append(number(None) if encoded.indices.null_count else -1)
    indices = encoded.indices.fill_null(len(numbers) - 1)
    found: npt.NDArray[np.int64] = np.array(numbers, np.int64)[indices.to_numpy(zero_copy_only=False)]
    return found


def plain_label(label: object) -> str:
    """A label as it is compared: as text, without case and outer blanks."""
    return str(label).strip().upper()


def _one_ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items; while one is used, the next is made on a thread."""
    end = object()
    with ThreadPoolExecutor(1, "read") as reader:
        waiting = reader.submit(next, items, end)
        while (item := waiting.result()) is not end:
            waiting = reader.submit(next, items, end)
            yield item  # type: ignore[misc]
