"""Embedding tables written directly with pyarrow, with and without an encoder identity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.encoders.identity import EncoderIdentity, ModelIdentity, Numerics, Origin

FLOATS = pa.list_(pa.float32())


def identity(
    *,
    family: str = "CLIP",
    dimension: int = 4,
    weights: str = "a" * 64,
    runtime: str = "torch-cpu",
    model_path: str = "acme/tiny-clip",
) -> EncoderIdentity:
    """An encoder identity; tables of equal model parts can be compared."""
    return EncoderIdentity(
        ModelIdentity(family, f"{family}Model", dimension, weights, "b" * 64, "class_token", "none"),
        Numerics("fp32", runtime, "pillow"),
        Origin(model_path, {"torch": "2.11"}),
    )


def embedding_table(vectors, *, filepaths=None, labels=None, kind=FLOATS, column="embedding", who=None, **extra):
    """A table of vectors (an array, a list of lists, or an Arrow array); `who` is an identity or None."""
    values = vectors if isinstance(vectors, pa.Array | pa.ChunkedArray) else _arrow(vectors, kind)
    if filepaths is None:
        filepaths = [f"/pool/{row}.jpg" for row in range(len(values))]
    columns = {"filepath": filepaths, column: values}
    if labels is not None:
        columns["label"] = labels
    table = pa.table({**columns, **extra})
    return table.replace_schema_metadata({b"lookalike": who.to_json().encode()} if who else None)


def write_embeddings(path: Path, vectors, *, row_group_size=None, **settings) -> Path:
    """Write `embedding_table(...)` and return its path."""
    pq.write_table(embedding_table(vectors, **settings), path, row_group_size=row_group_size)
    return path


def _arrow(vectors, kind):
    rows = np.asarray(vectors).tolist() if isinstance(vectors, np.ndarray) else vectors
    return pa.array(rows, kind)
