"""Embeddings that other programs wrote, part by part, as rows with `filepath` and `embedding`.

======================================  =============================================================================
input                                   read as
======================================  =============================================================================
``.npy``                                one array, rows x dimension; the paths come from a table
``.npz``                                an array of vectors, and one of paths (or a table)
parquet, a file or a folder             a column of vectors, and one of paths or ids (Cosmos Embed, a pandas frame)
a ``.lance`` dataset                    the same (a LanceDB table is one); needs the extra `lance`
a FiftyOne dataset folder               `samples.json`, as FiftyOne exports it: a field with vectors
======================================  =============================================================================

Nothing is unpickled: an array of Python objects is refused.
"""

from __future__ import annotations

import base64
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import MissingDependency, TableError
from lookalike.tables.embedding_table import Parts
from lookalike.tables.image_table import PARQUET_SUFFIXES, read_image_table
from lookalike.tables.vectors import is_vector_type, list_array

#: What other programs call the column of vectors, and that of paths or ids: the first that is there is taken.
_VECTORS = ("embedding", "vector", "embeddings", "vectors")
_IDS = (
    "filepath", "path", "paths", "filepaths", "file_path", "image_path", "file_name", "filename", "image", "uri", "id",
    "ids", "uuid", "clip_uuid", "video_id",
)  # fmt: skip
_ROWS = 8192


@dataclass(frozen=True)
class Names:
    """What the user says of an input; empty: it is looked for.

    Attributes
    ----------
    vectors, ids:
        The column (array, field) of vectors, and that of paths or ids.
    table:
        An image table with the paths, row by row as the vectors.
    """

    vectors: str = ""
    ids: str = ""
    table: str = ""


def read_foreign(given: str, names: Names) -> Iterator[pa.Table]:
    """Read embeddings of another program, some rows at a time.

    Yields
    ------
    pyarrow.Table
        `filepath` (string), `embedding` (a list of numbers), then the other columns.

    Raises
    ------
    TableError
        When it is nothing that is known here, lacks vectors or paths, or their numbers differ.
    """
    place = Path(given)
    if not place.exists():
        raise TableError("does not exist", where=given, hint="check the path; relative paths start where you are")
    suffix = place.suffix.lower()
    if suffix == ".npy":
        yield from _with_table(_array(given), names, given)
    elif suffix == ".npz":
        yield from _of_npz(given, names)
    elif suffix == ".lance":
        yield from _of_lance(given, names)
    elif (place / "samples.json").is_file():
        yield from _of_fiftyone(place / "samples.json", names)
    elif place.is_dir() or suffix in PARQUET_SUFFIXES:
        yield from _of_parquet(given, names)
    else:
        raise TableError(
            "is no kind of embeddings that is known here",
            where=given,
            hint="give .npy, .npz, parquet, a .lance dataset or a FiftyOne dataset folder; tensors: numpy.save(...)",
        )


def _of_parquet(given: str, names: Names) -> Iterator[pa.Table]:
    parts = Parts.open(given)
    schema = parts.schemas[0]
    columns = _chosen(schema, names, given)
    parts.require(*columns)
    try:
        for file in parts.files:
            with pq.ParquetFile(file) as reader:
                for batch in reader.iter_batches(_ROWS):
                    yield _renamed(pa.Table.from_batches([batch]), columns, given)
    except (pa.ArrowInvalid, OSError) as error:
        raise TableError(f"cannot be read: {error}", where=given, hint="check that the file is whole") from error


def _of_lance(given: str, names: Names) -> Iterator[pa.Table]:
    try:
        import lance
    except ImportError as error:
        raise MissingDependency.of("pylance", "lance", "to read a Lance dataset") from error
    try:
        dataset = lance.dataset(given)
        columns = _chosen(dataset.schema, names, given)
        for batch in dataset.to_batches(batch_size=_ROWS):
            yield _renamed(pa.Table.from_batches([batch]), columns, given)
    except (OSError, ValueError) as error:
        raise TableError(f"cannot be read: {error}", where=given, hint="check that it is a Lance dataset") from error


def _chosen(schema: pa.Schema, names: Names, given: str) -> tuple[str, str]:
    """The column of vectors and that of paths or ids."""
    lists = [field.name for field in schema if is_vector_type(field.type)]
    vectors = _pick("column of vectors", "--vectors", names.vectors or _usual(_VECTORS, lists), lists, given)
    return vectors, _pick(
        "column of paths or ids", "--ids", names.ids or _usual(_IDS, schema.names), schema.names, given
    )


def _usual(usual: Sequence[str], there: Sequence[str]) -> str:
    """The first usual name that is there, or the only one that is; nothing where that does not tell."""
    return next((name for name in usual if name in there), there[0] if len(there) == 1 else "")


def _pick(what: str, option: str, wanted: str, there: Sequence[str], given: str) -> str:
    """A name that is there, or an error that says which are."""
    if wanted in there:
        return wanted
    raise TableError(
        f"has no {what} {wanted!r}" if wanted else f"does not say which is its {what}",
        where=given,
        hint=f"name it with {option}; there is {', '.join(there) or 'none'}",
    )


def _renamed(table: pa.Table, columns: tuple[str, str], given: str) -> pa.Table:
    """The table with its paths and vectors first, under our names."""
    vectors, ids = columns
    ours = ("filepath", "embedding")
    lost = [name for name in ours if name in table.column_names and name not in columns]
    rest = table.drop_columns([vectors, ids, *lost])
    paths = table.column(ids)
    try:
        paths = paths.cast(pa.string())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TableError(f"column {ids!r} holds {paths.type}, not paths or ids", where=given) from error
    return _put(paths, table.column(vectors), rest)


