"""The mined list with what is known of each image: its label, its target, rank, distance and score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.filepaths import normal_paths
from lookalike.tables.pair_table import sibling
from lookalike.tables.run_folder import RunFolder, read_record
from lookalike.tables.vectors import Matrix

#: What is exported of each image; all but the path may be null.
SCHEMA = pa.schema(
    [
        pa.field("filepath", pa.string()),
        pa.field("label", pa.string()),
        pa.field("target", pa.string()),
        pa.field("target_label", pa.string()),
        pa.field("rank", pa.int32()),
        pa.field("distance", pa.float32()),
        pa.field("score", pa.float32()),
        pa.field("row", pa.int64()),
    ]
)
#: Columns of the pair table that they come from.
_FROM_PAIRS = {
    "label": "source_label",
    "target": "target_filepath",
    "target_label": "target_label",
    "rank": "rank",
    "distance": "distance",
    "score": "score",
    "row": "source_row",
}
#: The result of `tmm unique_neighbor_matching` in its output folder.
_UNIQUE = "final_unique_files.parquet"
#: Mined tables whose pair table is that of `mined.parquet`.
_OF_A_RUN = ("mined.parquet", "mined_reviewed.parquet", "mined_raw.parquet", "mined_candidates.parquet")
_KEPT = "kept"
_READ_ROWS = 65_536
#: Images that a message names.
_SHOWN = 5


@dataclass(frozen=True)
class Mined:
    """A mined list.

    Attributes
    ----------
    path:
        The table that it was read from.
    rows:
        As `SCHEMA` says, in the order of the table; `row` is the row of the pool's embedding table.
    pool:
        The pool's embedding table, where the list is that of a run.
    settings:
        Of the run; empty where there is none.
    dropped:
        How many mined images a person's review left out; None where there was none.
    has_pairs:
        Whether there is a pair table.
    """

    path: Path
    rows: pa.Table
    pool: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    dropped: int | None = None
    has_pairs: bool = True

    @property
    def filepaths(self) -> list[str]:
        """The paths."""
        return [str(path) for path in self.rows.column("filepath").to_pylist()]


def read_mined(given: Path) -> Mined:
    """Read the mined list of a run, or a mined table.

    Parameters
    ----------
    given:
        A run folder (its reviewed list comes before its mined list), the output folder of
        `tmm unique_neighbor_matching`, or a mined table. The pair table is looked for beside it.

    Raises
    ------
    TableError
        When it is none of them, the run is not finished, an image stands there twice, or the tables are of different
        runs.
    """
    if not given.exists():
        raise TableError("does not exist", where=str(given), hint="name a run folder, or a mined table")
    if not given.is_dir():
        folder = RunFolder(given.parent)
        if given.name in _OF_A_RUN and folder.record.is_file():
            pairs, pool = (path if path.is_file() else None for path in (folder.pairs, folder.pool))
            return _joined(given, pairs, pool, read_record(folder).settings)
        return _joined(given, _beside(given))
    folder = RunFolder(given)
    if not folder.mined.is_file():
        if (given / _UNIQUE).is_file():
            return _joined(given / _UNIQUE, _beside(given / _UNIQUE))
        inside = sorted([*given.glob("*/run.json"), *given.glob("mining_results/*/run.json")])
        hint = f"name the run: {inside[-1].parent}" if inside else "name the folder of a finished run"
        raise TableError("holds no mined.parquet", where=str(given), hint=hint)
    # A folder of NVIDIA TAO's own workflow has neither record nor pair table.
    ours = folder.record.exists() or folder.pairs.exists() or folder.log.exists()
    settings = read_record(folder).settings if ours else {}
    pool = folder.pool if folder.pool.is_file() else None
    path, dropped = folder.mined, None
    if folder.reviewed.is_file():
        path = folder.reviewed
        mined, reviewed = (set(_paths(file)) for file in (folder.mined, folder.reviewed))
        if reviewed - mined:
            raise TableError(
                f"names {len(reviewed - mined)} images that mined.parquet does not have",
                where=str(path),
                hint="it was written for another run: review again, or remove it",
            )
        dropped = len(mined) - len(reviewed)
    return _joined(path, folder.pairs if folder.pairs.is_file() else None, pool, settings, dropped)


def pool_of(mined: Mined) -> Path:
    """The pool's embedding table of a mined list.

    Raises
    ------
    TableError
        When no run stands beside the list.
    """
    if mined.pool is None or not mined.has_pairs:
        raise TableError(
            "has no vectors: no run stands beside it that has them",
            where=str(mined.path),
            hint="name the folder of a run, or an embedding table",
        )
    return mined.pool


def vectors_of(mined: Mined) -> Matrix:
    """The vectors of the mined images, in their order, from the pool's embedding table.

    Raises
    ------
    TableError, VectorError
        When no run stands beside the list, or its table is damaged.
    """
    rows, places = np.unique(mined.rows.column("row").to_numpy(), return_inverse=True)
    return EmbeddingStream(str(pool_of(mined)), "embedding").vectors(rows)[places]


def pick_rows(table: Path, rows: npt.NDArray[np.int64], columns: Sequence[str]) -> pa.Table:
    """Read columns of some rows of a parquet file, in the order of `rows`.

    Parameters
    ----------
    table:
        The file; all columns are in it.
    rows:
        Row numbers, in any order.
    columns:
        Their names.
    """
    wanted, places = np.unique(rows, return_inverse=True)
    picked, first = [], 0
    try:
        with pq.ParquetFile(table, pre_buffer=False) as reader:
            schema = pa.schema([reader.schema_arrow.field(name) for name in columns])
            for batch in reader.iter_batches(_READ_ROWS, columns=list(columns), use_threads=False):
                begin, end = np.searchsorted(wanted, (first, first + batch.num_rows))
                if end > begin:
                    picked.append(batch.select(list(columns)).take(pa.array(wanted[begin:end] - first)))
                first += batch.num_rows
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(table, error) from error
    if len(wanted) and wanted[-1] >= first:
        raise TableError(
            f"has {first} rows, and the pair table names row {wanted[-1]}",
            where=str(table),
            hint="the two tables are of different runs; mine again",
        )
    return pa.Table.from_batches(picked, schema).take(pa.array(places))


def column_names(table: Path) -> list[str]:
    """The columns of a parquet file."""
    try:
        names: list[str] = pq.read_schema(table).names
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(table, error) from error
    return names


def read_columns(table: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a parquet file, which it has."""
    try:
        return pq.read_table(table, columns=list(columns), partitioning=None)
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(table, error) from error


