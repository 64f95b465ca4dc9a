"""Vectors of an earlier embedding table, taken over by path, so that its images are neither read nor embedded again.

An index of the table is held in memory: 16 bytes a row. The vectors stay in the file; those of a shard's images are
read together, from the row groups that hold them, a block at a time.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.embedding.prepare import Group, Preparer
from lookalike.encoders.identity import EncoderIdentity, differences, side_by_side
from lookalike.errors import EncoderMismatch, TableError, VectorError
from lookalike.images.locate import ReadSettings, modified_ns
from lookalike.images.outcome import ImageRejected
from lookalike.tables.embedding_table import Parts
from lookalike.tables.vectors import MatrixBuilder, is_vector_type

log = logging.getLogger(__name__)

Hashes = npt.NDArray[np.int64]
Vector = npt.NDArray[np.floating]

#: Rows read at a time: bounds what looking vectors up holds beside those that are found.
_READ_ROWS = 4096


def hashes_of(paths: Sequence[str] | Iterator[str], count: int) -> Hashes:
    """64-bit hashes of `count` paths, which are good for this process only."""
    return np.fromiter(map(hash, paths), np.int64, count)


@dataclass(frozen=True)
class _RowGroup:
    """One row group of a table: its file, its number there, the table's row that it begins with, and how many."""

    file: Path
    number: int
    first: int
    rows: int


class EarlierTable:
    """An embedding table that vectors are taken from.

    Opening it reads the schemas only: `check` compares the encoders, `build_index` reads the paths, `find` the vectors.

    Parameters
    ----------
    path:
        A parquet file, or a folder of them.
    purpose:
        The setting that named it, for messages.

    Raises
    ------
    TableError
        When it is missing, is not an embedding table, or does not say which encoder wrote it.
    """

    def __init__(self, path: str, purpose: str) -> None:
        parts = Parts.open(path)
        parts.require("filepath", "embedding")
        self.path = path
        self._where = f"{purpose}={path}"
        self._files = parts.files
        self._changed_ns = {file: file.stat().st_mtime_ns for file in parts.files}
        kinds = [schema.field("embedding").type for schema in parts.schemas]
        if not all(map(is_vector_type, kinds)):
            raise VectorError(f"column 'embedding' holds {kinds[0]}, not lists of numbers", where=self._where)
        if parts.identity_json is None:
            raise TableError(
                "does not say which encoder wrote it, so its vectors cannot be mixed with new ones",
                where=self._where,
                hint="name a table that lookalike wrote",
            )
        self.identity = EncoderIdentity.from_json(parts.identity_json, path)
        #: The narrowest type of its values.
        self.storage = str(min((kind.value_type for kind in kinds), key=lambda kind: kind.bit_width))
        self._hashes = self._rows = np.empty(0, np.int64)
        self._groups: list[_RowGroup] = []
        self._firsts = self._rows

    def state(self) -> list[list[str | int]]:
        """What tells this table from another, and from itself after a change: files, sizes and times."""
        return [[str(file), file.stat().st_size, self._changed_ns[file]] for file in self._files]

    def check(self, identity: EncoderIdentity, storage: str) -> Iterator[str]:
        """Refuse a table of another encoder; yield a warning where only the rounding differs.

        Raises
        ------
        EncoderMismatch
            When the fingerprints differ; shows both sides.
        """
        model, numerics = differences(self.identity, identity)
        if model:
            table = side_by_side(self.identity, identity, (self.path, "this run"))
            raise EncoderMismatch(
                f"was written by another encoder; it differs in {', '.join(model)}:\n{table}",
                where=self._where,
                hint="embed with the model of that table, or leave the setting out",
            )
        if self.storage == "halffloat" and storage != "float16":
            numerics = [*numerics, "embedding_dtype"]
        if numerics:
            yield (
                f"the vectors of {self.path} were computed or stored with different {', '.join(numerics)}: "
                "they differ from new ones by rounding"
            )

    def build_index(self) -> Hashes:
        """Read the paths; returns a hash for every row, in order."""
        try:
            for file in self._files:
                with pq.ParquetFile(file) as reader:
                    counts = [reader.metadata.row_group(number).num_rows for number in range(reader.num_row_groups)]
                first = self._groups[-1].first + self._groups[-1].rows if self._groups else 0
                starts = accumulate(counts, initial=first)
                self._groups += [_RowGroup(file, *row) for row in zip(range(len(counts)), starts, counts, strict=False)]
            total = sum(group.rows for group in self._groups)
            hashes = hashes_of(self._paths(), total)
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable(error) from error
        # The first row of a path is taken. Two paths of one hash are all but impossible; the second is not found then.
        self._hashes, self._rows = np.unique(hashes, return_index=True)
        self._firsts = np.array([group.first for group in self._groups], np.int64)
        return hashes

    def paths_at(self, rows: Sequence[int]) -> list[str]:
        """The paths of a few rows, ascending, for messages."""
        wanted = set(rows)
        return [path for row, path in enumerate(self._paths()) if row in wanted]

    def find(self, paths: Sequence[str], reading: ReadSettings | None) -> dict[int, Vector]:
        """Look the vectors of some paths up.

        Parameters
        ----------
        paths:
            As the input table holds them.
        reading:
            Where the files of the paths are, so that those that were changed after the table are left out;
            None: files are not looked at.

        Returns
        -------
        dict
            From positions in `paths` to vectors, float32.
        """
        if not len(self._hashes):
            return {}
        hashes = hashes_of(paths, len(paths))
        places = np.minimum(np.searchsorted(self._hashes, hashes), len(self._hashes) - 1)
        positions = np.flatnonzero(self._hashes[places] == hashes)
        rows = self._rows[places[positions]]
        groups = np.searchsorted(self._firsts, rows, "right") - 1
        found: dict[int, Vector] = {}
        for number in np.unique(groups):
            group, inside = self._groups[number], np.flatnonzero(groups == number)
            wanted: dict[int, list[int]] = {}
            for position, row in zip(positions[inside].tolist(), rows[inside].tolist(), strict=True):
                if reading is None or _is_as_old(paths[position], self._changed_ns[group.file], reading):
                    wanted.setdefault(row - group.first, []).append(position)
            for row, path, vector in self._vectors(group, np.array(sorted(wanted), np.int64)):
                found.update((position, vector) for position in wanted[row] if paths[position] == path)
        return found

    def _paths(self) -> Iterator[str]:
        """All paths, row by row."""
        for file in self._files:
            with pq.ParquetFile(file) as reader:
                for batch in reader.iter_batches(columns=["filepath"], use_threads=False):
                    yield from batch.column(0).to_pylist()

    def _vectors(self, group: _RowGroup, wanted: npt.NDArray[np.int64]) -> Iterator[tuple[int, str, Vector]]:
        """Row, path and vector of some rows of a row group, counted from its first."""
        if not len(wanted):
            return
        first = 0
        try:
            with pq.ParquetFile(group.file) as reader:
                columns = ["filepath", "embedding"]
                for batch in reader.iter_batches(
                    _READ_ROWS, row_groups=[group.number], columns=columns, use_threads=False
                ):
                    rows = wanted[slice(*np.searchsorted(wanted, (first, first + len(batch))))]
                    taken = batch.take(pa.array(rows - first))
                    paths = taken.column("filepath").to_pylist()
                    yield from zip(rows.tolist(), paths, self._matrix(taken.column("embedding")), strict=True)
                    first += len(batch)
                    if first > wanted[-1]:
                        break
        except (pa.ArrowInvalid, OSError) as error:
            raise self._unreadable(error) from error

    def _matrix(self, column: pa.Array) -> npt.NDArray[np.floating]:
        """The vectors of a column, checked."""
        dimension = self.identity.model.dimension
        builder = MatrixBuilder(len(column), np.float32, self._where)
        builder.add(column)
        if builder.matrix is None:
            return np.empty((0, dimension), np.float32)
        if builder.matrix.shape[1] != dimension:
            raise VectorError(
                f"holds vectors of {builder.matrix.shape[1]} dimensions, and its encoder gives {dimension}",
                where=self._where,
                hint="the table was changed after it was written; leave the setting out",
            )
        return builder.matrix

    def _unreadable(self, error: BaseException) -> TableError:
        return TableError(
            f"cannot be read: {error}", where=self._where, hint="check that the file is whole, or leave the setting out"
        )


