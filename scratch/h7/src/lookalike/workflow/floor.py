"""The cosine floor of the drop-in contract (section 7): mined images that are like no target are dropped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.neighbors.search import nearest_neighbors
from lookalike.tables.atomic import atomic_path
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.embedding_table import EmbeddingTable
from lookalike.tables.pair_table import write_table

#: The vectors of mined images that are measured at a time have this share of the memory limit.
_SHARE = 4


def floor_files(output: Path) -> tuple[Path, Path, Path]:
    """What stands beside a mined table: the images before the floor, those after it, and the counts."""
    names = ("mined_raw.parquet", "mined_candidates.parquet", "knn_summary.csv")
    raw, candidates, counts = (output.with_name(name) for name in names)
    return raw, candidates, counts


def nearest_target(
    source: EmbeddingStream, rows: npt.NDArray[np.int64], target: EmbeddingTable, device: str, memory_limit: int
) -> npt.NDArray[np.float32]:
    """The cosine distance of some pool images to the nearest of all targets.

    The search that mined them does not tell: an image may be nearer to a target among whose neighbours it is not, and
    the metric may be another one.

    Parameters
    ----------
    source, rows:
        The pool, and the rows of it.
    target:
        The targets.
    device, memory_limit:
        Of the search.
    """
    wanted, places = np.unique(rows, return_inverse=True)
    size = max(1, memory_limit // _SHARE // (source.dimension * np.dtype(source.dtype).itemsize))
    distances = np.empty(len(wanted), np.float32)
    for first in range(0, len(wanted), size):
        part = slice(first, first + size)
        found = nearest_neighbors(
            source.vectors(wanted[part]), target, 1, "cosine", device=device, memory_limit=memory_limit
        )
        distances[part] = found.distances[:, 0]
    return distances[places]


def write_floor(output: Path, raw: pa.Table, kept: pa.Table, min_similarity: float) -> None:
    """Write the three files."""
    raw_path, kept_path, counts_path = floor_files(output)
    write_table(raw, raw_path)
    write_table(kept, kept_path)
    counts = (raw.num_rows, kept.num_rows, raw.num_rows - kept.num_rows, min_similarity)
    with atomic_path(counts_path) as temporary:
        temporary.write_text(
            f"candidate_count,kept_count,rejected_count,similarity_threshold\n{','.join(map(str, counts))}\n",
            encoding="utf-8",
        )
