"""Text tables: rows with a `text` and anything else, from the same kinds of input as image tables.

In a text file every line is a text; empty lines and ``#`` comments are left out.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from lookalike.tables.image_table import check_strings, name_of, read_rows


def read_text_table(table: Any) -> pa.Table:
    """Read a text table; every row has a `text`.

    Parameters
    ----------
    table:
        A path or fsspec URL, a `pyarrow.Table`, or a `pandas.DataFrame`.

    Returns
    -------
    pyarrow.Table
        All columns as they were read; `text` as strings, without nulls.

    Raises
    ------
    TableError
        When nothing is there, the format is unknown, the file is damaged, `text` is missing, is not text, or holds
        nulls, or no row is left.
    """
    return check_strings(read_rows(table, "text"), name_of(table), "text", "texts")
