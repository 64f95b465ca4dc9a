"""What became of every pool image, mined or not: one row for each row of the pool.

The pair table has only the pairs that were looked at. With this table beside it, a run folder answers for any image of
the pool whether it was mined, for which target, and if not, which rule stopped it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.selection.result import ScoredSelection
from lookalike.tables.atomic import atomic_path
from lookalike.tables.embedding_stream import EmbeddingStream

#: `target_row`, `rank` and `distance` are those of the target that the image is kept for, else of the nearest one that
#: was looked at; `rule` is the one that excluded it; `because_of` is the image
#: that is kept instead, or that bars it.
SCHEMA = pa.schema(
    [
        pa.field("source_row", pa.int64()),
        pa.field("filepath", pa.string()),
        pa.field("outcome", pa.dictionary(pa.int8(), pa.string())),
        pa.field("target_row", pa.int64()),
        pa.field("target_filepath", pa.string()),
        pa.field("rank", pa.int32()),
        pa.field("distance", pa.float32()),
        pa.field("score", pa.float32()),
        pa.field("rule", pa.string()),
        pa.field("because_of", pa.string()),
    ]
)


@dataclass(frozen=True)
class Fates:
    """What is known of the pool images.

    Attributes
    ----------
    pairs:
        The pair table.
    targets:
        The targets' paths.
    excluded:
        Per row of the pool, whether it was; None where none was.
    barred:
        Of excluded rows, the rule and the image that barred them, where that is known.
    scored:
        The selection by score, where it was one.
    """

    pairs: pa.Table
    targets: pa.Array
    excluded: npt.NDArray[np.bool_] | None = None
    barred: Mapping[int, tuple[str, str]] = field(default_factory=dict)
    scored: ScoredSelection | None = None


def write_pool_outcomes(path: Path, source: EmbeddingStream, fates: Fates) -> None:
    """Write the table, whole or not at all.

    Parameters
    ----------
    path:
        Where.
    source:
        The pool.
    fates:
        What is known of its images.
    """
    known = _deciding(fates.pairs)
    kept = _kept_paths(fates.pairs)
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, SCHEMA, compression="zstd") as writer:
        first = 0
        for paths in source.filepaths():
            writer.write_table(_piece(first, paths, fates, known, kept))
            first += len(paths)


def _deciding(pairs: pa.Table) -> pa.Table:
    """For every pool row that has pairs, ascending, the pair that says most of it: the kept one, else the nearest."""
    rows = pairs.column("source_row").to_numpy()
    is_kept = pc.equal(pairs.column("outcome").cast(pa.string()), str(Outcome.KEPT)).to_numpy()
    order = np.lexsort((pairs.column("distance").to_numpy(), ~is_kept, rows))
    _, first = np.unique(rows[order], return_index=True)
    return pairs.take(pa.array(order[first]))


def _kept_paths(pairs: pa.Table) -> dict[int, str]:
    """The paths of the pool rows that are kept."""
    kept = pairs.filter(pc.equal(pairs.column("outcome").cast(pa.string()), str(Outcome.KEPT)))
    return dict(zip(kept.column("source_row").to_pylist(), kept.column("source_filepath").to_pylist(), strict=True))


def _piece(first: int, paths: pa.Array, fates: Fates, known: pa.Table, kept: Mapping[int, str]) -> pa.Table:
    """The table's rows for some consecutive rows of the pool."""
    count = len(paths)
    rows = known.column("source_row").to_numpy()
    begin, end = np.searchsorted(rows, (first, first + count))
    pairs, places = known.slice(begin, end - begin), rows[begin:end] - first
    outcomes = np.full(count, OUTCOMES.index(Outcome.BEYOND_TOPN), np.int8)
    targets, ranks = np.full(count, -1), np.zeros(count, np.int32)
    distances, scores = np.full(count, np.nan, np.float32), np.full(count, np.nan, np.float32)
    because: list[str | None] = [None] * count
    rules: list[str | None] = [None] * count
    if fates.scored is not None:
        part = slice(first, first + count)
        outcomes[:], targets[:] = fates.scored.pool_outcomes[part], fates.scored.pool_targets[part]
        distances[:], scores[:] = fates.scored.pool_distances[part], fates.scored.pool_scores[part]
        for place, row in enumerate(fates.scored.pool_instead[part].tolist()):
            because[place] = kept.get(row) if row != first + place else None
    else:
        words = [str(outcome) for outcome in OUTCOMES]
        outcomes[places] = [words.index(word) for word in pairs.column("outcome").cast(pa.string()).to_pylist()]
    targets[places] = pairs.column("target_row").to_numpy()
    ranks[places] = pairs.column("rank").fill_null(0).to_numpy()
    distances[places] = pairs.column("distance").to_numpy()
    if fates.excluded is not None:
        barred = np.flatnonzero(fates.excluded[first : first + count])
        outcomes[barred] = OUTCOMES.index(Outcome.EXCLUDED)
        for place in barred.tolist():
            rules[place], because[place] = fates.barred.get(first + place, (None, None))
    target_rows = pa.array(targets, mask=targets < 0)
    columns = {
        "source_row": pa.array(np.arange(first, first + count)),
        "filepath": paths.cast(pa.string()),
        "outcome": pa.DictionaryArray.from_arrays(pa.array(outcomes), pa.array([str(one) for one in OUTCOMES])),
        "target_row": target_rows,
        "target_filepath": fates.targets.take(target_rows),
        "rank": pa.array(ranks, mask=ranks < 1),
        "distance": pa.array(distances, mask=~np.isfinite(distances)),
        "score": pa.array(scores, mask=~np.isfinite(scores)),
        "rule": pa.array(rules, pa.string()),
        "because_of": pa.array(because, pa.string()),
    }
    return pa.table(columns, schema=SCHEMA)
