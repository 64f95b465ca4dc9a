"""Which rows of the pool are barred by a list of paths, and where such a list comes from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import TableError
from lookalike.tables.embedding_table import Parts
from lookalike.tables.filepaths import base_name, normal_path, normal_paths
from lookalike.tables.history import require_intact
from lookalike.tables.image_table import PARQUET_SUFFIXES, Filepaths, read_image_table

Mask = npt.NDArray[np.bool_]

#: The result of an earlier `tmm unique_neighbor_matching` in its output folder.
FINAL = "final_unique_files.parquet"


class Barred:
    """Tells which paths of a pool are excluded.

    Parameters
    ----------
    excluded:
        Paths; two spellings of a path are one.
    by:
        ``path``, or ``basename``: the file name alone, in any folder.
    """

    def __init__(self, excluded: Collection[str], by: str = "path") -> None:
        self._by_name = by == "basename"
        keys = map(base_name if self._by_name else normal_path, excluded)
        self._keys = pa.array(sorted(set(keys)), pa.string())

    def __call__(self, paths: pa.Array) -> Mask:
        """Per path, whether it is excluded; `paths` are strings, without nulls."""
        own = pc.replace_substring_regex(paths, r"^.*[/\\]", "") if self._by_name else normal_paths(paths)
        mask: Mask = pc.is_in(own, self._keys).to_numpy(zero_copy_only=False)
        return mask


def read_excluded(path: str, column: str) -> list[str]:
    """The paths of what is not wanted.

    Parameters
    ----------
    path:
        A parquet file or a folder of them, the output folder of an earlier run, any image table, or a ledger
        (`*.json`).
    column:
        The column of the paths in a parquet file; `filepath` where it has none of that name.

    Raises
    ------
    TableError
        When nothing is there, it has no paths, or the ledger does not agree with its files.
    """
    place = Path(path)
    if place.suffix.lower() == ".json":
        return require_intact(place).selected
    if (place / FINAL).is_file():
        place = place / FINAL
    if not _is_parquet(place):
        return list(Filepaths(read_image_table(path)))
    parts = Parts.open(str(place))  # an earlier result may have no rows, and a column of another name
    name = column if all(column in schema.names for schema in parts.schemas) else "filepath"
    for file, schema in zip(parts.files, parts.schemas, strict=True):
        if name not in schema.names:
            raise TableError(
                f"has no column {column!r} and no column 'filepath'; its columns are {schema.names}",
                where=str(file),
                hint="name a table whose column of paths is one of them",
            )
    return [str(value) for value in parts.read((name,)).column(name).to_pylist() if value is not None]


def _is_parquet(place: Path) -> bool:
    """Whether a path is a parquet file, or a folder that holds one."""
    files = place.iterdir() if place.is_dir() else [place]
    return any(file.suffix.lower() in PARQUET_SUFFIXES and file.is_file() for file in files)
