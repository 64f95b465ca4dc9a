"""What the gallery shows: the targets and pairs of a run, split into pages, and the links to the images."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.reports.markdown import command
from lookalike.reports.thumbnails import Reading, Thumbnail
from lookalike.selection.filters import Outcome
from lookalike.tables.boxes import split_box
from lookalike.tables.embedding_table import Parts
from lookalike.tables.pair_table import SCHEMA
from lookalike.tables.run_folder import RunFolder, RunRecord, file_record, read_record

#: Targets that one page shows, and pairs: a browser takes no more with ease.
MOST_TARGETS, MOST_PAIRS = 2_000, 20_000
#: Hexadecimal digits of the name by which `lookalike view` serves an image.
_ID_DIGITS = 32


@dataclass(frozen=True)
class GalleryData:
    """The tables of a run, as the gallery needs them.

    Attributes
    ----------
    folder, record:
        The run.
    target_paths, target_labels:
        A path and a label (or None) for every target row.
    outcomes:
        How many pairs of the run had each outcome: kept first, then in the order of the rules, then any other.
    pairs:
        The pairs that are shown.
    hidden:
        For every target row, how many pairs of each of `outcomes` it has that are not shown.
    first_pair:
        For every target row, where its pairs begin in the pair table; one entry more than there are targets.
    """

    folder: RunFolder
    record: RunRecord
    target_paths: list[str]
    target_labels: list[str | None]
    outcomes: dict[str, int]
    pairs: pa.Table
    hidden: npt.NDArray[np.int64]
    first_pair: npt.NDArray[np.int64]

    @functools.cached_property
    def identity(self) -> str:
        """What tells this run from others: decisions are kept under it."""
        text = f"{self.record.created} {file_record(self.folder.pairs).sha256}"
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]

    @functools.cached_property
    def reading(self) -> Reading:
        """How the run read its images."""
        return Reading.of(self.record.settings, self.record.start)

    def pages(self, *, every: bool) -> list[npt.NDArray[np.int64]]:
        """The target rows of each page: all of them on as many pages as it takes, or a sample on one.

        The sample is spread evenly over the table, so that a table in the order of labels loses none of size.
        """
        rows = np.arange(len(self.target_paths))
        widest = int(np.diff(self.first_pair).max(initial=1))
        most = max(1, min(MOST_TARGETS, MOST_PAIRS // max(1, widest)))
        if len(rows) <= most:
            return [rows]
        if every:
            return [rows[first : first + most] for first in range(0, len(rows), most)]
        return [np.linspace(0, len(rows) - 1, most).round().astype(np.int64)]


def load(folder: RunFolder) -> GalleryData:
    """Read what the gallery shows.

    Raises
    ------
    TableError
        When the folder is no finished run or a table is damaged.
    """
    record = read_record(folder)
    every = read_pairs(folder)
    pairs = _shown(every, record)
    targets = Parts.open(str(folder.targets))
    targets.require("filepath")
    table = targets.read(("filepath", "label"))
    paths = table.column("filepath").to_pylist()
    labels = table.column("label").to_pylist() if "label" in table.column_names else [None] * len(paths)
    # A selection by score has the best score first, and images beyond a target's neighbours have no rank.
    pairs = pairs.sort_by([(name, "ascending") for name in ("target_row", "distance", "rank")])
    rows = pairs.column("target_row").to_numpy()
    last = pc.max(every.column("target_row")).as_py() if len(every) else -1
    if last >= len(paths):
        raise TableError(
            f"names target row {last}, and {folder.targets.name} has {len(paths)} rows",
            where=str(folder.pairs),
            hint="the two tables are of different runs; mine again",
        )
    outcomes = _outcomes(every)
    hidden = _by_target(every, outcomes, len(paths)) - _by_target(pairs, outcomes, len(paths))
    return GalleryData(
        folder, record, paths, [None if label is None else str(label) for label in labels], outcomes, pairs, hidden,
        np.searchsorted(rows, np.arange(len(paths) + 1)),
    )  # fmt: skip


def _outcomes(pairs: pa.Table) -> dict[str, int]:
    """How many pairs had each outcome, in the order in which they are shown."""
    counts = Counter(pairs.column("outcome").to_pylist())
    known = [str(outcome) for outcome in Outcome]
    names = [*known, *sorted(set(counts) - set(known))]
    return {name: counts[name] for name in names if counts[name] or name == Outcome.KEPT}


def _by_target(pairs: pa.Table, outcomes: dict[str, int], targets: int) -> npt.NDArray[np.int64]:
    """How many pairs of each outcome every target has: targets x outcomes."""
    names = pa.array(list(outcomes), pa.string())
    codes = pc.index_in(pairs.column("outcome").cast(pa.string()), names).to_numpy()
    found = np.zeros((targets, len(outcomes)), np.int64)
    np.add.at(found, (pairs.column("target_row").to_numpy(), codes), 1)
    return found


def _shown(pairs: pa.Table, record: RunRecord) -> pa.Table:
    """The pairs that are shown: all of a search; of a selection by score what is kept, and the topn nearest.

    A selection by score looks at more neighbours than anyone would look through.
    """
    topn = record.counts.get("topn")
    if record.selection is None or not topn:
        return pairs
    is_near = pc.fill_null(pc.less_equal(pairs.column("rank"), topn), False)
    is_kept = pc.equal(pairs.column("outcome").cast(pa.string()), str(Outcome.KEPT))
    return pairs.filter(pc.or_(is_near, is_kept))


def read_pairs(folder: RunFolder) -> pa.Table:
    """Read the pair table of a run.

    Raises
    ------
    TableError
        When it is missing or damaged.
    """
    try:
        pairs = pq.read_table(folder.pairs)
    except (OSError, pa.ArrowInvalid) as error:
        raise TableError(
            f"cannot be read: {error}", where=str(folder.pairs), hint="name the folder of a finished run"
        ) from error
    missing = [name for name in SCHEMA.names if name not in (*pairs.column_names, "score")]
    if missing:
        raise TableError(
            f"has no column {missing[0]!r}; its columns are {pairs.column_names}",
            where=str(folder.pairs),
            hint="mine again",
        )
    return pairs


def image_id(filepath: str) -> str:
    """The name by which `lookalike view` serves an image: it says nothing about the path."""
    return hashlib.sha256(filepath.encode()).hexdigest()[:_ID_DIGITS]


def image_link(filepath: str, root: str, folder: Path) -> str:
    """Where the file of an image is, seen from a page in the run folder; empty where a browser cannot open it.

    Relative where the image lies in the folder, so that it stays right when the folder moves. Only http(s) and local
    files are linked: a table may hold anything, `javascript:` too.
    """
    filepath = split_box(filepath)[0]
    if "://" not in filepath and "://" in root and not root.startswith(("file://", "local://")):
        filepath = root.rstrip("/") + "/" + filepath
    if "://" in filepath and not filepath.startswith(("file://", "local://")):
        return filepath if urlsplit(filepath).scheme in ("http", "https") else ""
    local = filepath.removeprefix("file://").removeprefix("local://")
    place = Path(os.path.abspath(os.path.join(root.removeprefix("file://"), local)))  # noqa: PTH100, PTH118 - of texts
    base = Path(os.path.abspath(folder))  # noqa: PTH100 - links stay as they are
    return quote(place.relative_to(base).as_posix()) if place.is_relative_to(base) else place.as_uri()


def page_images(data: GalleryData, rows: npt.NDArray[np.int64]) -> list[str]:
    """The distinct images of a page, in the order in which they are met."""
    paths: dict[str, None] = {}
    sources = data.pairs.column("source_filepath")
    for row in rows:
        paths.setdefault(data.target_paths[row])
        first, last = data.first_pair[row : row + 2]
        for path in sources.slice(first, last - first).to_pylist():
            paths.setdefault(path)
    return list(paths)


def page_content(
    data: GalleryData, rows: npt.NDArray[np.int64], images: Sequence[str], thumbnails: Iterable[Thumbnail]
) -> dict[str, Any]:
    """What the script of a page reads: images once each, targets, and their pairs by the places of the images."""
    place = {path: number for number, path in enumerate(images)}
    outcomes = list(data.outcomes)
    root, folder = data.reading.files.base, data.folder.path
    targets = []
    for row in rows:
        first, last = data.first_pair[row : row + 2]
        pairs = [
            [
                place[pair["source_filepath"]],
                pair["source_label"],
                pair["rank"],
                _short(pair["distance"]),
                _short(pair.get("score")),
                outcomes.index(pair["outcome"]),
            ]
            for pair in data.pairs.slice(first, last - first).to_pylist()
        ]
        hidden = [[int(code), int(data.hidden[row, code])] for code in np.flatnonzero(data.hidden[row])]
        targets.append([int(row), place[data.target_paths[row]], data.target_labels[row], pairs, hidden])
    return {
        "run": data.identity,
        "name": data.folder.path.resolve().name,
        "review": command(("lookalike", "review", str(data.folder.path.resolve()))),
        "whole": len(rows) == len(data.target_paths),
        "scored": data.record.selection is not None,
        "cutoff": _short((data.record.selection or {}).get("cutoff")),
        "outcomes": outcomes,
        "images": [
            [path, image_link(path, root, folder), image_id(path), base64.b64encode(one.data).decode(), one.reason]
            for path, one in zip(images, thumbnails, strict=True)
        ],
        "targets": targets,
    }


def _short(value: float | None) -> float | None:
    """A float32 with the digits that it needs and no more; None where it is none or no number."""
    return None if value is None or not np.isfinite(value) else float(str(np.float32(value)))
