"""`atlas.parquet`: a run as a table that the program embedding-atlas opens as it is.

One row an image, the targets first, then pool images: coordinates, path, small picture, and what the run knows of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.config.schemas import NearestNeighborsConfig
from lookalike.errors import ConfigError
from lookalike.progress import progress
from lookalike.reports.facts import check_rows, open_tables
from lookalike.reports.pairs import Pairs, read_pairs
from lookalike.reports.plot_map import MOST_POOL, MOST_TARGETS
from lookalike.reports.projection import MOST_UMAP, Points, Principal, project
from lookalike.reports.sample import Rows, VectorRows
from lookalike.reports.thumbnails import ATLAS, Reading, small_files
from lookalike.selection.filters import Outcome
from lookalike.tables.atomic import atomic_path, check_output
from lookalike.tables.run_folder import RunFolder, read_record

#: The file's name in the run folder, and how many pool images it has by default, beside those that were found.
NAME, SAMPLE = "atlas.parquet", 5_000
_WRITE_ROWS = 2048
_NEIGHBORS = pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))])
SCHEMA = pa.schema(
    [
        ("picture", pa.binary()),
        ("side", pa.string()),
        ("label", pa.string()),
        ("distance", pa.float32()),
        ("outcome", pa.string()),
        ("times_found", pa.int32()),
        ("filepath", pa.string()),
        ("row", pa.int64()),
        ("x", pa.float64()),
        ("y", pa.float64()),
        ("neighbors", _NEIGHBORS),
    ]
)


@dataclass(frozen=True)
class Atlas:
    """What `write_atlas` made.

    Attributes
    ----------
    path:
        The table.
    rows, targets, pool:
        Its rows: all, those of targets, those of pool images.
    pool_total:
        Pool images of the run.
    method:
        ``PCA`` or ``UMAP``.
    columns:
        Its columns.
    command:
        The command that opens it.
    """

    path: Path
    rows: int
    targets: int
    pool: int
    pool_total: int
    method: str
    columns: tuple[str, ...]
    command: tuple[str, ...]


def write_atlas(folder: RunFolder, out: Path | None = None, *, sample: int = SAMPLE, pictures: bool = True) -> Atlas:
    """Write a run as a table for embedding-atlas.

    Parameters
    ----------
    folder:
        The run.
    out:
        The table; `atlas.parquet` in the run folder if not given.
    sample:
        Pool images that are in it beside those that the search found; 0 for all of them.
    pictures:
        Whether every row gets a small picture.

    Raises
    ------
    ConfigError
        When `sample` is negative.
    TableError
        When the folder is no finished run, a table is damaged, or the output cannot be written.
    ImagesFailed
        When the disk or network that holds the images does not answer.
    """
    if sample < 0:
        raise ConfigError(f"sample={sample} is not possible", hint="give a number of pool images, or 0 for all of them")
    path = out or folder.path / NAME
    record = read_record(folder)
    check_output(path, inputs=tuple(map(str, (folder.targets, folder.pool, folder.pairs, folder.mined))))
    pairs = read_pairs(folder)
    tables = open_tables(folder, record)
    check_rows(folder, pairs, tables)
    targets, pool = tables
    chosen = np.arange(pool.rows) if not sample else np.union1d(pool.sample(sample), np.unique(pairs.source_row))
    rows = (np.arange(targets.rows), chosen)
    metric = str(record.settings.get("knn_metric", NearestNeighborsConfig.knn_metric))
    points, method = _points(tables, rows, metric)
    schema = SCHEMA if pictures else SCHEMA.remove(SCHEMA.get_field_index("picture"))
    reading = Reading.of(record.settings, record.start)
    with (
        atomic_path(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as writer,
        progress("writing the atlas", len(points), "images") as advance,
    ):
        done = 0
        for columns in _parts(tables, rows, points, _known(pairs, rows)):
            if pictures:  # null where one cannot be read any more
                columns["picture"] = [one.data or None for one in small_files(columns["filepath"], reading, ATLAS)]
            arrays = [pa.array(columns[field.name], field.type) for field in schema]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            done += len(arrays[0])
            advance(done)
    return Atlas(
        path, len(points), targets.rows, len(chosen), pool.rows, method, tuple(schema.names),
        _command(path, pictures, bool(len(pairs))),
    )  # fmt: skip


def _command(path: Path, pictures: bool, neighbors: bool) -> tuple[str, ...]:
    """How embedding-atlas is called with the columns of the table."""
    words = ["embedding-atlas", str(path.resolve()), "--x", "x", "--y", "y"]
    if neighbors:
        words += ["--neighbors", "neighbors"]
    if pictures:
        # Pictures that stand for a cluster are those that are found most often; without it, a PageRank is computed.
        words += ["--image", "picture", "--pagerank", "times_found"]
    return tuple(words)


def _points(tables: tuple[VectorRows, VectorRows], rows: tuple[Rows, Rows], metric: str) -> tuple[Points, str]:
    """Coordinates of all rows; of very many by principal components of a sample, without holding the vectors."""
    total = sum(map(len, rows))
    if total <= MOST_UMAP:
        points, method, _ = project(
            np.concatenate([table.vectors(wanted) for table, wanted in zip(tables, rows, strict=True)]), metric
        )
        return points, method
    sizes = (MOST_TARGETS, MOST_POOL)
    samples = [table.vectors(table.sample(size)) for table, size in zip(tables, sizes, strict=True)]
    principal = Principal.of(np.concatenate(samples), metric)
    points = np.empty((total, 2))
    with progress("projecting", total, "images") as advance:
        for side, (table, wanted) in enumerate(zip(tables, rows, strict=True)):
            for start, vectors in table.vector_batches(wanted):
                first = side * len(rows[0]) + start
                points[first : first + len(vectors)] = principal.project(vectors)
                advance(first + len(vectors))
    return points, "PCA"


@dataclass(frozen=True)
class _Known:
    """What the pairs say about each row of the atlas; neighbours of row i are at `starts[i]` to `starts[i + 1]`."""

    targets: int
    starts: npt.NDArray[np.int64]
    ids: npt.NDArray[np.int64]
    distances: npt.NDArray[np.float64]
    codes: npt.NDArray[np.int64]
    names: tuple[str, ...]

    def columns(self, at: slice) -> dict[str, Sequence[object]]:
        """The columns that the pairs give, for some rows."""
        spans = list(zip(self.starts[at].tolist(), self.starts[at.start + 1 : at.stop + 1].tolist(), strict=True))
        columns: dict[str, list[object]] = {
            name: [] for name in ("side", "distance", "outcome", "times_found", "neighbors")
        }
        for row, (begin, end) in zip(range(at.start, at.stop), spans, strict=True):
            is_target = row < self.targets
            outcomes = {self.names[code] for code in self.codes[begin:end].tolist()}
            mined = Outcome.KEPT in outcomes
            outcome = Outcome.KEPT.value if mined else next((name for name in self.names if name in outcomes), None)
            columns["side"].append("target" if is_target else "mined" if mined else "pool")
            columns["distance"].append(self.distances[begin] if end > begin else None)
            columns["outcome"].append(None if is_target else outcome)
            columns["times_found"].append(0 if is_target else end - begin)
            columns["neighbors"].append({"ids": self.ids[begin:end], "distances": self.distances[begin:end]})
        return dict(columns)


def _known(pairs: Pairs, rows: tuple[Rows, Rows]) -> _Known:
    """Sort the pairs by the rows of the atlas, from both sides: a target's pool images, a pool image's targets."""
    targets, pool = rows
    sources = len(targets) + np.searchsorted(pool, pairs.source_row)
    ends = np.concatenate([pairs.target_row, sources]), np.concatenate([sources, pairs.target_row])
    distances = np.concatenate([pairs.distance, pairs.distance]).astype(np.float64)
    order = np.lexsort((ends[1], distances, ends[0]))
    starts = np.searchsorted(ends[0][order], np.arange(len(targets) + len(pool) + 1))
    return _Known(len(targets), starts, ends[1][order], distances[order], np.tile(pairs.codes, 2)[order], pairs.names)


def _parts(
    tables: tuple[VectorRows, VectorRows], rows: tuple[Rows, Rows], points: Points, known: _Known
) -> Iterator[dict[str, Any]]:
    """The columns of the atlas but for the pictures, part by part: the targets first."""
    for side, (table, wanted) in enumerate(zip(tables, rows, strict=True)):
        for start, filepaths, labels in _texts(table, wanted):
            first = side * len(rows[0]) + start
            at = slice(first, first + len(filepaths))
            yield {
                "x": points[at, 0],
                "y": points[at, 1],
                "label": labels,
                "filepath": filepaths,
                "row": wanted[start : start + len(filepaths)],
                **known.columns(at),
            }


def _texts(table: VectorRows, rows: Rows) -> Iterator[tuple[int, list[str], list[str | None]]]:
    """Paths and labels of some rows, part by part, with the place of the first."""
    columns = ("filepath", "label") if table.has_labels else ("filepath",)
    for first, batch in table.batches(rows, columns):
        for start in range(0, batch.num_rows, _WRITE_ROWS):
            part = batch.slice(start, _WRITE_ROWS)
            labels = part.column(1).to_pylist() if table.has_labels else [None] * part.num_rows
            texts = [None if label is None else str(label) for label in labels]
            yield first + start, [str(path) for path in part.column(0).to_pylist()], texts
