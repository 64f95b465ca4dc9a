"""Which rows of the pool are barred by a list of paths, and where such a list comes from."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.tables.boxes import files_of, has_boxes
from lookalike.tables.changenet import Layout, is_changenet, to_image_table
from lookalike.tables.embedding_table import Parts
from lookalike.tables.filepaths import distinct, full_paths
from lookalike.tables.history import require_intact
from lookalike.tables.image_table import PARQUET_SUFFIXES, Filepaths, check_filepath, read_rows
from lookalike.tables.run_folder import RunFolder
from lookalike.workflow.run_state import is_unfinished

Mask = npt.NDArray[np.bool_]

#: The result of an earlier `tmm unique_neighbor_matching` in its output folder.
FINAL = "final_unique_files.parquet"
#: Where `lookalike mine` puts its runs.
RESULTS = "mining_results"


class Barred:
    """Tells which paths of a pool are excluded.

    Parameters
    ----------
    excluded:
        Paths; two spellings of a path are one, and so are a relative and an absolute one of a file.
    by:
        ``path``, or ``basename``: the file name alone, in any folder.
    parts:
        Whether a file is excluded with all its boxes. Targets exclude only themselves.
    root:
        Where relative paths start: a folder or a URL; "": the working directory.
    """

    def __init__(self, excluded: Collection[str], by: str = "path", *, parts: bool = True, root: str = "") -> None:
        self._by_name, self._parts = by == "basename", parts
        self._base = root if "://" in root else str(Path(root).absolute())
        self._keys = self._key(pa.array(list(excluded), pa.string())).unique()

    def __call__(self, paths: pa.Array) -> Mask:
        """Per path, whether it is excluded; `paths` are strings, without nulls."""
        own = self._key(paths)
        mask: Mask = pc.is_in(own, self._keys).to_numpy(zero_copy_only=False)
        if self._parts and has_boxes(own):
            mask |= pc.is_in(files_of(own), self._keys).to_numpy(zero_copy_only=False)
        return mask

    def _key(self, paths: pa.Array) -> pa.Array:
        """What two paths of one image have in common."""
        paths = paths.cast(pa.string())
        if self._by_name:
            return pc.replace_substring_regex(paths, r"^.*[/\\]", "")
        return full_paths(paths, self._base)


def read_excluded(path: str, column: str, layout: Layout | None = None) -> list[str]:
    """The paths of what is not wanted.

    Parameters
    ----------
    path:
        A parquet file or a folder of them, the output folder of an earlier `tmm unique_neighbor_matching`, the run
        folder of an earlier `lookalike mine` or the folder that holds several, any image table, or a ledger (`*.json`).
    column:
        The column of the paths in a parquet file; `filepath` where it has none of that name.
    layout:
        Where the images of a Visual ChangeNet table are; None: it is refused for its lack of paths.

    Raises
    ------
    TableError
        When nothing is there, it has no paths, the ledger does not agree with its files, or a run is not finished.
    """
    place = Path(path)
    runs = _runs_in(place)
    if runs:
        return [mined for run in runs for mined in _read_mined(run)]
    if place.suffix.lower() == ".json":
        return require_intact(place).selected
    if (place / FINAL).is_file():
        place = place / FINAL
    if not _is_parquet(place):
        rows = read_rows(path)
        if layout is not None and is_changenet(rows):
            rows = to_image_table(rows, path, layout)
        return list(Filepaths(check_filepath(rows, path)))
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


def split_sources(given: Any) -> list[Any]:
    """Several inputs from one setting.

    Parameters
    ----------
    given:
        A text with commas between paths (one that is a path with a comma in it is one input), a list, or one table.
    """
    if isinstance(given, str):
        parts = [given] if Path(given).exists() else given.split(",")
        return [part.strip() for part in parts if part.strip()]
    return list(given) if isinstance(given, list | tuple) else [given]


def read_all_excluded(given: Any, column: str, layout: Layout | None = None) -> list[str]:
    """The paths of all that is not wanted, each once, from several sources.

    Parameters
    ----------
    given:
        Sources as `read_excluded` takes them, as `split_sources` takes several.
    column, layout:
        As `read_excluded` takes them.

    Raises
    ------
    TableError
        As `read_excluded`.
    """
    return distinct(path for one in split_sources(given) for path in read_excluded(str(one), column, layout))


def _runs_in(place: Path) -> list[RunFolder]:
    """The runs of `lookalike mine` that a folder is, or holds: they have tables that are not what was mined."""
    if not place.is_dir():
        return []
    if _is_run(RunFolder(place)):
        return [RunFolder(place)]
    if (place / RESULTS).is_dir():
        raise TableError(
            f"holds {RESULTS}, so that it is not clear what of it is not wanted",
            where=str(place),
            hint=f"name {place / RESULTS} for what was mined before, or the table or folder of the images",
        )
    runs = [RunFolder(one) for one in sorted(place.iterdir()) if one.is_dir()]
    return [run for run in runs if _is_run(run)]


def _is_run(folder: RunFolder) -> bool:
    return folder.record.is_file() or is_unfinished(folder)


def _read_mined(folder: RunFolder) -> list[str]:
    """What a run mined."""
    if not folder.mined.is_file() or is_unfinished(folder):
        raise TableError(
            "is a run that did not finish, so that what it mined is not known",
            where=str(folder.path),
            hint=f"finish it with: lookalike mine --resume {folder.path}, or remove it",
        )
    return [str(path) for path in pq.read_table(folder.mined, columns=["filepath"]).column(0).to_pylist()]


def _is_parquet(place: Path) -> bool:
    """Whether a path is a parquet file, or a folder that holds one."""
    files = place.iterdir() if place.is_dir() else [place]
    return any(file.suffix.lower() in PARQUET_SUFFIXES and file.is_file() for file in files)
