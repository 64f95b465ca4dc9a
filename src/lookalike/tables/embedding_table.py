"""Embedding tables: parquet with `filepath`, a vector column, and whatever else was carried.

The schema metadata holds, under the key ``lookalike``, the JSON of the encoder's identity. Tables made
elsewhere have none.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lookalike.errors import TableError, VectorError
from lookalike.tables.image_table import check_filepath
from lookalike.tables.vectors import Matrix, MatrixBuilder, is_vector_type, list_array

#: Key of the schema metadata that holds the encoder identity.
METADATA_KEY = b"lookalike"
#: Rows read at a time: bounds what reading holds beside the matrix (64 MB at 1,024 float32 dimensions).
_READ_ROWS = 16_384


@dataclass(frozen=True)
class EmbeddingTable:
    """One side of a search, in memory.

    Attributes
    ----------
    name:
        The path that it was read from, as given.
    filepaths:
        One string a row.
    vectors:
        rows x dimension; float32, or float64 where the file says so.
    labels:
        The `label` column, or None where the table has none.
    identity_json:
        The encoder identity as JSON, or None for a table made elsewhere.
    """

    name: str
    filepaths: pa.StringArray
    vectors: Matrix
    labels: pa.ChunkedArray | None
    identity_json: str | None

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.filepaths)


def read_embedding_table(path: str, column: str) -> EmbeddingTable:
    """Read the parts of an embedding table that a search needs.

    Parameters
    ----------
    path:
        A parquet file, or a folder of parquet files, read in the order of their names.
    column:
        The embedding column.

    Raises
    ------
    TableError
        When the table is missing or damaged, or lacks `filepath` or the column; names what it has.
    VectorError
        When the column holds anything but finite vectors of one length.
    """
    dataset = _open(path)
    names = dataset.schema.names
    if column not in names:
        raise TableError(
            f"has no column {column!r}; its columns are {names}",
            where=path,
            hint="embed the images first, or name the column with source_/target_embed_column_name",
        )
    where = f"{path}, column {column!r}"
    if not is_vector_type(dataset.schema.field(column).type):
        raise VectorError(f"holds {dataset.schema.field(column).type}, not lists of numbers", where=where)
    wanted = ["filepath", "label"] if "label" in names else ["filepath"]
    try:
        scalars = dataset.to_table(columns=[name for name in wanted if name in names])
        scalars = check_filepath(scalars, path)
        builder = MatrixBuilder(scalars.num_rows, where)
        for batch in dataset.to_batches(columns=[column], batch_size=_READ_ROWS, use_threads=False, batch_readahead=1):
            builder.add(batch.column(0))
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"cannot be read: {error}", where=path, hint="check that the file is whole") from error
    assert builder.matrix is not None
    identity = (dataset.schema.metadata or {}).get(METADATA_KEY)
    return EmbeddingTable(
        name=path,
        filepaths=scalars.column("filepath").combine_chunks(),
        vectors=builder.matrix,
        labels=scalars.column("label") if "label" in names else None,
        identity_json=identity.decode() if identity else None,
    )


def check_embedding_table(path: str, column: str) -> None:
    """Refuse, before the other side is read, a table that is missing or lacks a column."""
    names = _open(path).schema.names
    for needed in ("filepath", column):
        if needed not in names:
            raise TableError(f"has no column {needed!r}; its columns are {names}", where=path)


def _open(path: str) -> Any:
    """Open a parquet file or folder as an Arrow dataset, refusing folders of unlike encoders."""
    place = Path(path)
    if not place.exists():
        raise TableError("does not exist", where=path, hint="check the path; relative paths start where you are")
    files = sorted(place.glob("*.parquet")) if place.is_dir() else [place]
    if not files:
        raise TableError("the folder holds no parquet file", where=path)
    try:
        schemas = [pq.read_schema(file) for file in files]
        identities = {(schema.metadata or {}).get(METADATA_KEY) for schema in schemas}
        if len(identities) > 1:
            raise TableError(
                "its files were written by different encoders", where=path, hint="embed them with one encoder"
            )
        return ds.dataset([str(file) for file in files], format="parquet", schema=schemas[0])
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"not a readable parquet table: {error}", where=path) from error


class EmbeddingTableWriter:
    """Write an embedding table row group by row group: `filepath`, `embedding`, then the carried columns.

    Use as a context manager around a temporary path (see `atomic_path`).

    Parameters
    ----------
    path:
        The file to write.
    source:
        The image table; its columns other than `filepath` and `embedding` are carried.
    identity_json:
        Goes into the schema metadata.
    """

    def __init__(self, path: Path, source: pa.Table, identity_json: str) -> None:
        self._source = source
        self._carried = [name for name in source.column_names if name not in ("filepath", "embedding")]
        fields = [pa.field("filepath", pa.string()), pa.field("embedding", pa.list_(pa.float32()))]
        fields += [source.schema.field(name) for name in self._carried]
        self.schema = pa.schema(fields, metadata={METADATA_KEY: identity_json.encode()})
        self._writer = pq.ParquetWriter(
            path,
            self.schema,
            compression="zstd",
            # Vectors do not repeat: a dictionary costs time and saves nothing, splitting the bytes saves 15 %.
            use_dictionary=[name for name in self._carried if _may_repeat(source.schema.field(name).type)],
            use_byte_stream_split=["embedding.list.element"],
        )

    def write(self, rows: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]) -> None:
        """Append the given source rows (ascending) with their vectors (rows x dimension)."""
        taken = self._source.take(pa.array(rows))
        columns = [taken.column("filepath"), list_array(vectors), *(taken.column(n) for n in self._carried)]
        self._writer.write_table(pa.table(columns, schema=self.schema), row_group_size=len(rows))

    def __enter__(self) -> EmbeddingTableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def _may_repeat(kind: pa.DataType) -> bool:
    """Whether dictionary encoding is worth trying: plain values, not lists or structs."""
    return not pa.types.is_nested(kind)