def _beside(path: Path) -> Path | None:
    """The pair table of a mined table that was given alone."""
    owner = path.with_name("mined.parquet") if path.name in _OF_A_RUN else path
    pairs = sibling(owner, "_pairs")
    return pairs if pairs.is_file() else None


def _joined(
    path: Path,
    pairs: Path | None,
    pool: Path | None = None,
    settings: dict[str, Any] | None = None,
    dropped: int | None = None,
) -> Mined:
    """The mined list with the best pair of each image."""
    paths = pa.array(_paths(path), pa.string())
    _refuse_twice(path, paths)
    if pairs is None:
        nulls = [paths, *(pa.nulls(len(paths), kind.type) for kind in list(SCHEMA)[1:])]
        return Mined(path, pa.table(nulls, schema=SCHEMA), pool, settings or {}, dropped, has_pairs=False)
    best, found = _best_pairs(pairs, paths)
    lost = pc.filter(paths, pa.array(best < 0)).to_pylist()
    if lost:
        raise TableError(
            f"has no pair of {len(lost)} of the {len(paths)} images of {path.name}, the first: {lost[0]}",
            where=str(pairs),
            hint="the two tables are of different runs: mine again, or move the pair table away",
        )
    columns = [paths, *(found.column(name).take(pa.array(best)) for name in list(SCHEMA.names)[1:])]
    rows = pa.table(columns, schema=SCHEMA)
    # Rank -1: the image is not among the neighbours that were looked for.
    rank = pc.if_else(pc.greater(rows.column("rank"), 0), rows.column("rank"), pa.scalar(None, pa.int32()))
    return Mined(path, rows.set_column(4, SCHEMA.field("rank"), rank), pool, settings or {}, dropped)


