"""Putting a ready embedding table where another one is expected: a copy of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.tables.atomic import atomic_path
from lookalike.tables.embedding_table import Parts

#: Rows read at a time.
_READ_ROWS = 16_384


def place_embedding_table(path: str, column: str, output: Path) -> None:
    """Make `output` the same table as `path`, with its vectors in the column `embedding`.

    One file whose column has that name already is copied as it is. Anything else (a folder of parquet files, another
    column) is written anew, a row group at a time.

    Parameters
    ----------
    path:
        A parquet file, or a folder of them.
    column:
        Its embedding column.
    output:
        Replaced when it is there.

    Raises
    ------
    TableError
        When the table cannot be read, its files are not one table, or `output` cannot be written.
    """
    parts = Parts.open(path)
    parts.require(parts.key, column)
    with atomic_path(output) as temporary:
        if len(parts.files) == 1 and column == "embedding":
            # No hard link: who writes that file anew in place, as pandas does, would change a finished run.
            shutil.copyfile(parts.files[0].resolve(), temporary)
        else:
            _rewrite(parts, column, temporary)


def _rewrite(parts: Parts, column: str, temporary: Path) -> None:
    """Write all files as one, in the order of their names, with nulls where one lacks a column that another has."""
    schemas = [_renamed(schema, column) for schema in parts.schemas]
    try:
        schema = pa.unify_schemas(schemas, promote_options="permissive")
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        raise TableError(f"its files cannot be read as one table: {error}", where=parts.name) from error
    try:
        with pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for file in parts.files:
                with pq.ParquetFile(file) as reader:
                    for batch in reader.iter_batches(_READ_ROWS, use_threads=False):
                        writer.write_batch(_alike(batch, column, schema))
    except pa.ArrowInvalid as error:
        raise TableError(f"cannot be read: {error}", where=parts.name, hint="check that the file is whole") from error


def _renamed(schema: pa.Schema, column: str) -> pa.Schema:
    """The schema with the chosen column as `embedding`, and without another one of that name."""
    fields = [field for field in schema if field.name == column or field.name != "embedding"]
    metadata = {key: value for key, value in (schema.metadata or {}).items() if key != b"pandas"}
    return pa.schema(
        [field.with_name("embedding") if field.name == column else field for field in fields], metadata=metadata
    )


def _alike(batch: pa.RecordBatch, column: str, schema: pa.Schema) -> pa.RecordBatch:
    """A batch of one file in the columns and types of the whole table."""
    arrays = []
    for field in schema:
        name = column if field.name == "embedding" else field.name
        array = batch.column(name) if name in batch.schema.names else pa.nulls(batch.num_rows, field.type)
        arrays.append(array if array.type == field.type else array.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
