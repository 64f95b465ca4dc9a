"""`export`: a run's mined images as rows that training and other programs read.

Everything is checked before anything is written, and a file is whole or absent. A review comes first: images that a
person dropped in the gallery are left out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv

from lookalike.config.schemas import BOX_COLUMNS, RunConfig
from lookalike.errors import ConfigError, ImagesFailed, TableError
from lookalike.images.decode import image_sizes
from lookalike.images.locate import ReadSettings, read_bytes
from lookalike.images.outcome import ImageRejected
from lookalike.progress import progress
from lookalike.tables import fiftyone
from lookalike.tables.atomic import atomic_folder, atomic_path, check_place
from lookalike.tables.boxes import has_boxes, split_box
from lookalike.tables.changenet import COLUMNS, Layout, join_path
from lookalike.tables.coco import Sizes, coco_of, read_pool_coco, write_json
from lookalike.tables.filepaths import relative_path
from lookalike.tables.image_table import PARQUET_SUFFIXES, name_of, read_rows
from lookalike.tables.mined_rows import Mined, column_names, pick_rows, read_columns, read_mined, vectors_of
from lookalike.tables.run_folder import RunFolder
from lookalike.tables.training_rows import pool_rows, training_rows

#: Columns of the CSV, and their names in it.
_CSV = ("filepath", "label", "target", "rank", "distance", "score")
#: Files that stand beside a mined table, beside those of `RunFolder` and all tables.
_BESIDE = ("run_settings.yaml", "knn_summary.csv", "summary.json", "mining_history.json")
#: Images that a message names.
_SHOWN = 5
_Config = RunConfig
#: A table that has paths of its own.
_NOWHERE = Layout("", "", "")


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes
    ----------
    path:
        The file or folder.
    rows:
        Images in it.
    mined:
        The list that they are from.
    notes:
        What is to be known about it, for people.
    """

    path: Path
    rows: int
    mined: Mined
    notes: tuple[str, ...] = ()


def export_csv(run: str | Path, out: str | Path, *, relative_to: str = "", force: bool = False) -> Export:
    """Write the mined images as a CSV: `filepath`, `label`, `target`, `rank`, `distance`, `score`.

    Where images are boxes of files, `filepath` is the file, and `x`, `y`, `w`, `h` follow.

    Parameters
    ----------
    run:
        A run folder, the output folder of `tmm unique_neighbor_matching`, or a mined table.
    out:
        The file to write.
    relative_to:
        A folder that the paths of the images shall start in; empty: they stay as they are.
    force:
        Whether a file that is there is replaced.

    Raises
    ------
    TableError
        When an input cannot be right, or the file is there already.
    """
    mined, path = _opened(run, out, force)
    names = _names(mined, relative_to)
    table = mined.rows.select(list(_CSV))
    if names is not None:
        table = table.set_column(0, "filepath", pa.array(names, pa.string()))
    if has_boxes(table.column("filepath")):
        files, boxes = zip(*map(split_box, table.column("filepath").to_pylist()), strict=True)
        table = table.set_column(0, "filepath", pa.array(files, pa.string()))
        for place, name in enumerate(BOX_COLUMNS):
            values = [None if box is None else box[place] for box in boxes]
            table = table.append_column(name, pa.array(values, pa.int64()))
    _write_csv(table, path)
    return Export(path, table.num_rows, mined)


def export_vcn(
    run: str | Path,
    out: str | Path,
    *,
    pool: Any = None,
    images_root: str | None = None,
    light: str | None = None,
    image_ext: str | None = None,
    label: str = "",
    relative_to: str = "",
    force: bool = False,
) -> Export:
    """Write the mined images as rows of a Visual ChangeNet training CSV.

    Parameters
    ----------
    run, out, force:
        As of `export_csv`.
    pool:
        The table that was mined, where the run's own pool does not have the columns of Visual ChangeNet.
    images_root, light, image_ext:
        Where the images are; None: as in the run, else as the defaults of `RunConfig` say.
    label:
        Of rows that have none; empty: every row must have its own.
    relative_to:
        A folder that `input_path` and `golden_path` shall start in; empty: in `images_root`, as in the pool.

    Raises
    ------
    TableError
        When a row fails a check: not exactly one image and one golden image, no label, an image twice. The first such
        rows are named, and nothing is written.
    """
    mined, path = _opened(run, out, force, pool)
    _refuse_boxes(mined, "Visual ChangeNet")

    def of(key: str, given: str | None) -> str:
        return str(mined.settings.get(key, getattr(_Config, key)) if given is None else given)

    layout = Layout(
        of("images_root", images_root), of("light", light), of("image_ext", image_ext), of("root", None)
    )  # fmt: skip
    if layout.image_ext and not layout.image_ext.startswith("."):
        raise ConfigError(f"image_ext={layout.image_ext!r} is not possible", hint="it begins with a dot, like .png")
    asked = None if pool is None else _asked_pool(mined, pool, layout)
    rows, name = (asked, name_of(pool)) if asked is not None else (_own_pool(mined), str(mined.pool))
    table, filled = training_rows(rows, mined.filepaths, name, layout, label=label, relative_to=relative_to)
    _write_csv(table, path)
    notes = (f"{filled} rows had no label and got {label!r}",) if label else ()
    return Export(path, table.num_rows, mined, notes)


