"""The tables of a run: readable, with the columns and types that their readers expect, written by one encoder."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.encoders.identity import EncoderIdentity, mismatches
from lookalike.errors import TableError
from lookalike.tables.embedding_table import METADATA_KEY, key_of
from lookalike.tables.pair_table import SCHEMA, sibling
from lookalike.tables.run_folder import InputRecord, RunFolder, RunRecord
from lookalike.tables.vectors import is_vector_type
from lookalike.workflow.checks.finding import Finding, Rule, error, some, warning

#: Vectors of each embedding table that are looked at.
_VECTORS = 256
#: What a damaged parquet file, or one that is no parquet at all, can raise.
READ_ERRORS = (pa.ArrowException, OSError, ValueError)
_SAME_ENCODER = "embed both sides with one encoder, then mine again"
_PERSONS_WORD = "make sure that one encoder wrote both tables, or embed both with lookalike"


@dataclass(frozen=True)
class Shape:
    """What the footer of a parquet file says."""

    path: Path
    rows: int
    schema: pa.Schema


@dataclass(frozen=True)
class Shapes:
    """The tables of a run; None for one that is missing, cannot be read, or lacks a column that it must have."""

    targets: Shape | None
    pool: Shape | None
    mined: Shape | None
    pairs: Shape | None


def check_tables(folder: RunFolder, columns: tuple[str, str]) -> tuple[Shapes, list[Finding]]:
    """Read the footers of all tables and check their columns.

    Parameters
    ----------
    folder:
        The run.
    columns:
        Names of the embedding columns: targets, pool.
    """
    findings: list[Finding] = []
    shapes = []
    for path, column in (
        (folder.targets, columns[0]),
        (folder.pool, columns[1]),
        (folder.mined, ""),
        (folder.pairs, ""),
    ):
        shape = _shape(path, findings) if path.is_file() else None  # missing: the files' own check tells it
        if shape:
            wrong = list(_check_columns(shape, folder, column))
            findings += wrong
            shape = None if wrong else shape
        shapes.append(shape)
    return Shapes(*shapes), findings


def _shape(path: Path, findings: list[Finding]) -> Shape | None:
    """Read the footer of a parquet file."""
    try:
        with pq.ParquetFile(path) as file:
            return Shape(path, file.metadata.num_rows, file.schema_arrow)
    except READ_ERRORS as problem:
        message = f"is no readable parquet table: {_one_line(problem)}"
        findings.append(error(Rule.TABLE, message, path.name, "copy the file again, or mine again"))
        return None


def _check_columns(shape: Shape, folder: RunFolder, vectors: str) -> Iterator[Finding]:
    """The columns of one table."""
    schema, name = shape.schema, shape.path.name
    if shape.path == folder.pairs:
        missing = [field.name for field in SCHEMA if field.name not in schema.names]
        if missing:
            yield error(Rule.TABLE, f"has no column {some(missing)}", name, "mine again")
        for field in SCHEMA:
            if field.name in schema.names and not _alike(schema.field(field.name).type, field.type):
                found = schema.field(field.name).type
                yield error(Rule.TABLE, f"column {field.name!r} is {found}, not {field.type}", name, "mine again")
        return
    if shape.path == folder.mined and schema.names != ["filepath"]:
        hint = "readers expect one column `filepath`; put what belongs to a pair into another table"
        yield error(Rule.TABLE, f"has the columns {schema.names}, not ['filepath']", name, hint)
    elif "filepath" not in schema.names and not (shape.path == folder.targets and key_of(schema.names) == "text"):
        yield error(Rule.TABLE, f"has no column 'filepath'; its columns are {schema.names}", name)
    if "filepath" in schema.names and not _is_text(schema.field("filepath").type):
        found = schema.field("filepath").type
        yield error(Rule.TABLE, f"column 'filepath' is {found}, not text", name, "store paths as text")
    if vectors and vectors not in schema.names:
        yield error(Rule.TABLE, f"has no column {vectors!r}; its columns are {schema.names}", name, "embed again")
    elif vectors and not is_vector_type(schema.field(vectors).type):
        found = schema.field(vectors).type
        yield error(Rule.TABLE, f"column {vectors!r} is {found}, not a list of numbers", name, "embed again")


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _alike(found: pa.DataType, expected: pa.DataType) -> bool:
    """Whether a column can be read as the type: long strings and other dictionary indices make no difference."""
    if pa.types.is_dictionary(found):
        found = found.value_type
    if pa.types.is_dictionary(expected):
        expected = expected.value_type
    return bool(found == expected or (_is_text(found) and _is_text(expected)))


def check_vectors(shapes: Shapes, columns: tuple[str, str]) -> Iterator[Finding]:
    """The first vectors of both embedding tables: one length, no nulls, finite; the length that the encoder makes."""
    lengths: dict[str, int] = {}
    for shape, column in ((shapes.targets, columns[0]), (shapes.pool, columns[1])):
        if shape is None or not shape.rows:
            continue
        name = shape.path.name
        try:
            array = _first_rows(shape.path, column)
        except READ_ERRORS as problem:
            yield error(Rule.TABLE, f"column {column!r} cannot be read: {_one_line(problem)}", name, "embed again")
            continue
        vectors = array.drop_null()
        sizes = {len(one) for one in vectors}
        values = np.asarray(vectors.flatten().to_numpy(zero_copy_only=False), np.float64)  # an inner null becomes NaN
        if array.null_count or not np.isfinite(values).all():
            message = f"nulls, NaN or infinities are among the first {len(array)} vectors of {column!r}"
            yield error(Rule.VECTORS, message, name, "embed again; such an image should have been set aside")
        if len(sizes) != 1:
            if sizes:
                yield error(Rule.VECTORS, f"vectors of {column!r} have {sorted(sizes)[:5]} values", name, "embed again")
            continue
        lengths[name] = sizes.pop()
        identity = _identity(shape)
        if isinstance(identity, EncoderIdentity) and identity.model.dimension != lengths[name]:
            message = f"has {lengths[name]} values a vector, and its encoder makes {identity.model.dimension}"
            yield error(Rule.VECTORS, message, name, "embed again")
    if len(set(lengths.values())) > 1:
        message = " and ".join(f"{size} values a vector in {name}" for name, size in lengths.items())
        yield error(Rule.VECTORS, message, " and ".join(lengths), _SAME_ENCODER)


def _first_rows(path: Path, column: str) -> pa.Array:
    """The first values of a column, whatever the size of the file."""
    with pq.ParquetFile(path) as file:
        batch = next(file.iter_batches(batch_size=_VECTORS, columns=[column]))
        return batch.column(0)


def check_encoders(shapes: Shapes, record: RunRecord | None) -> Iterator[Finding]:
    """One encoder wrote both tables, and the record says which."""
    sides = [(shape, side) for shape, side in ((shapes.targets, "targets"), (shapes.pool, "pool")) if shape]
    known: list[EncoderIdentity] = []
    unknown = []
    for shape, side in sides:
        identity = _identity(shape)
        if isinstance(identity, TableError):
            yield error(Rule.ENCODER, identity.what, shape.path.name, identity.hint)
        elif identity is None:
            unknown.append(shape.path.name)
        else:
            known.append(identity)
            if record:
                yield from _check_recorded(identity, getattr(record, side), shape.path.name, side)
    if unknown and record:  # of a run made elsewhere, one finding says it all
        message = "does not say which encoder wrote it, so that it is the same for both tables is not known"
        yield warning(Rule.ENCODER, message, " and ".join(unknown), _PERSONS_WORD)
    if len(known) == 2:
        model, numerics = mismatches(*known)
        where = " and ".join(shape.path.name for shape, _ in sides)
        if model:
            message = f"were written by different encoders; they differ in {', '.join(model)}"
            yield error(Rule.ENCODER, message, where, _SAME_ENCODER)
        elif numerics:
            message = f"were computed with different {', '.join(numerics)}: distances differ by rounding"
            yield warning(Rule.ENCODER, message, where)


def _identity(shape: Shape) -> EncoderIdentity | TableError | None:
    """The encoder identity of a table; the error where it is damaged, None where there is none."""
    content = (shape.schema.metadata or {}).get(METADATA_KEY)
    if not content:
        return None
    try:
        return EncoderIdentity.from_json(content.decode(errors="replace"), shape.path.name)
    except TableError as problem:
        return problem


def _check_recorded(identity: EncoderIdentity, side: InputRecord, name: str, side_name: str) -> Iterator[Finding]:
    """The record's identity of one side is that of its table."""
    recorded = (side.identity or {}).get("fingerprint")
    if recorded != identity.fingerprint:
        said = f"fingerprint {str(recorded)[:12]}" if recorded else "no encoder"
        message = f"was written by the encoder {identity.fingerprint[:12]}, and run.json has {said} for the {side_name}"
        yield error(Rule.ENCODER, message, name, "the table is not the one of this run: mine again")


