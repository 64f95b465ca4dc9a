"""Selection by distance, as the drop-in contract has it: the topn nearest of every target, filters, each image once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.config.schemas import NearestNeighborsConfig
from lookalike.neighbors.search import Search, Searched, search
from lookalike.neighbors.sides import open_side
from lookalike.reports.summary import MiningCounts
from lookalike.selection.filters import Outcome, Selection, apply_floor, select_pairs
from lookalike.tables.embedding_stream import EmbeddingStream, label_codes
from lookalike.tables.embedding_table import EmbeddingTable
from lookalike.workflow.floor import nearest_target
from lookalike.workflow.pairing import Chosen, pair_table, with_outcomes

Mask = npt.NDArray[np.bool_]


def choose_by_distance(
    settings: NearestNeighborsConfig, target: EmbeddingTable, source: EmbeddingStream, excluded: Mask | None
) -> Chosen:
    """Find the neighbours of every target and decide every pair.

    Parameters
    ----------
    settings:
        What to search and to keep.
    target, source:
        Both sides.
    excluded:
        Per row of the pool, whether it is left out of the search.
    """
    left = source.rows - (0 if excluded is None else int(excluded.sum()))
    wanted = Search(
        min(settings.topn, max(left, 1)), settings.knn_metric, settings.within_label, excluded, settings.device,
        settings.memory_limit, certified=True,
    )  # fmt: skip
    searched = search(open_side(target, "target", settings.target_embed_column_name), source, wanted)
    targets, places = np.nonzero(searched.neighbors.rows >= 0)
    pairs = pair_table(
        target,
        source,
        targets,
        searched.neighbors.rows[targets, places],
        pa.array((places + 1).astype(np.int32)),
        searched.neighbors.distances[targets, places],
        pa.nulls(len(targets), pa.float32()),  # distance gives no score
    )
    selection = _select(settings, pairs, target.labels is not None and source.has_labels)
    if settings.has_floor:
        rows = pairs.column("source_row").to_numpy()[selection.kept]
        nearest = nearest_target(source, rows, target, settings.device, settings.memory_limit)
        selection = apply_floor(selection, nearest, settings.min_similarity)
    warnings = tuple(_result_warnings(settings, (target.name, source.name), searched))
    counts = _counts(settings, searched, selection, excluded)
    return Chosen(with_outcomes(pairs, selection.outcomes), counts, searched.certificate, warnings)


def _select(settings: NearestNeighborsConfig, pairs: pa.Table, both_have_labels: bool) -> Selection:
    """Decide every pair."""
    same_label = None
    if settings.filters_by_label and both_have_labels:
        numbers: dict[str, int] = {}
        left, right = (
            label_codes(pairs.column(name).combine_chunks(), numbers, learn=True)
            for name in ("target_label", "source_label")
        )
        same_label = left == right
    paths = pairs.column("source_filepath").combine_chunks().dictionary_encode()
    return select_pairs(
        paths.indices.to_numpy(zero_copy_only=False).astype(np.int64),
        pairs.column("distance").to_numpy(),
        same_label=same_label,
        distance_threshold=settings.distance_threshold,
    )


def _result_warnings(settings: NearestNeighborsConfig, names: tuple[str, str], searched: Searched) -> Iterator[str]:
    """What the search met that changes what its result means."""
    if settings.knn_metric == "cosine":
        for side, zeros in zip(("target", "source"), searched.zeros, strict=True):
            if zeros:
                yield f"{zeros} zero vectors in the {side} table: their cosine distance is 1 to everything"
    short = int((searched.neighbors.rows < 0).any(axis=1).sum())
    if short and settings.within_label:
        yield f"within_label: {short} targets have fewer than {searched.neighbors.rows.shape[1]} sources of their label"


def _counts(
    settings: NearestNeighborsConfig, searched: Searched, selection: Selection, excluded: Mask | None
) -> MiningCounts:
    targets, topn = searched.neighbors.rows.shape
    return MiningCounts(
        targets=targets,
        topn=topn,
        pairs=len(selection.outcomes),
        label_mismatches=selection.count(Outcome.LABEL_MISMATCH) if selection.label_filter else None,
        over_distance=selection.count(Outcome.OVER_DISTANCE) if selection.distance_filter else None,
        duplicates=selection.count(Outcome.DUPLICATE),
        unique=selection.count(Outcome.KEPT),
        under_similarity=selection.count(Outcome.UNDER_SIMILARITY) if settings.has_floor else None,
        excluded=None if excluded is None else int(excluded.sum()),
    )