def _paths(path: Path) -> list[str]:
    """The paths of a mined table: its column `filepath`, or its only column."""
    names = column_names(path)
    name = "filepath" if "filepath" in names or len(names) != 1 else names[0]
    if name not in names:
        raise TableError(
            f"has no column 'filepath'; its columns are {names}", where=str(path), hint="name a mined table"
        )
    column = read_columns(path, (name,)).column(name)
    if column.null_count:
        raise TableError(f"has {column.null_count} rows without a path", where=str(path), hint="mine again")
    return [str(value) for value in column.to_pylist()]


def _refuse_twice(path: Path, paths: pa.StringArray) -> None:
    """Refuse a list that names an image twice, in whatever spelling."""
    keys = normal_paths(paths).dictionary_encode().indices.to_numpy(zero_copy_only=False)
    _, first = np.unique(keys, return_index=True)
    again = np.setdiff1d(np.arange(len(paths)), first)
    if len(again):
        named = ", ".join(f"row {row}: {paths[row].as_py()}" for row in again[:_SHOWN].tolist())
        raise TableError(
            f"names {len(again)} of {len(paths)} images a second time ({named}; rows from 0)",
            where=str(path),
            hint="leave one row for each image",
        )


def _best_pairs(path: Path, mined: pa.StringArray) -> tuple[npt.NDArray[np.int64], pa.Table]:
    """Per image, the row of its pair: the kept one, else its nearest; -1 where it has none. And the pairs."""
    try:
        names = pq.read_schema(path).names
        lacking = [name for name in ("source_filepath", "outcome", "distance", "rank") if name not in names]
        if lacking:
            raise TableError(f"has no column {lacking[0]!r}", where=str(path), hint="mine again")
        wanted = ["source_filepath", "outcome", *(name for name in _FROM_PAIRS.values() if name in names)]
        parts = []
        with pq.ParquetFile(path, pre_buffer=False) as reader:
            for batch in reader.iter_batches(_READ_ROWS, columns=wanted, use_threads=False):
                table = pa.Table.from_batches([batch])
                texts = table.column("source_filepath").cast(pa.string())
                place = pc.index_in(texts, mined).fill_null(-1)
                kept = pc.equal(table.column("outcome").cast(pa.string()), _KEPT).fill_null(False)
                columns = [
                    table.column(name).cast(SCHEMA.field(ours).type)
                    if name in wanted
                    else pa.nulls(table.num_rows, SCHEMA.field(ours).type)
                    for ours, name in _FROM_PAIRS.items()
                ]
                part = pa.table([place, kept, *columns], names=["place", "kept", *_FROM_PAIRS])
                parts.append(part.filter(pc.greater_equal(part.column("place"), 0)))
    except (OSError, pa.ArrowInvalid) as error:
        raise _damaged(path, error) from error
    best = np.full(len(mined), -1, np.int64)
    if not parts:
        return best, pa.table({name: pa.array([], SCHEMA.field(name).type) for name in _FROM_PAIRS})
    pairs = pa.concat_tables(parts)
    place, kept, distance = (pairs.column(name).to_numpy() for name in ("place", "kept", "distance"))
    order = np.lexsort((distance, ~kept.astype(bool), place))  # stable: of equal ones the first
    places, first = np.unique(place[order], return_index=True)
    best[places] = order[first]
    return best, pairs


def _damaged(path: Path, error: Exception) -> TableError:
    return TableError(f"cannot be read: {error}", where=str(path), hint="check that the file is whole")
