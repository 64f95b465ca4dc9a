"""Boxes: a part of an image file as an image of its own, without cutting files.

A box is written behind the path of its file, as a media fragment (W3C, "Media Fragments URI 1.0", 4.2.2)::

    boards/0017.jpg#xywh=640,480,224,224

That is 224 x 224 pixels, whose first is 640 from the left and 480 from the top. So a box is an image under a path of
its own wherever images are told apart by their paths: in tables, the cache, lists of what is not wanted, a ledger.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lookalike.errors import TableError

_MARK = "#xywh="
_BOX = re.compile(r"#xywh=(-?\d+),(-?\d+),(-?\d+),(-?\d+)$")
#: Rows that a message names.
_SHOWN = 5


class Box(NamedTuple):
    """A part of an image, in pixels from its left upper corner."""

    x: int
    y: int
    width: int
    height: int

    @property
    def corners(self) -> tuple[int, int, int, int]:
        """Left, top, right and bottom, as Pillow takes them."""
        return self.x, self.y, self.x + self.width, self.y + self.height

    def is_inside(self, width: int, height: int) -> bool:
        """Whether it has pixels, and all of them are those of an image of some size."""
        return (
            min(self.x, self.y) >= 0
            and min(self.width, self.height) > 0
            and self.x + self.width <= width
            and self.y + self.height <= height
        )

    def __str__(self) -> str:
        """As a path holds it, without the mark."""
        return ",".join(map(str, self))


def split_box(path: str) -> tuple[str, Box | None]:
    """The file of a path, and its box; None for the whole image.

    >>> split_box("a.png#xywh=1,2,3,4")
    ('a.png', Box(x=1, y=2, width=3, height=4))
    >>> split_box("b#3.png")
    ('b#3.png', None)
    """
    if _MARK not in path:  # nearly always, and much quicker
        return path, None
    found = _BOX.search(path)
    if found is None:
        return path, None
    return path[: found.start()], Box(*map(int, found.groups()))


def overlap(one: Box | None, two: Box | None) -> bool:
    """Whether two parts of one file have pixels in common; None is the whole file."""
    if one is None or two is None:
        return True
    left, top, right, bottom = one.corners
    x, y, end, foot = two.corners
    return left < end and x < right and top < foot and y < bottom


def files_of(paths: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The paths of a column without their boxes."""
    return pc.replace_substring_regex(paths, _BOX.pattern, "")


def has_boxes(paths: pa.Array | pa.ChunkedArray) -> bool:
    """Whether any path of a column has a box."""
    return bool(pc.any(pc.match_substring_regex(paths, _BOX.pattern)).as_py())


def with_boxes(table: pa.Table, columns: tuple[str, ...], name: str) -> pa.Table:
    """The table with the boxes of its columns in the paths.

    A row whose four values are null is the whole image. A path that has the same box already stays as it is.

    Parameters
    ----------
    table:
        With a column `filepath` of strings.
    columns:
        Where left, top, width and height are, in pixels; they stay.
    name:
        Of the table, for messages.

    Raises
    ------
    TableError
        When a column is missing or holds anything but whole numbers, or a path has another box already.
    """
    values = [_whole_numbers(table, column, name) for column in columns]
    null = [value.is_null() for value in values]
    some, every = null[0], null[0]
    for one in null[1:]:
        some, every = pc.or_(some, one), pc.and_(every, one)
    _refuse(table, pc.and_not(some, every), name, f"have some of {', '.join(columns)} and not all", "give all or none")
    paths = table.column("filepath")
    files = files_of(paths)
    texts = [value.cast(pa.string()) for value in values]
    boxed = pc.binary_join_element_wise(files, pc.binary_join_element_wise(*texts, ","), _MARK)
    changed = pc.if_else(every, paths, boxed)
    had = pc.and_(pc.not_equal(paths, files), pc.not_equal(paths, changed))
    _refuse(table, had, name, "have another box in their path", "leave crop out, or take the box out of the path")
    return table.set_column(table.column_names.index("filepath"), "filepath", changed)


def _whole_numbers(table: pa.Table, column: str, name: str) -> pa.ChunkedArray:
    """A column as whole numbers; a float that is one will do."""
    if column not in table.column_names:
        raise TableError(
            f"has no column {column!r}; its columns are {table.column_names}",
            where=name,
            hint="crop=true takes the boxes from the columns x, y, w, h; crop=A,B,C,D names others",
        )
    values = table.column(column)
    try:
        return values.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TableError(
            f"its column {column!r} ({values.type}) does not hold whole numbers: {error}",
            where=name,
            hint="a box is counted in whole pixels: round its edges first",
        ) from error


def _refuse(table: pa.Table, wrong: pa.ChunkedArray, name: str, what: str, hint: str) -> None:
    """Refuse a table that has rows that are wrong; the first are named."""
    if not pc.any(wrong).as_py():
        return
    paths = table.filter(wrong).column("filepath")
    raise TableError(f"{len(paths)} rows {what}, the first: {paths[:_SHOWN].to_pylist()}", where=name, hint=hint)