def _put(paths: pa.ChunkedArray, vectors: pa.ChunkedArray | pa.Array, rest: pa.Table) -> pa.Table:
    """A table of paths, vectors, and the other columns."""
    return pa.table([paths, vectors, *rest.columns], names=["filepath", "embedding", *rest.column_names])


def _array(given: str) -> npt.NDArray[Any]:
    try:
        loaded = np.load(given, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise _unreadable(given, error) from error
    assert isinstance(loaded, np.ndarray)
    return loaded


def _of_npz(given: str, names: Names) -> Iterator[pa.Table]:
    try:
        with np.load(given, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise _unreadable(given, error) from error
    matrices = [name for name, array in arrays.items() if array.ndim == 2]
    vectors = _pick("array of vectors", "--vectors", names.vectors or _usual(_VECTORS, matrices), matrices, given)
    if names.table:
        yield from _with_table(arrays[vectors], names, given)
        return
    lists = [name for name, array in arrays.items() if array.ndim == 1]
    ids = _pick("array of paths or ids", "--ids (or --paths TABLE)", names.ids or _usual(_IDS, lists), lists, given)
    paths = pa.table({"filepath": pa.array([str(value) for value in arrays[ids].tolist()], pa.string())})
    yield from _joined(arrays[vectors], paths, given, ids)


def _with_table(vectors: npt.NDArray[Any], names: Names, given: str) -> Iterator[pa.Table]:
    if not names.table:
        raise TableError(
            "holds vectors without paths",
            where=given,
            hint="give a table or list of the paths, in the order of the vectors: --paths list.txt",
        )
    yield from _joined(vectors, read_image_table(names.table), given, names.table)


def _joined(vectors: npt.NDArray[Any], table: pa.Table, given: str, name: str) -> Iterator[pa.Table]:
    """Vectors beside the rows of a table."""
    if vectors.ndim != 2 or vectors.dtype.kind not in "fiu":
        raise TableError(
            f"holds an array of shape {vectors.shape} and type {vectors.dtype}, not rows of numbers", where=given
        )
    if len(vectors) != table.num_rows:
        raise TableError(
            f"has {len(vectors)} vectors, and {name} has {table.num_rows} rows",
            where=given,
            hint="row by row they must belong together",
        )
    rest = table.drop_columns([one for one in ("filepath", "embedding") if one in table.column_names])
    for first in range(0, len(vectors), _ROWS):
        part = rest.slice(first, _ROWS)
        block = list_array(np.asarray(vectors[first : first + _ROWS], np.float32))
        yield _put(table.column("filepath").slice(first, _ROWS), block, part)


def _of_fiftyone(samples: Path, names: Names) -> Iterator[pa.Table]:
    try:
        listed = json.loads(samples.read_text(encoding="utf-8"))["samples"]
        assert isinstance(listed, list)
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise TableError(
            f"is no list of samples: {error!r}", where=str(samples), hint="export the dataset again"
        ) from error
    fields = [name for sample in listed[:1] for name, value in sample.items() if _vector(value) is not None]
    wanted = names.vectors or _usual(_VECTORS, fields)
    field = _pick("field of vectors", "--vectors", wanted, fields, str(samples))
    place = _media_folder(samples.parent, listed[0]["filepath"])
    for first in range(0, len(listed), _ROWS):
        part = listed[first : first + _ROWS]
        vectors = [_vector(sample.get(field)) for sample in part]
        labels = [_label(sample) for sample in part]
        yield pa.table(
            {
                "filepath": pa.array([place + str(sample["filepath"]) for sample in part], pa.string()),
                "embedding": pa.array(vectors, pa.list_(pa.float32())),
                **({"label": pa.array(labels, pa.string())} if any(labels) else {}),
            }
        )


def _media_folder(folder: Path, first: str) -> str:
    """What stands before the paths of a dataset: its own folder, where it came with its images; else nothing."""
    is_inside = not Path(first).is_absolute() and (folder / first).is_file()
    return f"{folder.as_posix()}/" if is_inside else ""


def _label(sample: Mapping[str, Any]) -> str | None:
    """The label of a sample that has a classification named so."""
    for name in ("label", "ground_truth"):
        value = sample.get(name)
        if isinstance(value, Mapping) and isinstance(value.get("label"), str):
            return str(value["label"])
    return None


def _vector(value: Any) -> Sequence[float] | None:
    """A vector of a sample: a list of numbers, or an array as FiftyOne stores it (base64, zlib, NumPy's format)."""
    if isinstance(value, list) and value and all(isinstance(one, int | float) for one in value):
        return value
    packed = value.get("$binary") if isinstance(value, Mapping) else None
    text = packed.get("base64") if isinstance(packed, Mapping) else packed
    if not isinstance(text, str):
        return None
    try:
        array = np.load(io.BytesIO(zlib.decompress(base64.b64decode(text))), allow_pickle=False)
    except (ValueError, OSError, EOFError, zlib.error):
        return None
    found: list[float] | None = array.tolist() if array.ndim == 1 and array.dtype.kind in "fiu" else None
    return found


def _unreadable(given: str, error: BaseException) -> TableError:
    return TableError(
        f"cannot be read: {error}",
        where=given,
        hint="it must hold plain arrays, as numpy.save and numpy.savez write them; objects are not unpickled",
    )
