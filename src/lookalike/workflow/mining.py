"""`mine`: from two embedding tables to the mined list. What `tmm nearest_neighbors` does."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.config.schemas import FALSE_WORDS, TRUE_WORDS, NearestNeighborsConfig
from lookalike.encoders.identity import EncoderIdentity, differences, side_by_side
from lookalike.errors import EncoderMismatch, VectorError
from lookalike.neighbors.base import Neighbors
from lookalike.neighbors.search import nearest_neighbors
from lookalike.reports.summary import MiningCounts, mining_summary
from lookalike.selection.filters import OUTCOMES, Outcome, Selection, select_pairs
from lookalike.tables.atomic import atomic_path, check_output
from lookalike.tables.embedding_table import EmbeddingTable, check_embedding_table, read_embedding_table
from lookalike.tables.pair_table import SCHEMA, sibling, write_table

log = logging.getLogger(__name__)
_Config = NearestNeighborsConfig

#: The largest value of each metric that has one; a threshold above it drops nothing.
_LARGEST_COSINE = 2.0


@dataclass(frozen=True)
class MiningResult:
    """What `mine` made.

    Attributes
    ----------
    path:
        The mined table: one column `filepath`.
    pairs_path:
        The pair table: every pair that the search returned, with its outcome.
    summary_path:
        `mining_summary.txt`.
    summary:
        Its text.
    counts:
        Its numbers.
    warnings:
        What changes the meaning of the result; also in the summary.
    """

    path: Path
    pairs_path: Path
    summary_path: Path
    summary: str
    counts: MiningCounts
    warnings: tuple[str, ...]


def mine(
    source_parquet: str | Path,
    target_parquet: str | Path,
    output_parquet: str | Path,
    *,
    topn: int = _Config.topn,
    knn_metric: str = _Config.knn_metric,
    source_embed_column_name: str = _Config.source_embed_column_name,
    target_embed_column_name: str = _Config.target_embed_column_name,
    filter_by_label: str | bool = _Config.filter_by_label,
    distance_threshold: float = _Config.distance_threshold,
) -> MiningResult:
    """Find for every target its nearest pool images, and write the unique ones.

    Writes three files: the mined table, beside it the pair table (`<stem>_pairs.parquet`) and
    `mining_summary.txt`.

    Parameters
    ----------
    source_parquet, target_parquet:
        Embedding tables of the pool and of the targets: a parquet file, or a folder of them.
    output_parquet:
        The mined table to write.
    topn, knn_metric, source_embed_column_name, target_embed_column_name, filter_by_label, distance_threshold:
        As in `NearestNeighborsConfig`, which holds the defaults.

    Raises
    ------
    ConfigError
        When a setting cannot be right.
    TableError, VectorError
        When a table cannot be read or holds what is not a vector.
    EncoderMismatch
        When the two tables were written by different encoders.
    """
    settings = NearestNeighborsConfig(
        str(source_parquet), str(target_parquet), str(output_parquet), topn, knn_metric,
        source_embed_column_name, target_embed_column_name, str(filter_by_label), distance_threshold,
    )  # fmt: skip
    settings.validate()
    output = Path(output_parquet)
    for written in (output, *_beside(output)):
        check_output(written, inputs=(settings.source_parquet, settings.target_parquet))
    check_embedding_table(settings.source_parquet, source_embed_column_name)
    target = read_embedding_table(settings.target_parquet, target_embed_column_name)
    source = read_embedding_table(settings.source_parquet, source_embed_column_name)
    columns = (target_embed_column_name, source_embed_column_name)
    warnings = [*_compare_encoders(target, source, columns), *_setting_warnings(settings, target, source)]

    neighbors = nearest_neighbors(target.vectors, source.vectors, topn, knn_metric)
    selection, labels = _select(settings, target, source, neighbors)
    pairs = _pair_table(target, source, neighbors, selection, labels)
    return _write(output, settings, neighbors, selection, pairs, tuple(warnings))


def _beside(output: Path) -> tuple[Path, Path]:
    """The pair table and the summary of a mined table."""
    return sibling(output, "_pairs"), output.with_name("mining_summary.txt")


def _compare_encoders(target: EmbeddingTable, source: EmbeddingTable, columns: tuple[str, str]) -> Iterator[str]:
    """Refuse tables of different encoders; yield a warning where their likeness cannot be known."""
    sides = (target, source)
    identities = [
        EncoderIdentity.from_json(side.identity_json, side.name) if side.identity_json else None for side in sides
    ]
    one, two = identities
    if one is not None and two is not None:
        model, numerics = differences(one, two)
        if model:
            table = side_by_side(one, two, (target.name, source.name))
            raise EncoderMismatch(
                f"the two tables were written by different encoders; they differ in {', '.join(model)}:\n{table}",
                hint="run `embedding image_embeddings` again for one of them, with the other's model and model_path",
            )
        if numerics:
            yield f"the two tables were computed with different {', '.join(numerics)}: distances differ by rounding"
    else:
        unknown = [side.name for side, identity in zip(sides, identities, strict=True) if identity is None]
        yield (
            f"no encoder identity in {' and '.join(unknown)}: made elsewhere, so that both sides were written by "
            "the same encoder is not checked"
        )
    if target.vectors.shape[1] != source.vectors.shape[1]:
        raise VectorError(
            f"targets have {target.vectors.shape[1]} dimensions ({target.name}, column {columns[0]!r}), "
            f"the pool has {source.vectors.shape[1]} ({source.name}, column {columns[1]!r})",
            hint="embed both with the same model and model_path",
        )


def _setting_warnings(
    settings: NearestNeighborsConfig, target: EmbeddingTable, source: EmbeddingTable
) -> Iterator[str]:
    """What in the settings or the data makes the result mean something else than it seems."""
    if settings.topn > len(source):
        yield f"topn={settings.topn} is more than the pool has: clamped to {len(source)}"
    threshold = settings.distance_threshold
    if settings.knn_metric == "cosine" and threshold > _LARGEST_COSINE:
        yield f"distance_threshold={threshold} is over 2.0, the largest cosine distance: it drops nothing"
    if threshold < 0 and threshold != _Config.distance_threshold:
        yield f"distance_threshold={threshold} is negative: the distance filter is off"
    if settings.filter_by_label.strip().lower() not in TRUE_WORDS | FALSE_WORDS:
        yield f"filter_by_label={settings.filter_by_label!r} is not one of true, 1, yes: not filtered"
    if settings.filters_by_label:
        for side, table in (("target", target), ("source", source)):
            if table.labels is None:
                yield f"filter_by_label is on, but the {side} table {table.name} has no column 'label': not filtered"
    if settings.knn_metric == "cosine":
        for side, table in (("target", target), ("source", source)):
            zeros = int((~table.vectors.any(axis=1)).sum())
            if zeros:
                yield f"{zeros} zero vectors in the {side} table: their cosine distance is 1 to everything"


def _select(
    settings: NearestNeighborsConfig, target: EmbeddingTable, source: EmbeddingTable, neighbors: Neighbors
) -> tuple[Selection, tuple[list[str | None], list[str | None]]]:
    """Decide every pair; also the labels of both sides as text."""
    labels = (_label_texts(target), _label_texts(source))
    target_rows = np.repeat(np.arange(len(target)), neighbors.rows.shape[1])
    source_rows = neighbors.rows.reshape(-1)
    same_label = None
    if settings.filters_by_label and target.labels is not None and source.labels is not None:
        numbers: dict[str, int] = {}
        left, right = (
            np.array([numbers.setdefault(str(label).strip().upper(), len(numbers)) for label in side], np.int64)
            for side in labels
        )
        same_label = left[target_rows] == right[source_rows]
    keys = source.filepaths.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
    selection = select_pairs(
        keys[source_rows],
        neighbors.distances.reshape(-1),
        same_label=same_label,
        distance_threshold=settings.distance_threshold,
    )
    return selection, labels


def _label_texts(table: EmbeddingTable) -> list[str | None]:
    """The labels as Python's `str` writes them; None where the table has no labels, or a row has none."""
    if table.labels is None:
        return [None] * len(table)
    return [None if label is None else str(label) for label in table.labels.to_pylist()]


