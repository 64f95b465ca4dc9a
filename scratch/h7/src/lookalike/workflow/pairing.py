"""The pair table of a selection: from rows of both sides to what a reader can use."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.neighbors.certificate import Certificate
from lookalike.reports.summary import MiningCounts
from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.selection.result import ScoredSelection
from lookalike.tables.embedding_stream import EmbeddingStream
from lookalike.tables.embedding_table import EmbeddingTable
from lookalike.tables.image_table import check_filepath
from lookalike.tables.pair_table import SCHEMA, label_texts

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Chosen:
    """What a way of selecting decided.

    Attributes
    ----------
    pairs:
        The pair table; the kept ones in its order are the mined list.
    counts:
        Its numbers.
    certificate:
        How the neighbours were found and checked.
    warnings:
        What the search met that changes what its result means.
    scored:
        The selection by score, where it was one.
    """

    pairs: pa.Table
    counts: MiningCounts
    certificate: Certificate
    warnings: tuple[str, ...]
    scored: ScoredSelection | None = None

    def files(self, *outcomes: Outcome) -> pa.Table:
        """The pool images of the pairs with one of some outcomes, each once, as a mined table."""
        wanted = pc.is_in(self.pairs.column("outcome").cast(pa.string()), pa.array([str(one) for one in outcomes]))
        return pa.table({"filepath": pc.unique(pc.filter(self.pairs.column("source_filepath"), wanted))})


def pair_table(
    target: EmbeddingTable,
    source: EmbeddingStream,
    targets: Rows,
    rows: Rows,
    ranks: pa.Array,
    distances: npt.NDArray[np.float32],
    scores: pa.Array,
) -> pa.Table:
    """The pair table but for its outcomes.

    Parameters
    ----------
    target, source:
        Both sides.
    targets, rows, ranks, distances, scores:
        Per pair: rows of both sides, and the numbers that it has.
    """
    wanted, positions = np.unique(rows, return_inverse=True)
    picked = source.pick(wanted, ("filepath", "label"))
    picked = check_filepath(picked, source.name) if len(wanted) else picked
    labels = (
        label_texts(target.labels, len(target)),
        label_texts(picked.column("label") if source.has_labels else None, len(wanted)),
    )
    left, right = pa.array(targets), pa.array(positions)
    columns = {
        "target_row": left,
        "source_row": pa.array(wanted).take(right),
        "target_filepath": target.filepaths.take(left),
        "source_filepath": picked.column("filepath").cast(pa.string()).combine_chunks().take(right),
        "target_label": labels[0].take(left),
        "source_label": labels[1].take(right),
        "rank": ranks,
        "distance": pa.array(distances),
        "score": scores,
    }
    return pa.table(list(columns.values()), schema=pa.schema([SCHEMA.field(name) for name in columns]))


def with_outcomes(pairs: pa.Table, outcomes: npt.NDArray[np.int8]) -> pa.Table:
    """The pair table with what became of each pair, given as indices into `filters.OUTCOMES`."""
    words = pa.DictionaryArray.from_arrays(pa.array(outcomes), pa.array([str(outcome) for outcome in OUTCOMES]))
    return pairs.append_column(SCHEMA.field("outcome"), words)