def export_coco(
    run: str | Path, out: str | Path, *, annotations: str | Path = "", relative_to: str = "", force: bool = False
) -> Export:
    """Write the mined images as a COCO file, with what is known of each as `mined_...` fields of its image.

    Parameters
    ----------
    run, out, relative_to, force:
        As of `export_csv`.
    annotations:
        The pool's own COCO file: ids, annotations of the mined images, and categories are kept.

    Raises
    ------
    TableError
        When an input cannot be right, or the file is there already.
    ImagesFailed
        When the size of an image cannot be read.
    """
    mined, path = _opened(run, out, force, annotations)
    _refuse_boxes(mined, "COCO")
    own = read_pool_coco(Path(annotations), mined.filepaths, _pool_paths(mined)) if annotations else None
    names = _names(mined, relative_to)
    content = coco_of(mined.rows, names, _sizes(mined), own)
    with atomic_path(path) as temporary:
        write_json(content, temporary)
    notes = [f"{len(content['annotations'])} annotations of {len(content['categories'])} categories"]
    return Export(path, mined.rows.num_rows, mined, tuple(notes if own else ()))


def export_fiftyone(
    run: str | Path, out: str | Path, *, relative_to: str = "", vectors: bool = False, force: bool = False
) -> Export:
    """Write the mined images as a dataset folder for FiftyOne, with tags and fields.

    Where images are boxes of files, a sample is the file, and its field `box` has left, top, width and height.

    Parameters
    ----------
    run, relative_to:
        As of `export_csv`; without `relative_to`, paths are absolute.
    out:
        The folder to write.
    vectors:
        Whether the samples get their vectors, as the field `embedding`.
    force:
        Whether a dataset folder that is there is replaced.

    Raises
    ------
    TableError
        When an input cannot be right, an image is not there, or the folder is there already.
    """
    mined = read_mined(Path(run))
    path = Path(out)
    _check_folder(path, force)
    files, boxes = zip(*map(split_box, mined.filepaths), strict=True) if mined.rows.num_rows else ((), ())
    places = [_place(name, mined) for name in files]
    missing = [place for place in places if not os.path.isfile(place)]  # noqa: PTH113 - there may be millions
    if missing:
        raise TableError(
            f"{len(missing)} of {len(places)} mined images are no local files, the first: "
            f"{', '.join(missing[:_SHOWN])}",
            where=str(mined.path),
            hint="FiftyOne opens local files; relative paths start where you are",
        )
    named = [split_box(name)[0] for name in _names(mined, relative_to) or ()]
    names = named or [os.path.abspath(place) for place in places]  # noqa: PTH100
    fields: dict[str, Sequence[Any]] = {}
    if any(boxes):
        fields["box"] = [box and list(box) for box in boxes]
    if vectors:
        fields["embedding"] = vectors_of(mined).tolist()
    tags = ["mined", "reviewed"] if mined.dropped is not None else ["mined"]
    with atomic_folder(path) as temporary:
        fiftyone.write_dataset(mined.rows, names, tags, temporary, fields)
    return Export(path, len(names), mined)


def _refuse_boxes(mined: Mined, what: str) -> None:
    """Refuse a list whose images are boxes of files, for a format that knows files only."""
    if has_boxes(mined.rows.column("filepath")):
        raise TableError(
            f"its images are boxes of files (crop), and {what} rows are files",
            where=str(mined.path),
            hint="lookalike export csv has the files and the boxes",
        )


def _opened(run: str | Path, out: str | Path, force: bool, *inputs: Any) -> tuple[Mined, Path]:
    """The mined list, and the file to write, which may be written."""
    mined, path = read_mined(Path(run)), Path(out)
    given = [one for one in inputs if one and isinstance(one, str | Path)]
    check_place(path, inputs=tuple(map(str, given)))
    if path.exists() and path.resolve().parent == mined.path.resolve().parent and _is_of_run(path):
        raise TableError("is a file of the run", where=str(path), hint="choose another --out")
    if path.exists() and not force:
        raise TableError("is there already", where=str(path), hint="choose another --out, or replace it with --force")
    return mined, path


def _is_of_run(path: Path) -> bool:
    """Whether a file that stands beside a mined table is one that a run writes: an export must not replace it."""
    folder = RunFolder(path.parent)
    names = {getattr(folder, name).name for name, kind in vars(RunFolder).items() if isinstance(kind, property)}
    return path.suffix in PARQUET_SUFFIXES or path.name in names or path.name in _BESIDE