def _pair_table(
    target: EmbeddingTable,
    source: EmbeddingTable,
    neighbors: Neighbors,
    selection: Selection,
    labels: tuple[list[str | None], list[str | None]],
) -> pa.Table:
    """One row for every pair that the search returned, in the order of walking."""
    count, k = neighbors.rows.shape
    target_rows = pa.array(np.repeat(np.arange(count), k))
    source_rows = pa.array(neighbors.rows.reshape(-1))
    outcome = pa.DictionaryArray.from_arrays(
        pa.array(selection.outcomes), pa.array([str(outcome) for outcome in OUTCOMES])
    )
    return pa.table(
        [
            target_rows,
            source_rows,
            target.filepaths.take(target_rows),
            source.filepaths.take(source_rows),
            pa.array(labels[0], pa.string()).take(target_rows),
            pa.array(labels[1], pa.string()).take(source_rows),
            pa.array(np.tile(np.arange(1, k + 1, dtype=np.int32), count)),
            pa.array(neighbors.distances.reshape(-1)),
            pa.nulls(count * k, pa.float32()),  # nearest-neighbour selection gives no score
            outcome,
        ],
        schema=SCHEMA,
    )


def _write(
    output: Path,
    settings: NearestNeighborsConfig,
    neighbors: Neighbors,
    selection: Selection,
    pairs: pa.Table,
    warnings: tuple[str, ...],
) -> MiningResult:
    """Write the pair table, the summary and, last, the mined table."""
    kept: npt.NDArray[np.bool_] = selection.kept
    mined = pa.table({"filepath": pc.filter(pairs.column("source_filepath"), pa.array(kept))})
    counts = MiningCounts(
        targets=len(neighbors.rows),
        topn=neighbors.rows.shape[1],
        label_mismatches=selection.count(Outcome.LABEL_MISMATCH) if selection.label_filter else None,
        over_distance=selection.count(Outcome.OVER_DISTANCE) if selection.distance_filter else None,
        duplicates=selection.count(Outcome.DUPLICATE),
        unique=mined.num_rows,
    )
    summary = mining_summary(counts, output, settings.distance_threshold, warnings)
    pairs_path, summary_path = _beside(output)
    write_table(pairs, pairs_path)
    with atomic_path(summary_path) as temporary:
        temporary.write_text(summary, encoding="utf-8")
    write_table(mined, output)
    for warning in warnings:
        log.warning(warning)
    return MiningResult(output, pairs_path, summary_path, summary, counts, warnings)
