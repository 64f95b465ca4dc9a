"""Selection by score: the pool images most like the targets and least like the rest of the pool, within a budget."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.config.schemas import NearestNeighborsConfig, ScoringConfig
from lookalike.reports.summary import MiningCounts
from lookalike.selection.filters import Outcome
from lookalike.selection.result import ScoredSelection
from lookalike.selection.scored import select_scored
from lookalike.tables.embedding_stream import EmbeddingStream, label_codes
from lookalike.tables.embedding_table import EmbeddingTable
from lookalike.workflow.pairing import Chosen, pair_table, with_outcomes
from lookalike.workflow.weights import read_weights

Mask = npt.NDArray[np.bool_]
Rows = npt.NDArray[np.int64]

#: Outcomes that drop pairs and have no number of their own in `MiningCounts`, as the summary calls their rules.
RULES = {
    Outcome.UNDER_SIMILARITY: "similarity",
    Outcome.OVER_BUDGET: "budget",
    Outcome.OVER_TARGET_LIMIT: "target limit",
    Outcome.OVER_LABEL_LIMIT: "label limit",
    Outcome.NEAR_DUPLICATE: "near-duplicate",
    Outcome.LESS_DIVERSE: "diversity",
    Outcome.AVOIDED: "avoid",
}


def choose_by_score(
    settings: NearestNeighborsConfig,
    target: EmbeddingTable,
    source: EmbeddingStream,
    excluded: Mask | None,
    avoid: EmbeddingTable | None = None,
) -> Chosen:
    """Score the pool, keep the best, and decide every pair.

    Parameters
    ----------
    settings:
        What to search and to keep.
    target, source:
        Both sides.
    excluded:
        Per row of the pool, whether it is taken as if it were not there.
    avoid:
        Images to stay away from.

    Raises
    ------
    TableError
        When the column of the weights is missing or holds no numbers.
    """
    scored = settings.scored()
    has_labels = target.labels is not None and source.has_labels
    if settings.filters_by_label and not has_labels and not settings.within_label:
        scored = replace(scored, filter_by_label="false")  # said by a warning, as without scores
    pool = source.read_scalars()
    codes: dict[str, int] = {}
    selection = select_scored(
        target,
        source,
        scored,
        target_weights=read_weights(settings.target_parquet, settings.target_weight_column),
        target_labels=None if target.labels is None else codes_of(target.labels, codes),
        excluded=excluded,
        pool_labels=codes_of(pool.column("label"), codes) if scored.filters_by_label else None,
        keys=keys_of(pool.column("filepath")),
        avoid=avoid,
    )
    pairs = pair_table(
        target,
        source,
        selection.targets,
        selection.rows,
        pa.array(selection.ranks, mask=selection.ranks < 1),
        selection.distances,
        pa.array(selection.scores),
    )
    counts = _counts(settings, scored, selection, excluded)
    pairs = with_outcomes(pairs, selection.outcomes)
    return Chosen(pairs, counts, selection.certificate, selection.notes, selection)


def codes_of(labels: pa.ChunkedArray, codes: dict[str, int]) -> Rows:
    """Numbers of labels, equal where they agree as the label filter compares them; new ones are added to `codes`."""
    pieces = [label_codes(piece, codes, learn=True) for piece in labels.chunks]
    return np.concatenate(pieces) if pieces else np.zeros(0, np.int64)


def keys_of(paths: pa.ChunkedArray) -> Rows:
    """Numbers of paths, equal where the paths are."""
    encoded = pc.dictionary_encode(paths.cast(pa.string())).combine_chunks()
    keys: Rows = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return keys


def _counts(
    settings: NearestNeighborsConfig, scored: ScoringConfig, selection: ScoredSelection, excluded: Mask | None
) -> MiningCounts:
    return MiningCounts(
        targets=len(selection.own),
        topn=settings.topn,
        pairs=len(selection.outcomes),
        label_mismatches=selection.count(Outcome.LABEL_MISMATCH) if scored.filters_by_label else None,
        over_distance=selection.count(Outcome.OVER_DISTANCE) if scored.distance_threshold >= 0 else None,
        duplicates=selection.count(Outcome.DUPLICATE),
        unique=selection.count(Outcome.KEPT),
        excluded=None if excluded is None else int(excluded.sum()),
        dropped={words: number for outcome, words in RULES.items() if (number := selection.count(outcome))},
    )


def describe_choice(selection: ScoredSelection) -> tuple[str, ...]:
    """What the summary says of a selection by score."""
    served = int(selection.served.sum())
    return (
        f"Scoring: {selection.choice.option} ({selection.choice.reason})",
        f"Budget: {selection.budget} images",
        f"Targets served: {served}/{len(selection.own)}, by a kept image among their own candidates",
    )