def _write_csv(table: pa.Table, path: Path) -> None:
    with atomic_path(path) as temporary:
        pyarrow.csv.write_csv(table, temporary, pyarrow.csv.WriteOptions(quoting_style="needed"))


def _place(name: str, mined: Mined) -> str:
    """Where an image is: relative paths start in the `root` of the run, or in the working directory."""
    return join_path(str(mined.settings.get("root") or ""), name)


def _names(mined: Mined, relative_to: str) -> list[str] | None:
    """The paths of all images from a folder; None where no folder is asked for."""
    if not relative_to:
        return None
    places = [_place(name, mined) for name in mined.filepaths]
    names = [relative_path(place, relative_to) for place in places]
    outside = [place for place, name in zip(places, names, strict=True) if name is None]
    if outside:
        raise TableError(
            f"{len(outside)} of {len(names)} mined images are not inside, the first: {', '.join(outside[:_SHOWN])}",
            where=f"--relative-to {relative_to}",
            hint="name a folder that all of them are in; relative paths start where you are",
        )
    return [str(name) for name in names]


def _own_pool(mined: Mined) -> pa.Table:
    """The rows of the run's own pool, with the columns of Visual ChangeNet."""
    hint = "name the table that was mined with --pool"
    if mined.pool is None:
        raise TableError("stands alone, without the pool's columns", where=str(mined.path), hint=hint)
    names = column_names(mined.pool)
    lacking = [column for column in COLUMNS if column not in names]
    if lacking:
        raise TableError(f"has no column {lacking[0]!r}; its columns are {names}", where=str(mined.pool), hint=hint)
    paths = mined.filepaths
    if not mined.has_pairs:
        return pool_rows(read_columns(mined.pool, ("filepath", *COLUMNS)), paths, str(mined.pool), _NOWHERE)
    picked = pick_rows(mined.pool, mined.rows.column("row").to_numpy(), ("filepath", *COLUMNS))
    other = [own for own, path in zip(picked.column("filepath").to_pylist(), paths, strict=True) if own != path]
    if other:
        raise TableError(
            f"has {other[0]} where the pair table has another image",
            where=str(mined.pool),
            hint="the two tables are of different runs; mine again",
        )
    return picked.select(list(COLUMNS))


def _asked_pool(mined: Mined, pool: Any, layout: Layout) -> pa.Table:
    """The rows of a pool that the user names."""
    table = read_rows(pool)
    lacking = [column for column in COLUMNS if column not in table.column_names]
    if lacking:
        raise TableError(
            f"has no column {lacking[0]!r}; its columns are {table.column_names}",
            where=name_of(pool),
            hint="a Visual ChangeNet table has input_path, golden_path, label and object_name",
        )
    keys = ("images_root", "light", "image_ext")
    as_mined = {key: str(mined.settings.get(key, getattr(layout, key))) for key in keys}
    return pool_rows(table, mined.filepaths, name_of(pool), Layout(**as_mined, root=layout.root))


def _pool_paths(mined: Mined) -> Sequence[str]:
    """Paths of the whole pool, where they are known."""
    if mined.pool is None:
        return mined.filepaths
    return [str(path) for path in read_columns(mined.pool, ("filepath",)).column("filepath").to_pylist()]


def _sizes(mined: Mined) -> list[Sizes]:
    """The sizes of all images, read from their headers on several threads."""
    settings = ReadSettings(str(mined.settings.get("root") or ""), _Config.max_bytes, _Config.retries)
    wrong: list[str] = []

    def read(path: str) -> Sizes:
        try:
            return image_sizes(read_bytes(path, settings))
        except ImageRejected as rejected:
            wrong.append(f"{path}: {rejected.detail}")
            return (0, 0), (0, 0)

    paths = mined.filepaths
    sizes: list[Sizes] = []
    with ThreadPoolExecutor(2 * (os.cpu_count() or 1)) as pool, progress("reading", len(paths), "images") as advance:
        for size in pool.map(read, paths):
            sizes.append(size)
            advance(len(sizes))
    if wrong:
        raise ImagesFailed(
            f"{len(wrong)} of {len(paths)} mined images cannot be read, the first: {sorted(wrong)[0]}",
            where=str(mined.path),
            hint="relative paths start where you are, or in the run's root",
        )
    return sizes


def _check_folder(path: Path, force: bool) -> None:
    """Refuse a folder that holds anything but an earlier dataset that may be replaced."""
    check_place(path / fiftyone.FILES[0])
    if not path.is_dir():
        if path.exists():
            raise TableError("is a file, and a folder is to be written", where=str(path), hint="choose another --out")
        return
    there = {file.name for file in path.iterdir()}
    if there - set(fiftyone.FILES):
        raise TableError(
            f"holds other files: {', '.join(sorted(there - set(fiftyone.FILES))[:_SHOWN])}",
            where=str(path),
            hint="name a folder that is empty or absent",
        )
    if there and not force:
        raise TableError("is there already", where=str(path), hint="choose another --out, or replace it with --force")
