"""Image tables: rows with a `filepath` and anything else, from whatever the user has.

======================================  =====================================================
input                                   read as
======================================  =====================================================
``.parquet`` / ``.pq``, or a folder     parquet; a folder's files in the order of their names
``.csv``, ``.tsv``                      comma- or tab-separated, first line holds the names
``.jsonl``, ``.ndjson``                 one JSON object a line
``.txt``, ``.lst``                      one path a line, empty lines and ``#`` comments left out
a folder of images                      every image below it, in the order of their paths
======================================  =====================================================

Any of them may be an fsspec URL (``s3://...``, ``memory://...``).
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, islice
from pathlib import Path, PurePosixPath
from typing import Any, overload

import fsspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from lookalike.errors import MissingDependency, TableError

#: Endings that make a file in a folder an image. A file named in a table may have any ending.
IMAGE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".webp",
        ".gif",
        ".pgm",
        ".ppm",
        ".pbm",
        ".pnm",
        ".jp2",
        ".j2k",
        ".avif",
    ]
)
PARQUET_SUFFIXES = frozenset({".parquet", ".pq"})
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_JSON_SUFFIXES = frozenset({".jsonl", ".ndjson"})
_LIST_SUFFIXES = frozenset({".txt", ".lst"})
#: Columns that are text in CSV, whatever they look like; the last three are those of Visual ChangeNet.
_TEXT_COLUMNS = ("filepath", "label", "input_path", "golden_path", "object_name")
#: Paths that become Python strings at a time when all of them are walked through.
_WALK = 16_384


class Filepaths(Sequence[str]):
    """The `filepath` column of a table as a sequence of strings that are made when they are asked for.

    As Python strings the paths of a large pool would take twice the memory of the table.

    Parameters
    ----------
    table:
        As `read_image_table` returns it.
    """

    def __init__(self, table: pa.Table) -> None:
        self._chunks = [chunk for chunk in table.column("filepath").chunks if len(chunk)]
        self._ends = list(accumulate(map(len, self._chunks)))

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, row: int) -> str: ...
    @overload
    def __getitem__(self, row: slice) -> list[str]: ...
    def __getitem__(self, row: int | slice) -> str | list[str]:
        """Return the path of a row, or a list of the paths of a slice."""
        if isinstance(row, slice):
            return [self[position] for position in range(*row.indices(len(self)))]
        position = row + len(self) if row < 0 else row
        if not 0 <= position < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        chunk = bisect_right(self._ends, position)
        first = self._ends[chunk - 1] if chunk else 0
        path: str = self._chunks[chunk][position - first].as_py()
        return path

    def __iter__(self) -> Iterator[str]:
        """Walk through all paths, a block at a time."""
        for chunk in self._chunks:
            for first in range(0, len(chunk), _WALK):
                yield from chunk.slice(first, _WALK).to_pylist()


def read_image_table(table: Any) -> pa.Table:
    """Read an image table; every row has a `filepath`.

    Parameters
    ----------
    table:
        A path or fsspec URL as in the module's table, a `pyarrow.Table`, or a `pandas.DataFrame`.

    Returns
    -------
    pyarrow.Table
        All columns as they were read; `filepath` as strings, without nulls.

    Raises
    ------
    TableError
        When nothing is there, the format is unknown, the file is damaged, `filepath` is missing, is not
        text, or holds nulls, or no row is left.
    """
    return check_filepath(read_rows(table), name_of(table))


def may_have_more_rows(table: Any, rows: int) -> bool:
    """Whether an image table may have more than some rows: a quick look that reads no table and lists no large folder.

    Parameters
    ----------
    table:
        As in `read_image_table`. What cannot be told quickly may have more.
    rows:
        The limit.
    """
    if isinstance(table, pa.Table) or hasattr(table, "to_parquet"):
        return len(table) > rows
    path = Path(table)
    try:
        if path.is_dir():
            files = (name for _, _, names in os.walk(path) for name in names)
            return next(islice(files, rows, None), None) is not None or any(
                file.suffix.lower() in PARQUET_SUFFIXES for file in path.iterdir()
            )
        if path.suffix.lower() in PARQUET_SUFFIXES:
            return bool(pq.read_metadata(path).num_rows > rows)
        return path.stat().st_size > 2 * rows  # a path has a letter, and a line its end
    except (OSError, ValueError, pa.ArrowInvalid):
        return "://" in str(table)


def name_of(table: Any) -> str:
    """What messages call a table: its path, or what it is."""
    if isinstance(table, pa.Table):
        return "the given table"
    return "the given DataFrame" if hasattr(table, "to_parquet") else str(table)


def read_rows(table: Any) -> pa.Table:
    """Read a table as `read_image_table` does, with whatever columns it has and however many rows.

    Raises
    ------
    TableError
        When nothing is there, the format is unknown or the file is damaged.
    """
    if isinstance(table, pa.Table):
        read = table
    elif hasattr(table, "to_parquet"):
        read = pa.Table.from_pandas(table, preserve_index=False)
    else:
        read = _read(str(table))
    return _without_pandas_index(read)


def check_filepath(table: pa.Table, name: str) -> pa.Table:
    """Check the `filepath` column and return the table with it as strings."""
    twice = sorted({column for column in table.column_names if table.column_names.count(column) > 1})
    if twice:
        raise TableError(f"has columns of the same name: {twice}", where=name, hint="rename them")
    if "filepath" not in table.column_names:
        raise TableError(
            f"has no column 'filepath'; its columns are {table.column_names}",
            where=name,
            hint="rename the column that holds the image paths to 'filepath'",
        )
    if table.num_rows == 0:
        raise TableError("has no rows", where=name, hint="check how the table was made")
    index = table.column_names.index("filepath")
    column = table.column(index)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type) or column.null_count:
        rows = [row for row, valid in enumerate(column.is_valid().to_pylist()) if not valid]
        raise null_filepaths(len(rows), rows, name)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise TableError(f"column 'filepath' holds {column.type}, not text", where=name, hint="store paths as text")
    return table.set_column(index, "filepath", column.cast(pa.string()))


def null_filepaths(count: int, rows: list[int], name: str) -> TableError:
    """The error of a table that has rows without a path; the first few of them are named."""
    return TableError(
        f"column 'filepath' has {count} nulls, first in rows {rows[:5]} (counted from 0)",
        where=name,
        hint="give every row a path, or remove those rows",
    )


def _read(name: str) -> pa.Table:
    """Read by what the path is: a folder, or a file of a known ending."""
    try:
        filesystem, path = fsspec.core.url_to_fs(name)
    except ImportError as error:
        raise MissingDependency(f"{name}: {error}", hint="install the package that it names") from error
    except ValueError as error:
        raise TableError(f"cannot be opened: {error}", where=name) from error
    if filesystem.isdir(path):
        return _read_folder(filesystem, path, name)
    suffix = PurePosixPath(path).suffix.lower()
    if not filesystem.exists(path):
        raise TableError("does not exist", where=name, hint="check the path; relative paths start where you are")
    try:
        if suffix in PARQUET_SUFFIXES:
            return pq.read_table(path, filesystem=filesystem)
        if suffix in _DELIMITERS:
            return _read_delimited(filesystem, path, _DELIMITERS[suffix])
        if suffix in _JSON_SUFFIXES:
            return _read_json(filesystem, path)
        if suffix in _LIST_SUFFIXES:
            return _read_list(filesystem, path)
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeDecodeError, OSError) as error:
        raise TableError(f"cannot be read: {error}", where=name, hint="check that the file is whole") from error
    known = sorted({*PARQUET_SUFFIXES, *_DELIMITERS, *_JSON_SUFFIXES, *_LIST_SUFFIXES})
    raise TableError(f"unknown kind of table {suffix!r}", where=name, hint=f"use one of {known} or a folder")


def _read_delimited(filesystem: Any, path: str, delimiter: str) -> pa.Table:
    """Read CSV or TSV; paths and labels stay text even where they look like numbers (`01` is not `1`)."""
    texts = dict.fromkeys(_TEXT_COLUMNS, pa.string())
    convert = pyarrow.csv.ConvertOptions(column_types=texts, strings_can_be_null=False)
    with filesystem.open(path, "rb") as stream:
        return pyarrow.csv.read_csv(
            stream, parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter), convert_options=convert
        )


def _read_json(filesystem: Any, path: str) -> pa.Table:
    """Read JSON Lines; a string stays one where Arrow would take it for a date."""
    with filesystem.open(path, "rb") as stream:
        table = pyarrow.json.read_json(stream)
    texts = [pa.field(field.name, pa.string()) for field in table.schema if pa.types.is_timestamp(field.type)]
    if not texts:
        return table
    options = pyarrow.json.ParseOptions(explicit_schema=pa.schema(texts))
    with filesystem.open(path, "rb") as stream:
        return pyarrow.json.read_json(stream, parse_options=options).select(table.column_names)


def _read_list(filesystem: Any, path: str) -> pa.Table:
    """Read a text file of paths."""
    with filesystem.open(path, "rt", encoding="utf-8-sig") as stream:
        lines = [line.strip() for line in stream]
    return pa.table({"filepath": pa.array([line for line in lines if line and line[0] != "#"], pa.string())})


def _read_folder(filesystem: Any, path: str, name: str) -> pa.Table:
    """Read a folder: its parquet files where it has any, otherwise the images below it."""
    files = sorted(found for found in filesystem.find(path) if not _hidden(found, path))
    tables = [file for file in files if PurePosixPath(file).suffix.lower() in PARQUET_SUFFIXES]
    if tables:
        try:
            parts = [pq.read_table(file, filesystem=filesystem) for file in tables]
            return pa.concat_tables(parts, promote_options="permissive")
        except (pa.ArrowInvalid, pa.ArrowTypeError, OSError) as error:
            raise TableError(
                f"its {len(tables)} parquet files cannot be read as one table: {error}",
                where=name,
                hint="give the files the same columns, or name one file",
            ) from error
    images = [file for file in files if PurePosixPath(file).suffix.lower() in IMAGE_SUFFIXES]
    if not images:
        raise TableError("the folder holds no parquet file and no image", where=name, hint="name another folder")
    local = "file" in filesystem.protocol if isinstance(filesystem.protocol, tuple) else filesystem.protocol == "file"
    # A name that is no UTF-8 cannot stand in a table; it is written with replacement marks, and found missing later.
    names = images if local else [filesystem.unstrip_protocol(file) for file in images]
    paths = [file.encode("utf-8", "replace").decode() for file in names]
    return pa.table({"filepath": pa.array(paths, pa.string())})


def _hidden(file: str, folder: str) -> bool:
    """Whether a file, or a folder on the way to it, has a name that begins with a dot."""
    return any(part.startswith(".") for part in PurePosixPath(file).relative_to(folder).parts)


def _without_pandas_index(table: pa.Table) -> pa.Table:
    """Drop pandas' unnamed index columns and its metadata: both describe rows that are about to change."""
    unnamed = [column for column in table.column_names if re.fullmatch(r"__index_level_\d+__", column)]
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"pandas"}
    return table.drop_columns(unnamed).replace_schema_metadata(metadata or None)
