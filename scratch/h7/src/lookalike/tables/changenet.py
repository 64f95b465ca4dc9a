"""Visual ChangeNet tables: rows that name an image by its folder, its component and its lighting.

The columns are `input_path`, `golden_path`, `label` and `object_name`. The image of a row is
``<images_root>/<input_path>/<object_name>_<light><image_ext>``; in a raw pool, `input_path` may be an image file
itself. Exactly one of the two must exist.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import fsspec
import pyarrow as pa

from lookalike.errors import TableError

#: The columns that tell a Visual ChangeNet table from an image table.
COLUMNS = ("input_path", "golden_path", "label", "object_name")
#: Rows that a message names.
_SHOWN = 5


@dataclass(frozen=True)
class Layout:
    """Where the images of a Visual ChangeNet table are.

    Attributes
    ----------
    images_root:
        The folder or URL that `input_path` starts in; empty: the working directory.
    light, image_ext:
        The lighting and the ending of the file names.
    root:
        Where relative paths start when images are read (the setting `root`).
    """

    images_root: str
    light: str
    image_ext: str
    root: str = ""


def is_changenet(table: pa.Table) -> bool:
    """Whether a table has the columns of Visual ChangeNet, and no `filepath` of its own."""
    return "filepath" not in table.column_names and set(COLUMNS) <= set(table.column_names)


def to_image_table(table: pa.Table, name: str, layout: Layout) -> pa.Table:
    """Give every row of a Visual ChangeNet table the path of its image; all columns are carried.

    Parameters
    ----------
    table:
        With `COLUMNS`.
    name:
        For messages.
    layout:
        Where the images are.

    Raises
    ------
    TableError
        When a row has no existing file, or two; names the first such rows.
    """
    exists = file_finder(layout)
    paths: list[str] = []
    bad: list[str] = []
    columns = (table.column(column).to_pylist() for column in ("input_path", "object_name"))
    for row, (folder, component) in enumerate(zip(*columns, strict=True)):
        candidates = list(candidates_of(folder, component, layout))
        found = [path for path in candidates if exists(path)]
        if len(found) == 1:
            paths.append(found[0])
        else:
            bad.append(f"row {row}: {_why(candidates, found)}")
    if bad:
        more = f"; and {len(bad) - _SHOWN} more" if len(bad) > _SHOWN else ""
        raise TableError(
            f"{len(bad)} of {table.num_rows} rows of this Visual ChangeNet table do not have exactly one image "
            f"(rows from 0):\n    " + "\n    ".join(bad[:_SHOWN]) + more,
            where=name,
            hint=f"check images_root={layout.images_root!r}, light={layout.light!r}, image_ext={layout.image_ext!r}",
        )
    return table.add_column(0, pa.field("filepath", pa.string()), pa.array(paths, pa.string()))


def candidates_of(folder: object, component: object, layout: Layout) -> Iterator[str]:
    """The paths that the image of a row may have.

    Parameters
    ----------
    folder, component:
        Its `input_path` (or `golden_path`) and its `object_name`.
    layout:
        Where the images are.
    """
    if folder in (None, ""):
        return
    place = join_path(layout.images_root, str(folder))
    if component not in (None, ""):
        yield join_path(place, f"{component}_{layout.light}{layout.image_ext}")
    yield place


def _why(candidates: list[str], found: list[str]) -> str:
    if found:
        return f"there are {len(found)} files: {', '.join(found)}"
    return f"no file {candidates[0]}" if candidates else "input_path is empty"


def join_path(root: str, path: str) -> str:
    """A path below a folder or a URL; an absolute one stands for itself."""
    if not root or "://" in path:
        return path
    return f"{root.rstrip('/')}/{path.lstrip('/')}" if "://" in root else os.path.join(root, path)  # noqa: PTH118


def file_finder(layout: Layout) -> Callable[[str], bool]:
    """What tells whether a path is a file, local or not."""

    def exists(path: str) -> bool:
        path = join_path(layout.root, path)
        if "://" not in path:
            return os.path.isfile(path)  # noqa: PTH113 - a Path for each row is slow, and there may be millions
        filesystem, place = fsspec.core.url_to_fs(path)
        return bool(filesystem.isfile(place))

    return exists
