"""COCO files of mined images: their sizes, what is known of them, and the annotations that the pool has for them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from lookalike.errors import TableError
from lookalike.tables.annotations import annotated_path, match_paths, read_coco

Json = dict[str, Any]

#: Sizes of an image file: as stored, and as its EXIF orientation shows it.
Sizes = tuple[tuple[int, int], tuple[int, int]]
#: Rows that a message names.
_SHOWN = 5


@dataclass(frozen=True)
class PoolCoco:
    """The pool's own COCO file.

    Attributes
    ----------
    path:
        The file.
    content:
        All of it.
    images:
        Its entry for each mined image.
    """

    path: Path
    content: Json
    images: list[Json]


def read_pool_coco(path: Path, mined: Sequence[str], pool: Sequence[str]) -> PoolCoco:
    """Read the pool's COCO file, and find the mined images in it.

    Parameters
    ----------
    path:
        The file.
    mined:
        Paths of the mined images.
    pool:
        Paths of all images of the pool, so that a file name that two of them share is not used; the mined ones alone
        where the others are not known.

    Raises
    ------
    TableError
        When it is no COCO file, names an image twice, or does not have all mined images.
    """
    content = read_coco(str(path))
    try:
        names = [annotated_path(image, str(path)) for image in content["images"]]
        ids = [image["id"] for image in content["images"]]
        lost = {one["image_id"] for one in content["annotations"]} - set(ids)
    except (KeyError, TypeError, AttributeError) as error:
        raise TableError(f"an image or annotation lacks a field: {error!r}", where=str(path)) from error
    if lost:
        raise TableError(
            f"annotations name images that are not there, the first: {min(map(str, lost))}", where=str(path)
        )
    for values, what in ((ids, "id"), (names, "path")):
        twice = [value for value, count in Counter(values).items() if count > 1]
        if twice:
            raise TableError(f"{len(twice)} images share their {what}, the first: {twice[0]}", where=str(path))
    known = dict(zip(pool, match_paths(names, pool), strict=True))
    missing = [one for one in mined if known.get(one) is None]
    if missing:
        raise TableError(
            f"does not have {len(missing)} of {len(mined)} mined images, the first: {', '.join(missing[:_SHOWN])}; "
            "without annotations they would count as images with nothing on them",
            where=str(path),
            hint="give the file of the whole pool, or leave --annotations out",
        )
    return PoolCoco(path, content, [content["images"][known[one]] for one in mined])


def coco_of(rows: pa.Table, names: Sequence[str] | None, sizes: Sequence[Sizes], pool: PoolCoco | None) -> Json:
    """The COCO file of mined images.

    Parameters
    ----------
    rows:
        As `mined_rows.SCHEMA` says.
    names:
        Their `file_name`; None: as the pool's own file has it, else their paths.
    sizes:
        Theirs.
    pool:
        The pool's own file, whose ids, annotations and categories are kept; None: there are no annotations.

    Raises
    ------
    TableError
        When the pool's file has another size of an image than its file.
    """
    images = []
    wrong = []
    for number, (row, (stored, upright)) in enumerate(zip(rows.to_pylist(), sizes, strict=True)):
        own = {"id": number + 1, "file_name": row["filepath"]} if pool is None else dict(pool.images[number])
        said = (own.get("width"), own.get("height"))
        if None not in said and said not in (stored, upright):
            wrong.append(f"{row['filepath']}: {said[0]} x {said[1]}, and the file has {stored[0]} x {stored[1]}")
        width, height = stored if None in said else said
        known = {f"mined_{key}": plain(row[key]) for key in ("label", "target", "rank", "distance", "score")}
        moved = {} if names is None else {"file_name": names[number]}
        images.append({**own, **moved, "width": width, "height": height, **known})
    if pool is None:
        return {"info": {"description": "mined by lookalike"}, "images": images, "annotations": [], "categories": []}
    if wrong:
        raise TableError(
            f"has another size of {len(wrong)} of {len(images)} mined images:" + "".join(
                f"\n    {line}" for line in wrong[:_SHOWN]),
            where=str(pool.path),
            hint="its boxes would not fit: give the annotations of these very files",
        )  # fmt: skip
    there = {image["id"] for image in images}
    annotations = [one for one in pool.content["annotations"] if one["image_id"] in there]
    return {**pool.content, "images": images, "annotations": annotations}


def write_json(content: Json, path: Path) -> None:
    """Write one JSON object."""
    with path.open("w", encoding="utf-8") as stream:
        json.dump(content, stream, ensure_ascii=False, allow_nan=False, indent=1)
        stream.write("\n")


def plain(value: Any) -> Any:
    """A value as JSON can hold it: a float32 with the digits that it has, nothing for what is no number."""
    if not isinstance(value, float):
        return value
    return float(str(np.float32(value))) if np.isfinite(value) else None
