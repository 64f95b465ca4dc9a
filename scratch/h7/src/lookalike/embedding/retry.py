"""Trying again only the images that an earlier run set aside: what must be true of its output for that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.embedding.reuse import EarlierTable, Hashes, hashes_of
from lookalike.errors import TableError
from lookalike.tables.image_table import Filepaths
from lookalike.tables.pair_table import sibling


def open_finished(output: Path) -> EarlierTable:
    """Open the output of the earlier run.

    Raises
    ------
    TableError
        When there is none, or it is no embedding table of lookalike.
    """
    if not output.is_file():
        raise TableError(
            "there is no finished output yet, so nothing was set aside that could be tried again",
            where=f"retry_quarantined=true, {output}",
            hint="run the command without retry_quarantined first",
        )
    return EarlierTable(str(output), "output_parquet")


def count_quarantined(output: Path, finished: EarlierTable, hashes: Hashes, given: Sequence[str], name: str) -> int:
    """How many images the earlier run set aside.

    Parameters
    ----------
    output, finished:
        The output of the earlier run.
    hashes:
        Those of its paths, in the order of its rows.
    given:
        The paths of today's input.
    name:
        The input, for messages.

    Raises
    ------
    TableError
        When output and quarantine table together do not hold the rows of the input: then rows would be lost, or
        embedded although they were never set aside.
    """
    aside = _quarantined(sibling(output, "_quarantine"))
    aside_hashes = hashes_of(aside, len(aside))
    given_hashes = hashes_of(given, len(given))
    unknown = np.flatnonzero(~np.isin(given_hashes, np.concatenate([hashes, aside_hashes])))
    if unknown.size:
        raise TableError(
            f"{unknown.size} rows of the input are neither in {output} nor in its quarantine table, "
            f"the first: {given[int(unknown[0])]}",
            where=f"retry_quarantined=true, {name}",
            hint=f"give the input of the earlier run; for new images choose another output and reuse={output}",
        )
    lost = finished.paths_at(_missing(hashes, given_hashes).tolist())
    lost += [aside[int(row)] for row in np.flatnonzero(~np.isin(aside_hashes, given_hashes))]
    if lost:
        raise TableError(
            f"{len(lost)} rows of {output} or its quarantine table are not in the input, the first: {lost[0]}; "
            "they would be lost",
            where=f"retry_quarantined=true, {name}",
            hint="give the input of the earlier run, or choose another output",
        )
    return len(aside)


def _quarantined(path: Path) -> Filepaths:
    """The paths of the quarantine table; none where there is no such table."""
    if not path.exists():
        return Filepaths(pa.table({"filepath": pa.array([], pa.string())}))
    try:
        table = pq.read_table(path, columns=["filepath"])
        return Filepaths(table)
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        raise TableError(
            f"the quarantine table cannot be read: {error}",
            where=str(path),
            hint="run the command without retry_quarantined",
        ) from error


def _missing(hashes: Hashes, given: Hashes) -> npt.NDArray[np.int64]:
    """Rows of paths that `given` does not hold, or holds fewer times."""
    values, rows, counts = np.unique(hashes, return_index=True, return_counts=True)
    given_values, given_counts = np.unique(given, return_counts=True)
    places = np.minimum(np.searchsorted(given_values, values), len(given_values) - 1)
    held = np.where(given_values[places] == values, given_counts[places], 0)
    return np.sort(rows[counts > held])