def _is_as_old(path: str, time_ns: int, reading: ReadSettings) -> bool:
    """Whether a file was not changed after a time; what cannot be looked at is left to reading, which says why."""
    try:
        changed = modified_ns(path, reading)
    except ImageRejected:
        return False
    return changed is None or changed <= time_ns


@dataclass(frozen=True)
class Source:
    """An earlier table and the way to take vectors from it: with a look at the files' times, or None for without."""

    table: EarlierTable
    reading: ReadSettings | None


class ReusingPreparer:
    """Asks earlier tables first, and leaves the other images to another preparer.

    Parameters
    ----------
    preparer:
        Prepares what no table holds.
    filepaths:
        All paths of the input.
    sources:
        The tables, asked in order.
    """

    def __init__(self, preparer: Preparer, filepaths: Sequence[str], sources: Sequence[Source]) -> None:
        self.group_size, self.threads, self.ahead = preparer.group_size, preparer.threads, preparer.ahead
        self._preparer = preparer
        self._filepaths = filepaths
        self._sources = sources
        self._found: dict[int, Vector] = {}

    @property
    def alone(self) -> Preparer:
        """See `Preparer.alone`: knows the same vectors."""
        preparer = ReusingPreparer(self._preparer.alone, self._filepaths, self._sources)
        preparer._found = self._found
        return preparer

    def begin(self, span: Sequence[int]) -> None:
        """Look a span's paths up, all at once."""
        left = list(span)
        for source in self._sources:
            found = source.table.find([self._filepaths[row] for row in left], source.reading)
            self._found.update((left[position], vector) for position, vector in found.items())
            left = [row for position, row in enumerate(left) if position not in found]
        self._preparer.begin(left)

    def __call__(self, rows: Sequence[int]) -> Group:
        """Prepare a group, less the images whose vectors were found."""
        known = [(row, self._found[row]) for row in rows if row in self._found]
        reused = {row for row, _ in known}
        left = [row for row in rows if row not in reused]
        group = self._preparer(left) if left else Group()
        group.known += known
        group.reused = len(known)
        return group

    def forget(self, rows: Sequence[int]) -> None:
        """Let go of what was found for rows."""
        for row in rows:
            self._found.pop(row, None)
        self._preparer.forget(rows)
