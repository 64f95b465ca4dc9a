"""How much each target counts: a column of numbers of the targets' table, like `weakness`."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import TableError
from lookalike.tables.embedding_table import Parts


def read_weights(targets: str, name: str) -> npt.NDArray[np.float64] | None:
    """The weights of a table of targets; None where no column says so.

    Parameters
    ----------
    targets:
        A parquet file, or a folder of them.
    name:
        The column; empty for none.

    Raises
    ------
    TableError
        When the column is missing or holds what are no numbers.
    """
    if not name:
        return None
    parts = Parts.open(targets)
    parts.require(name, hint="name a column of numbers with target_weight_column")
    return numbers_of(parts.read((name,)).column(name), name, targets)


def numbers_of(column: pa.ChunkedArray, name: str, where: str) -> npt.NDArray[np.float64]:
    """The numbers of a column of weights.

    Parameters
    ----------
    column:
        One value a target.
    name, where:
        Of the column and its table, for people.

    Raises
    ------
    TableError
        When one of them is none.
    """
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)):
        raise TableError(
            f"its column {name!r} holds {column.type}, not numbers",
            where=where,
            hint="name a column of numbers with target_weight_column",
        )
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise TableError(
            f"its column {name!r} has {column.null_count} rows without a number; the first (from 0) is {row}",
            where=where,
            hint="give every target a weight; 0 counts for nothing",
        )
    weights: npt.NDArray[np.float64] = column.cast(pa.float64()).to_numpy()
    return weights
