"""Embedding tables: parquet with `filepath`, a vector column, and whatever else was carried.

The schema metadata holds, under the key ``lookalike``, the JSON of the encoder's identity. Tables made
elsewhere have none.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.tables.image_table import PARQUET_SUFFIXES
from lookalike.tables.vectors import Matrix, list_array

log = logging.getLogger(__name__)

#: Key of the schema metadata that holds the encoder identity.
METADATA_KEY = b"lookalike"
#: What to do about a table without vectors: the names of the drop-in commands and of `lookalike mine` and `tune`.
_NO_VECTORS = (
    "embed the images first, or name the column of the vectors: source_/target_embed_column_name, or "
    "pool_vectors/target_vectors in lookalike's own commands"
)


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


def check_embedding_table(path: str, column: str) -> None:
    """Refuse, before the other side is read, a table that is missing or lacks a column."""
    Parts.open(path).require("filepath", column)


@dataclass(frozen=True)
class Parts:
    """The parquet files of one embedding table and their schemas, in the order of the names."""

    name: str
    files: tuple[Path, ...]
    schemas: tuple[pa.Schema, ...]
    identity_json: str | None

    @classmethod
    def open(cls, path: str) -> Parts:
        """Find the files and read their schemas, refusing a folder of unlike encoders."""
        place = Path(path)
        if not place.exists():
            url = "://" in path
            hint = "embedding tables are local files" if url else "check the path; relative paths start where you are"
            raise TableError("does not exist", where=path, hint=hint)
        files = tuple(sorted(filter(_is_part, place.iterdir()))) if place.is_dir() else (place,)
        if not files:
            raise TableError("the folder holds no parquet file", where=path)
        try:
            schemas = tuple(pq.read_schema(file) for file in files)
        except (pa.ArrowInvalid, OSError) as error:
            raise TableError(
                f"not a readable parquet table: {error}", where=path, hint="check that the file is whole; make it again"
            ) from error
        identities = [(schema.metadata or {}).get(METADATA_KEY) for schema in schemas]
        if len({_fingerprint(identity) for identity in identities}) > 1:
            raise TableError(
                "its files were written by different encoders", where=path, hint="embed them with one encoder"
            )
        return cls(path, files, schemas, identities[0].decode(errors="replace") if identities[0] else None)

    def require(self, *columns: str, hint: str = _NO_VECTORS) -> None:
        """Refuse a table, one of whose files lacks a column; `hint` says what to do."""
        for file, schema in zip(self.files, self.schemas, strict=True):
            for column in columns:
                if column not in schema.names:
                    raise TableError(
                        f"has no column {column!r}; its columns are {schema.names}",
                        where=self.name if len(self.files) == 1 else str(file),
                        hint=hint,
                    )

    def read(self, columns: tuple[str, ...]) -> pa.Table:
        """Read columns that fit in memory, with nulls where a file lacks one that another has."""
        tables = [
            pq.read_table(file, columns=[name for name in columns if name in schema.names], partitioning=None)
            for file, schema in zip(self.files, self.schemas, strict=True)
        ]
        try:
            return pa.concat_tables(tables, promote_options="permissive")
        except pa.ArrowTypeError as error:
            raise TableError(f"its files cannot be read as one table: {error}", where=self.name) from error


def _is_part(file: Path) -> bool:
    """Whether a file in a folder is a part of its table: not hidden, not one that lookalike put beside a table."""
    if file.suffix.lower() not in PARQUET_SUFFIXES or file.name.startswith("."):
        return False
    stem, _, last = file.stem.rpartition("_")
    ours = last in ("quarantine", "pairs") and file.with_name(f"{stem}{file.suffix}").exists()
    if ours:
        log.info("%s belongs to the table beside it and is not read as a part of the pool", file)
    return not ours


def _fingerprint(identity: bytes | None) -> object:
    """What must be equal in all files of a folder: the fingerprint; a damaged identity stands for itself."""
    try:
        return identity and json.loads(identity)["fingerprint"]
    except (ValueError, KeyError, TypeError):
        return identity


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
    storage:
        Type of the stored values: ``float32`` or ``float16``.
    """

    def __init__(self, path: Path, source: pa.Table, identity_json: str, storage: str) -> None:
        self._storage = np.dtype(storage)
        self._source = source
        self.schema = embedding_schema(source.schema, identity_json, storage)
        self._carried = self.schema.names[2:]
        self._writer = open_writer(path, self.schema)

    def write(self, rows: npt.NDArray[np.int64], vectors: npt.NDArray[np.float32]) -> None:
        """Append the given source rows (ascending) with their vectors (rows x dimension), which fit the storage."""
        # `take` copies whole columns of many chunks before it picks: slicing first keeps that to the rows in question.
        taken = self._source.slice(rows[0], rows[-1] - rows[0] + 1).take(pa.array(rows - rows[0]))
        values = list_array(vectors.astype(self._storage, copy=False))
        columns = [taken.column("filepath"), values, *(taken.column(n) for n in self._carried)]
        self._writer.write_table(pa.table(columns, schema=self.schema), row_group_size=len(rows))

    def __enter__(self) -> EmbeddingTableWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()


def embedding_schema(source: pa.Schema, identity_json: str | None, storage: str) -> pa.Schema:
    """The schema of an embedding table: `filepath`, `embedding`, then the other columns of a source.

    Parameters
    ----------
    source:
        Columns to carry.
    identity_json:
        Goes into the metadata; None: it is not known which encoder wrote the vectors.
    storage:
        Type of the stored values.
    """
    carried = [field for field in source if field.name not in ("filepath", "embedding")]
    vectors = pa.list_(pa.from_numpy_dtype(np.dtype(storage)))
    fields = [pa.field("filepath", pa.string()), pa.field("embedding", vectors), *carried]
    return pa.schema(fields, metadata=None if identity_json is None else {METADATA_KEY: identity_json.encode()})


def open_writer(path: Path, schema: pa.Schema) -> pq.ParquetWriter:
    """A writer of parquet for an embedding table."""
    return pq.ParquetWriter(
        path,
        schema,
        compression="zstd",
        # Vectors do not repeat: a dictionary costs time and saves nothing, splitting the bytes saves 15 %.
        use_dictionary=[field.name for field in list(schema)[2:] if _may_repeat(field.type)],
        use_byte_stream_split=["embedding.list.element"],
    )


def _may_repeat(kind: pa.DataType) -> bool:
    """Whether dictionary encoding is worth trying: plain values, not lists or structs."""
    return not pa.types.is_nested(kind)
