"""The labels of an embedding table, and how many rows have each: read part by part, without the vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import TableError
from lookalike.tables.embedding_stream import plain_label
from lookalike.tables.embedding_table import Parts

#: What stands for the label of a row that has none.
NO_LABEL = "(no label)"
_READ_ROWS = 65_536


@dataclass(frozen=True)
class Labels:
    """The labels of some rows.

    Attributes
    ----------
    codes:
        Per row, an index into `names`.
    names:
        Each label as it is spelled first. Labels that the label filter takes for the same (case, outer blanks) are one.
    there:
        Whether the table has a column of labels.
    """

    codes: npt.NDArray[np.int64]
    names: tuple[str, ...]
    there: bool


class LabelNames:
    """Numbers of labels, given in the order in which they are met."""

    def __init__(self) -> None:
        self._numbers: dict[str | None, int] = {}
        self.names: list[str] = []

    def number(self, label: object) -> int:
        """The number of a label; of null, that of `NO_LABEL`."""
        key = None if label is None else plain_label(label)
        if key not in self._numbers:
            self._numbers[key] = len(self.names)
            self.names.append(NO_LABEL if label is None else str(label).strip() or '""')
        return self._numbers[key]

    def codes(self, column: pa.Array) -> npt.NDArray[np.int64]:
        """The numbers of a column's rows."""
        try:
            encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        except pa.ArrowNotImplementedError:  # lists and the like
            return np.array([self.number(label) for label in column.to_pylist()], np.int64)
        indices = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy(zero_copy_only=False)
        labels = [*encoded.dictionary.to_pylist(), None]
        numbers = np.zeros(len(labels), np.int64)
        for place in dict.fromkeys(indices.tolist()):  # in the order of the rows
            numbers[place] = self.number(labels[place])
        found: npt.NDArray[np.int64] = numbers[indices]
        return found


def read_labels(path: Path) -> Labels:
    """The label of every row of an embedding table; of a table without labels, `NO_LABEL`.

    Raises
    ------
    TableError
        When the table cannot be read.
    """
    names = LabelNames()
    there = "label" in Parts.open(str(path)).schemas[0].names
    if not there:
        codes = np.full(pq.read_metadata(path).num_rows, names.number(None), np.int64)
        return Labels(codes, tuple(names.names), there)
    parts = [names.codes(column) for column in _columns(path)]
    return Labels(np.concatenate(parts) if parts else np.zeros(0, np.int64), tuple(names.names), there)


def count_labels(path: Path, names: LabelNames) -> npt.NDArray[np.int64]:
    """How many rows have each label; memory does not grow with the table.

    Parameters
    ----------
    path:
        An embedding table with a column `label`.
    names:
        The labels that are known; those of the table are added.
    """
    total = np.zeros(0, np.int64)
    for column in _columns(path):
        part = np.bincount(names.codes(column), minlength=len(names.names))
        total = np.pad(total, (0, len(part) - len(total))) + part
    return np.pad(total, (0, len(names.names) - len(total)))


def _columns(path: Path) -> Iterator[pa.Array]:
    """The column of labels, part by part."""
    try:
        with pq.ParquetFile(path) as reader:
            for batch in reader.iter_batches(_READ_ROWS, columns=["label"]):
                yield batch.column(0)
    except (OSError, pa.ArrowInvalid) as error:
        raise TableError(f"cannot be read: {error}", where=str(path), hint="check that the file is whole") from error
