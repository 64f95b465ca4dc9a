"""The pair table: one row for every pair that the search returned, and what became of it.

The mined table is derivable from it: the `source_filepath` of the rows whose `outcome` is ``kept``, in order.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.tables.atomic import atomic_path

SCHEMA = pa.schema(
    [
        pa.field("target_row", pa.int64()),
        pa.field("source_row", pa.int64()),
        pa.field("target_filepath", pa.string()),
        pa.field("source_filepath", pa.string()),
        pa.field("target_label", pa.string()),
        pa.field("source_label", pa.string()),
        pa.field("rank", pa.int32()),
        pa.field("distance", pa.float32()),
        pa.field("score", pa.float32()),
        pa.field("outcome", pa.dictionary(pa.int8(), pa.string())),
    ]
)


def sibling(path: Path, suffix: str) -> Path:
    """The file beside `path` whose stem ends in `suffix`: `mined.parquet` -> `mined_pairs.parquet`."""
    return path.with_name(f"{path.stem}{suffix}.parquet")


def label_texts(labels: pa.Array | pa.ChunkedArray | None, count: int) -> pa.Array:
    """Labels as Python's `str` writes them; null where there are none, or a row has none."""
    if labels is None:
        return pa.nulls(count, pa.string())
    return pa.array([None if label is None else str(label) for label in labels.to_pylist()], pa.string())


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table as parquet, whole or not at all."""
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")