def check_rows(folder: RunFolder, shapes: Shapes, record: RunRecord) -> Iterator[Finding]:
    """Rows and labels of both sides against the record, and the tables of what was set aside."""
    for name, side, shape in (("targets", record.targets, shapes.targets), ("pool", record.pool, shapes.pool)):
        aside = sum(side.quarantined.values())
        if side.rows != side.embedded + aside:
            message = f"{name}: {side.rows} input rows are not {side.embedded} embedded and {aside} set aside"
            yield error(Rule.COUNTS, message, folder.record.name)
        if shape is None:
            continue
        if shape.rows != side.embedded:
            message = f"has {shape.rows} rows, and run.json has {side.embedded} embedded {name}"
            yield error(Rule.COUNTS, message, shape.path.name, "the table is not the one of this run: mine again")
        if ("label" in shape.schema.names) != side.has_label:
            has = "has" if "label" in shape.schema.names else "has no"
            message = f"{has} column 'label', and run.json says otherwise"
            yield error(Rule.RECORD, message, shape.path.name, "the table is not the one of this run: mine again")
        if aside:
            yield from _check_quarantine(sibling(shape.path, "_quarantine"), aside)


def _check_quarantine(path: Path, expected: int) -> Iterator[Finding]:
    """The table of what was set aside has as many rows as the record says."""
    if not path.is_file():
        yield error(Rule.ARTIFACT, f"is missing, and {expected} images were set aside", path.name)
        return
    findings: list[Finding] = []
    shape = _shape(path, findings)
    yield from findings
    if shape and shape.rows != expected:
        yield error(Rule.COUNTS, f"has {shape.rows} rows, and run.json has {expected} set aside", path.name)


def _one_line(problem: Exception) -> str:
    """The beginning of a message, without its line ends."""
    return " ".join(str(problem).split())[:200]


def embedding_columns(settings: dict[str, Any]) -> tuple[str, str]:
    """The names of the embedding columns of the targets and the pool."""
    from lookalike.config.schemas import NearestNeighborsConfig as Config

    return (
        str(settings.get("target_embed_column_name") or Config.target_embed_column_name),
        str(settings.get("source_embed_column_name") or Config.source_embed_column_name),
    )
