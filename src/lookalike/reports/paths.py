"""The paths of the mined table: whether files are there, and how the paths are written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.tables.boxes import split_box
from lookalike.tables.run_folder import RunFolder

#: Paths that are looked up on the disk.
_FIRST = 5
#: How an absolute path or a URL begins.
_ABSOLUTE = r"^(?:/|\\\\|[A-Za-z]:[\\/]|[A-Za-z][A-Za-z0-9+.\-]*://)"


@dataclass(frozen=True)
class PathFacts:
    """The paths of the mined table.

    Attributes
    ----------
    schema:
        The table's columns and types.
    first:
        The first paths, and whether each is on the disk; None for a URL, which is not looked up.
    not_ascii, blanks, relative:
        How many paths have letters beyond ASCII, hold blanks, or are relative.
    utf8:
        Whether all of them are valid UTF-8.
    """

    schema: str
    first: list[tuple[str, bool | None]]
    not_ascii: int
    blanks: int
    relative: int
    utf8: bool

    @property
    def missing(self) -> int:
        """How many of the first paths are not on the disk."""
        return sum(there is False for _, there in self.first)


def look_at_paths(folder: RunFolder, root: str) -> PathFacts:
    """Look at the paths of the mined table, and look the first of them up on the disk.

    Parameters
    ----------
    folder:
        The run.
    root:
        Where relative paths start; empty for the working directory.

    Raises
    ------
    TableError
        When the table cannot be read.
    """
    first: list[str] = []
    not_ascii = blanks = relative = 0
    utf8 = True
    try:
        with pq.ParquetFile(folder.mined) as reader:
            schema = ", ".join(f"{field.name}: {field.type}" for field in reader.schema_arrow)
            for batch in reader.iter_batches(columns=["filepath"]):
                paths = batch.column(0)
                utf8 = utf8 and _is_utf8(paths)
                first += paths.slice(0, _FIRST - len(first)).to_pylist() if utf8 else []
                not_ascii += len(paths) - (pc.sum(pc.string_is_ascii(paths)).as_py() or 0)
                blanks += pc.sum(pc.match_substring_regex(paths, r"\s")).as_py() or 0
                relative += len(paths) - (pc.sum(pc.match_substring_regex(paths, _ABSOLUTE)).as_py() or 0)
    except (OSError, pa.ArrowInvalid) as error:
        raise TableError(f"cannot be read: {error}", where=str(folder.mined), hint="mine again") from error
    return PathFacts(schema, list(_looked_up(first, root)), not_ascii, blanks, relative, utf8)


def _is_utf8(paths: pa.Array) -> bool:
    """Whether all paths are valid UTF-8; Arrow does not look when it reads."""
    try:
        paths.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _looked_up(paths: list[str], root: str) -> Iterator[tuple[str, bool | None]]:
    """Paths with whether each is a file on the disk; a URL is not looked up."""
    for path in paths:
        local = split_box(path.removeprefix("file://"))[0]
        base = root.removeprefix("file://")
        if "://" in local or ("://" in base and not Path(local).is_absolute()):
            yield path, None
            continue
        try:
            yield path, (Path(base) / local).is_file()
        except (OSError, ValueError):  # a name that no file can have
            yield path, False
