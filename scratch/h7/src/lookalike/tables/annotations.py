"""Object detection annotations: which classes an image shows, from COCO files and from KITTI folders.

==========  ==============================================================================================
format      read as
==========  ==============================================================================================
``coco``    a JSON file with `images`, `annotations` and `categories`; the path of an image is its
            `file_name`, `filepath` or `file_path`
``kitti``   a folder of `*.txt`, one an image, named like it; a line has at least 9 fields, the first of
            which is the class; `DontCare` is no class
==========  ==============================================================================================

Classes are lower-cased. An image of a table is looked up by its full path, then by its base name, then by its stem;
where several annotated images, or several images of the table, share a name, that name is not used.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lookalike.errors import TableError
from lookalike.tables.filepaths import base_name, normal_path

#: Instances of each class in one image.
Classes = Counter[str]

_PATH_KEYS = ("file_name", "filepath", "file_path")
_KITTI_FIELDS = 9
_DONT_CARE = "dontcare"
#: Mark of a name that several images have.
_AMBIGUOUS = -1


@dataclass(frozen=True)
class Annotations:
    """The classes of annotated images.

    Attributes
    ----------
    name:
        The file or folder, as given.
    paths:
        Of the annotated images; a KITTI label stands for an image of the same stem.
    classes:
        Per annotated image, how many instances it has of each class.
    skipped:
        Lines that could not be read as KITTI labels, and where the first one is.
    """

    name: str
    paths: tuple[str, ...]
    classes: tuple[Classes, ...]
    skipped: tuple[int, str] = (0, "")

    @property
    def names(self) -> set[str]:
        """All classes."""
        return set().union(*self.classes)

    def of(self, paths: Sequence[str]) -> list[Classes | None]:
        """The classes of the images of a table; None for an image that is not annotated.

        Parameters
        ----------
        paths:
            All images of the table: a base name that two of them share is not used for either.
        """
        return [None if number is None else self.classes[number] for number in match_paths(self.paths, paths)]


def match_paths(annotated: Sequence[str], paths: Sequence[str]) -> list[int | None]:
    """Which annotated image each image of a table is: by its full path, else by its file name, else by its stem.

    Parameters
    ----------
    annotated:
        Paths of the annotated images.
    paths:
        All images of the table. A name that two images of either side share is not used.

    Returns
    -------
    list
        Per image of the table, a place in `annotated`, or None.
    """
    full = {normal_path(path): number for number, path in enumerate(annotated)}
    wanted = [normal_path(path) for path in paths]
    found = [full.get(path) for path in wanted]
    for name_of in (base_name, _stem):
        missing = [row for row, number in enumerate(found) if number is None]
        if not missing:
            break
        known = _by_name(annotated, name_of)
        asked = _by_name(sorted(set(wanted)), name_of)
        for row in missing:
            name = name_of(wanted[row])
            number = known.get(name)
            if number is not None and number != _AMBIGUOUS and asked[name] != _AMBIGUOUS:
                found[row] = number
    return found


def read_annotations(path: str, kind: str) -> Annotations:
    """Read the annotations of a data set.

    Parameters
    ----------
    path:
        A COCO file, or a KITTI folder.
    kind:
        ``coco`` or ``kitti``.

    Raises
    ------
    TableError
        When nothing is there, or it is not what `kind` says.
    """
    if not Path(path).exists():
        raise TableError("does not exist", where=path, hint="check the path; relative paths start where you are")
    return _coco_classes(path) if kind == "coco" else _read_kitti(path)


def read_coco(path: str) -> dict[str, Any]:
    """Read a COCO file as it is.

    Raises
    ------
    TableError
        When it is none.
    """
    if not Path(path).exists():
        raise TableError("does not exist", where=path, hint="check the path; relative paths start where you are")
    if Path(path).is_dir():
        raise TableError("is a folder, and COCO annotations are one JSON file", where=path, hint="name the file")
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise TableError(f"cannot be read as JSON: {error}", where=path) from error
    lists = {key: content.get(key) if isinstance(content, dict) else None for key in ("images", "annotations")}
    if not all(isinstance(value, list) for value in lists.values()) or "categories" not in content:
        raise TableError(
            "is no COCO file: it needs the lists 'images', 'annotations' and 'categories'",
            where=path,
            hint="a bare list of detections has no file names: give the file of the data set",
        )
    found: dict[str, Any] = content
    return found


def _coco_classes(path: str) -> Annotations:
    """The classes of the images of a COCO file."""
    content = read_coco(path)
    try:
        categories = {one["id"]: str(one["name"]).strip().lower() for one in content["categories"]}
        numbers: dict[str, int] = {}  # an image that stands there twice is one
        rows = {one["id"]: numbers.setdefault(annotated_path(one, path), len(numbers)) for one in content["images"]}
        if len(rows) != len(content["images"]):
            raise TableError("two of its images have the same 'id'", where=path)
        classes = tuple(Counter[str]() for _ in numbers)
        for one in content["annotations"]:
            classes[rows[one["image_id"]]][categories[one["category_id"]]] += 1
    except (KeyError, TypeError) as error:
        raise TableError(
            f"an image, category or annotation lacks a field, or names an id that is not there: {error!r}", where=path
        ) from error
    return Annotations(path, tuple(numbers), classes)


def annotated_path(image: dict[str, Any], name: str) -> str:
    """The path of an image of a COCO file."""
    for key in _PATH_KEYS:
        if image.get(key):
            return str(image[key])
    raise TableError(f"image {image.get('id')} has none of {', '.join(_PATH_KEYS)}", where=name)


def _read_kitti(path: str) -> Annotations:
    """Read a folder of KITTI labels."""
    folder = Path(path)
    if not folder.is_dir():
        raise TableError("is no folder, and KITTI labels are a folder of *.txt", where=path, hint="name the folder")
    files = sorted(file for file in folder.rglob("*.txt") if file.is_file())
    if not files:
        raise TableError("the folder holds no *.txt", where=path, hint="name the folder of the label files")
    classes: list[Classes] = []
    bad: list[str] = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise TableError(f"cannot be read: {error}", where=str(file)) from error
        fields = [line.split() for line in lines]
        bad += [f"{file}, line {row}" for row, words in enumerate(fields, 1) if 0 < len(words) < _KITTI_FIELDS]
        names = (words[0].lower() for words in fields if len(words) >= _KITTI_FIELDS)
        classes.append(Counter(name for name in names if name != _DONT_CARE))
    if bad and not any(classes):
        raise TableError(
            f"no line has the {_KITTI_FIELDS} fields of a KITTI label; the first other one is {bad[0]}",
            where=path,
            hint="check detection_format and the folder",
        )
    return Annotations(path, tuple(map(str, files)), tuple(classes), (len(bad), bad[0] if bad else ""))


def _by_name(paths: Iterable[str], name_of: Any) -> dict[str, int]:
    """The number of each path by its name; a name that several have is marked."""
    numbers: dict[str, int] = {}
    for number, path in enumerate(paths):
        name = name_of(path)
        numbers[name] = _AMBIGUOUS if name in numbers else number
    return numbers


def _stem(path: str) -> str:
    return PurePosixPath(base_name(path)).stem
