"""Rows of a Visual ChangeNet training table, checked: each has its image, its golden image and its label, once.

Training finds an image as ``<images_root>/<input_path>/<object_name>_<light><image_ext>`` and its golden image in the
same way in `golden_path`. A row of a raw pool, whose `input_path` is an image file, is brought into this form where the
name of the file allows it.
"""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from lookalike.errors import TableError
from lookalike.tables.changenet import COLUMNS, Layout, candidates_of, file_finder, join_path
from lookalike.tables.filepaths import normal_path, relative_path

#: Rows that a message names.
_SHOWN = 5


@dataclass(frozen=True)
class _Row:
    """One training row, and the image files that it stands for."""

    folder: str
    golden: str
    label: str
    component: str
    image: str


class _Wrong(Exception):  # noqa: N818 - a signal inside this module
    """Why a row cannot be a training row."""


def training_rows(
    table: pa.Table, paths: Sequence[str], name: str, layout: Layout, *, label: str = "", relative_to: str = ""
) -> tuple[pa.Table, int]:
    """Make training rows of rows of a Visual ChangeNet pool.

    Parameters
    ----------
    table:
        With `changenet.COLUMNS`, one row for each mined image.
    paths:
        The mined images, for messages.
    name:
        Where they are from, for messages.
    layout:
        Where the images are.
    label:
        Of rows that have none; empty: every row must have its own.
    relative_to:
        A folder that `input_path` and `golden_path` shall start in instead of `layout.images_root`.

    Returns
    -------
    pyarrow.Table
        The four columns, as text.
    int
        How many rows got `label`.

    Raises
    ------
    TableError
        When a row fails a check; names the first ones, with the reason.
    """
    exists = file_finder(layout)
    rows: list[_Row] = []
    wrong: list[str] = []
    seen: dict[str, int] = {}
    filled = 0
    columns = [table.column(column).to_pylist() for column in COLUMNS]
    for number, (given, path) in enumerate(zip(zip(*columns, strict=True), paths, strict=True)):
        try:
            row = _row(dict(zip(COLUMNS, map(_text, given), strict=True)), layout, exists)
            filled += not row.label
            if not (row.label or label):
                raise _Wrong("has no label")
            first = seen.setdefault(normal_path(row.image), number)
            if first != number:
                raise _Wrong(f"is the image of row {first}, too: {row.image}")
            rows.append(_moved(replace(row, label=row.label or label), layout, relative_to))
        except _Wrong as reason:
            wrong.append(f"row {number} ({path}): {reason}")
    if wrong:
        raise _refused(wrong, table.num_rows, name, layout)
    values = [[getattr(row, field) for row in rows] for field in ("folder", "golden", "label", "component")]
    return pa.table({column: pa.array(one, pa.string()) for column, one in zip(COLUMNS, values, strict=True)}), filled


def pool_rows(pool: pa.Table, paths: Sequence[str], name: str, layout: Layout) -> pa.Table:
    """The rows of a Visual ChangeNet pool that mined images come from, in their order.

    Parameters
    ----------
    pool:
        With `changenet.COLUMNS`; known by its column `filepath` where it has one, else by where `layout` puts images.
    paths:
        The mined images.
    name:
        Of the pool, for messages.
    layout:
        As the pool was mined with.

    Raises
    ------
    TableError
        When an image is not in the pool, or there twice.
    """
    rows: dict[str, list[int]] = {}
    for number, candidates in enumerate(_pool_paths(pool, layout)):
        for path in dict.fromkeys(map(normal_path, candidates)):
            rows.setdefault(path, []).append(number)
    found = [rows.get(normal_path(path), []) for path in paths]
    wrong = [
        f"{path}: {f'rows {own[:_SHOWN]} of the pool' if own else 'no row of the pool'}"
        for path, own in zip(paths, found, strict=True)
        if len(own) != 1
    ]
    if wrong:
        raise TableError(
            f"{len(wrong)} of {len(paths)} mined images do not have exactly one row in this pool (rows from 0):"
            + _listed(wrong),
            where=name,
            hint="name the table that was mined, and its images_root, light and image_ext",
        )
    return pool.select(list(COLUMNS)).take(pa.array([own[0] for own in found], pa.int64()))


def _pool_paths(pool: pa.Table, layout: Layout) -> Iterator[list[str]]:
    """The paths that each row of the pool may have."""
    if "filepath" in pool.column_names:
        yield from ([str(path)] for path in pool.column("filepath").to_pylist())
        return
    columns = (pool.column(column).to_pylist() for column in ("input_path", "object_name"))
    for folder, component in zip(*columns, strict=True):
        yield list(candidates_of(folder, component, layout))


def _row(given: dict[str, str], layout: Layout, exists: Callable[[str], bool]) -> _Row:
    """One row with its files found."""
    candidates = list(candidates_of(given["input_path"], given["object_name"], layout))
    found = [path for path in candidates if exists(path)]
    if len(found) != 1:
        raise _Wrong(_not_one(candidates, found, "input_path"))
    folder, component = given["input_path"], given["object_name"]
    if found[0] == candidates[-1]:  # input_path is the file itself
        folder, component = _taken_apart(folder, component, layout)
    golden = given["golden_path"]
    candidates = list(candidates_of(golden, component, layout))
    files = [path for path in candidates if exists(path)]
    if len(files) != 1:
        raise _Wrong("golden image: " + _not_one(candidates, files, "golden_path"))
    if files[0] == candidates[-1]:
        golden, _ = _taken_apart(golden, component, layout)
    return _Row(folder, golden, given["label"], component, found[0])


def _taken_apart(file: str, component: str, layout: Layout) -> tuple[str, str]:
    """Folder and component of an image file."""
    folder, name = posixpath.split(file.replace("\\", "/"))
    ending = f"_{layout.light}{layout.image_ext}"
    own = name.removesuffix(ending)
    if own == name or not own:
        raise _Wrong(f"{file} is a file, and training looks for <object_name>{ending} in a folder")
    if component not in ("", own):
        raise _Wrong(f"{file} is a file of the component {own}, and object_name is {component}")
    return folder, own


def _moved(row: _Row, layout: Layout, relative_to: str) -> _Row:
    """The row with its folders seen from another one."""
    if not relative_to:
        return row
    moved = []
    for folder in (row.folder, row.golden):
        inside = relative_path(join_path(layout.root, join_path(layout.images_root, folder)), relative_to)
        if inside is None:
            raise _Wrong(f"{folder} is not inside {relative_to}")
        moved.append(inside)
    return replace(row, folder=moved[0], golden=moved[1])


def _not_one(candidates: list[str], found: list[str], column: str) -> str:
    if found:
        return f"there are {len(found)} files: {', '.join(found)}"
    return f"no file {candidates[0]}" if candidates else f"{column} is empty"


def _text(value: Any) -> str:
    return "" if value is None else str(value).strip()


def _listed(wrong: list[str]) -> str:
    more = f"\n    and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
    return "".join(f"\n    {line}" for line in wrong[:_SHOWN]) + more


def _refused(wrong: list[str], rows: int, name: str, layout: Layout) -> TableError:
    hint = f"check images_root={layout.images_root!r}, light={layout.light!r}, image_ext={layout.image_ext!r}"
    if any(line.endswith("has no label") for line in wrong):
        hint += "; --label gives rows without a label one"
    return TableError(
        f"{len(wrong)} of {rows} mined images cannot be training rows (rows from 0):" + _listed(wrong),
        where=name,
        hint=hint,
    )
