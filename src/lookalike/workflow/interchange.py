"""`import` and `export numpy|lance`: vectors of other programs come in as embedding tables, and ours go out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv

from lookalike.encoders.identity import EncoderIdentity
from lookalike.errors import MissingDependency, TableError, VectorError
from lookalike.tables.atomic import atomic_folder, atomic_path, check_output, check_place
from lookalike.tables.boxes import split_box
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.embedding_table import METADATA_KEY, Parts, embedding_schema, open_writer
from lookalike.tables.foreign import Names, read_foreign
from lookalike.tables.mined_rows import Mined, pool_of, read_mined, vectors_of
from lookalike.tables.vectors import MatrixBuilder, is_vector_type, list_array

Vectors = npt.NDArray[np.float32]

#: Rows of a row group, and rows that are held at a time.
_ROWS = 8192
#: Paths that are looked up on the disk.
_FIRST = 100
#: What a Lance dataset holds.
_LANCE = frozenset({"data", "_versions", "_transactions", "_indices", "_deletions"})
#: The files of `export numpy`.
ARRAY, ROWS, ENCODER = "embeddings.npy", "rows.csv", "encoder.json"


@dataclass(frozen=True)
class Imported:
    """What `import_embeddings` wrote.

    Attributes
    ----------
    path:
        The embedding table.
    rows, dimension, columns:
        Of it.
    looked_up, there:
        How many of the first paths were looked up on the disk, and how many are files: ids are none.
    """

    path: Path
    rows: int
    dimension: int
    columns: tuple[str, ...]
    looked_up: int
    there: int


def import_embeddings(
    given: str | Path,
    out: str | Path,
    *,
    vectors: str = "",
    ids: str = "",
    paths: str | Path = "",
    encoder: str | Path = "",
    force: bool = False,
) -> Imported:
    """Write embeddings of another program as an embedding table.

    Parameters
    ----------
    given:
        `.npy`, `.npz`, parquet (a file or a folder), a `.lance` dataset, or a FiftyOne dataset folder.
    out:
        The embedding table to write: `filepath`, `embedding` (list of float32), then the other columns.
    vectors, ids:
        The column (array, field) of the vectors, and that of paths or ids; empty: they are looked for.
    paths:
        An image table or list with the paths, row by row as the vectors; needed for `.npy`.
    encoder:
        `encoder.json` as `export numpy` writes it: what wrote the vectors. Without it, mining says that it is not
        known.
    force:
        Whether a table that is there is replaced.

    Raises
    ------
    TableError, VectorError
        When an input cannot be right, or the table is there already.
    MissingDependency
        When a package that reads it is not installed.
    """
    output = Path(out)
    check_output(output, inputs=tuple(str(one) for one in (given, paths, encoder) if one))
    _refuse_there(output, force)
    identity = _read_identity(Path(encoder)) if encoder else None
    rows, dimension, first = 0, None, list[str]()
    schema = None
    with atomic_path(output) as temporary:
        for part in read_foreign(str(given), Names(vectors, ids, str(paths or ""))):
            if schema is None:
                schema = embedding_schema(part.schema, identity.to_json() if identity else None, "float32")
                writer = open_writer(temporary, schema)
            matrix = _matrix(part, str(given), rows, dimension)
            dimension = matrix.shape[1]
            writer.write_table(_alike(part, list_array(matrix), schema, str(given)), row_group_size=_ROWS)
            first += part.column("filepath").slice(0, _FIRST - len(first)).to_pylist()
            rows += part.num_rows
        if schema is None or dimension is None:
            raise TableError("has no rows", where=str(given), hint="check how it was made")
        writer.close()
        if identity is not None and identity.model.dimension != dimension:
            raise VectorError(
                f"has {dimension}-dimensional vectors, and {encoder} is of an encoder with {identity.model.dimension}",
                where=str(given),
                hint="give the encoder.json of these vectors, or none",
            )
    there = sum(os.path.isfile(split_box(path)[0]) for path in first)  # noqa: PTH113 - ids may be no paths at all
    return Imported(output, rows, dimension, tuple(schema.names), len(first), there)


def _alike(part: pa.Table, vectors: pa.Array, schema: pa.Schema, where: str) -> pa.Table:
    """Some rows in the form that all of the table has."""
    if nulls := part.column("filepath").null_count:
        raise TableError(f"has {nulls} rows without a path or id", where=where, hint="give every row one, or remove it")
    table = part.set_column(1, schema.field("embedding"), vectors)
    try:
        return table.select(schema.names).cast(schema)
    except (KeyError, ValueError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TableError(
            f"its files cannot be read as one table: {error}", where=where, hint="give them the same columns"
        ) from error


@dataclass(frozen=True)
class Exported:
    """What was written: the file or folder, its rows, and the dimension of the vectors."""

    path: Path
    rows: int
    dimension: int


def export_numpy(source: str | Path, out: str | Path, *, force: bool = False) -> Exported:
    """Write vectors as a NumPy array, with a CSV of the rows beside it.

    The folder holds `embeddings.npy` (float32, rows x dimension), `rows.csv` (`filepath` and the other plain columns,
    row by row) and, where it is known, `encoder.json`: what wrote the vectors. `import_embeddings` reads it back.

    Parameters
    ----------
    source:
        An embedding table (a parquet file or a folder of them), or a run: then its mined images.
    out:
        The folder to write.
    force:
        Whether a folder that `export numpy` wrote is replaced.

    Raises
    ------
    TableError, VectorError
        When the source is neither, or the folder is in use.
    """
    path, rows = Path(out), _Rows.open(source)
    check_place(path / ARRAY, inputs=(str(source),))
    _check_folder(path, frozenset({ARRAY, ROWS, ENCODER}), force)
    plain = _plain(pa.schema([field for field in rows.schema if field.name != "embedding"]))
    with atomic_folder(path) as temporary:
        array = np.lib.format.open_memmap(
            temporary / ARRAY, mode="w+", dtype=np.float32, shape=(rows.count, rows.dimension)
        )
        first = 0
        with pyarrow.csv.CSVWriter(temporary / ROWS, plain) as writer:
            for part, vectors in rows.parts():
                array[first : first + len(vectors)] = vectors
                writer.write_table(part.select(plain.names).cast(plain))
                first += len(vectors)
        array.flush()
        del array
        if rows.identity_json is not None:
            (temporary / ENCODER).write_text(rows.identity_json, encoding="utf-8")
    return Exported(path, rows.count, rows.dimension)


def export_lance(source: str | Path, out: str | Path, *, force: bool = False) -> Exported:
    """Write vectors as a Lance dataset, which LanceDB opens as a table.

    Its columns are `filepath`, `vector` (lists of float32 of one fixed size, as LanceDB's index wants them), then the
    others.

    Parameters
    ----------
    source, force:
        As of `export_numpy`.
    out:
        The dataset to write; its name ends in `.lance`.

    Raises
    ------
    MissingDependency
        When the extra `lance` is not installed.
    TableError, VectorError
        When the source is neither, or the dataset is there already.
    """
    try:
        import lance
    except ImportError as error:
        raise MissingDependency.of("pylance", "lance", "to write a Lance dataset") from error
    path = Path(out)
    if path.suffix.lower() != ".lance":
        raise TableError("a Lance dataset is a folder whose name ends in .lance", where=str(path))
    check_place(path / "rows", inputs=(str(source),))
    _check_folder(path, _LANCE, force)
    rows = _Rows.open(source)
    kind = pa.list_(pa.float32(), rows.dimension)
    fields = [rows.schema.field("filepath"), pa.field("vector", kind), *list(rows.schema)[2:]]
    metadata = None if rows.identity_json is None else {METADATA_KEY: rows.identity_json.encode()}
    schema = pa.schema(fields, metadata=metadata)

    def batches() -> Iterator[pa.RecordBatch]:
        for part, vectors in rows.parts():
            fixed = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), rows.dimension)
            yield from pa.table([part.column(0), fixed, *part.columns[1:]], schema=schema).to_batches()

    with atomic_folder(path) as temporary:
        lance.write_dataset(batches(), temporary, schema=schema, mode="overwrite")
    return Exported(path, rows.count, rows.dimension)


@dataclass(frozen=True)
class _Rows:
    """Rows with vectors: an embedding table, or the mined images of a run.

    Attributes
    ----------
    name:
        The table of the vectors.
    schema:
        `filepath`, `embedding`, then the other columns.
    count, dimension:
        Of the vectors.
    identity_json:
        What wrote them, where that is known.
    mined:
        The mined images; None: all of the table.
    """

    name: str
    schema: pa.Schema
    count: int
    dimension: int
    identity_json: str | None
    mined: Mined | None = None

    @classmethod
    def open(cls, source: str | Path) -> _Rows:
        """Look at what is given."""
        given, mined, others = Path(source), None, None
        if not _has_vectors(given):
            mined = read_mined(given)
            given = pool_of(mined)
            others = mined.rows.drop_columns(["row"]).schema
        stream = EmbeddingStream(str(given), "embedding")
        schema = embedding_schema(others or _common(Parts.open(str(given)).schemas), None, "float32")
        count = stream.rows if mined is None else mined.rows.num_rows
        return cls(str(given), schema, count, stream.dimension, stream.identity_json, mined)

    def parts(self) -> Iterator[tuple[pa.Table, Vectors]]:
        """Some rows at a time: their columns but for the vectors, and the vectors."""
        if self.mined is not None:  # a list that a person can look through
            yield self.mined.rows.drop_columns(["row"]), vectors_of(self.mined).astype(np.float32, copy=False)
            return
        first = 0
        for part in read_foreign(self.name, Names("embedding", "filepath")):
            vectors = _matrix(part, self.name, first, self.dimension)
            yield part.select([name for name in self.schema.names if name != "embedding"]), vectors
            first += part.num_rows


def _common(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The columns that all files of a table have, of one type."""
    return pa.schema([field for field in schemas[0] if all(field in list(schema) for schema in schemas)])


def _matrix(part: pa.Table, where: str, first: int, dimension: int | None) -> Vectors:
    """The vectors of some rows, checked."""
    builder = MatrixBuilder(part.num_rows, np.float32, where, first, dimension)
    for chunk in part.column("embedding").chunks:
        builder.add(chunk)
    assert builder.matrix is not None
    vectors: Vectors = builder.matrix
    return vectors


def _has_vectors(given: Path) -> bool:
    """Whether a path is an embedding table, and no run and no mined list."""
    if not given.exists() or (given / "run.json").exists() or (given / "mined.parquet").exists():
        return False
    schemas = Parts.open(str(given)).schemas
    return all("embedding" in schema.names and is_vector_type(schema.field("embedding").type) for schema in schemas)


def _plain(schema: pa.Schema) -> pa.Schema:
    """The columns that a CSV can hold: no lists; of a dictionary its values."""
    kinds = {field.name: field.type for field in schema if not pa.types.is_nested(field.type)}
    return pa.schema(
        [(name, kind.value_type if pa.types.is_dictionary(kind) else kind) for name, kind in kinds.items()]
    )


def _read_identity(path: Path) -> EncoderIdentity:
    try:
        return EncoderIdentity.from_json(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise TableError(f"cannot be read: {error}", where=str(path), hint="give an encoder.json") from error


def _refuse_there(path: Path, force: bool) -> None:
    if path.exists() and not force:
        raise TableError("is there already", where=str(path), hint="choose another --out, or replace it with --force")


def _check_folder(path: Path, ours: frozenset[str], force: bool) -> None:
    """Refuse a folder that holds anything but what an earlier export wrote and may be replaced."""
    if path.exists() and not path.is_dir():
        raise TableError("is a file, and a folder is to be written", where=str(path), hint="choose another --out")
    there = {file.name for file in path.iterdir()} if path.is_dir() else set()
    if there - ours:
        raise TableError(
            f"holds other files: {', '.join(sorted(there - ours)[:5])}",
            where=str(path),
            hint="name a folder that is empty or absent",
        )
    if there:
        _refuse_there(path, force)
