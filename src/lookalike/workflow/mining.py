"""`mine`: from two embedding tables to the mined list. What `tmm nearest_neighbors` does."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.config.schemas import FALSE_WORDS, TRUE_WORDS, NearestNeighborsConfig
from lookalike.errors import TableError
from lookalike.neighbors.certificate import Certificate
from lookalike.neighbors.search import Search, Searched, search
from lookalike.neighbors.sides import open_side
from lookalike.reports.summary import MiningCounts, mining_summary
from lookalike.selection.filters import OUTCOMES, Outcome, Selection, apply_floor, select_pairs
from lookalike.tables.atomic import atomic_path, check_output
from lookalike.tables.embedding_stream import EmbeddingStream, label_codes, read_embedding_table
from lookalike.tables.embedding_table import EmbeddingTable, check_embedding_table
from lookalike.tables.image_table import check_filepath
from lookalike.tables.pair_table import SCHEMA, label_texts, sibling, write_table
from lookalike.workflow.comparable import compare_encoders
from lookalike.workflow.exclusion import Barred
from lookalike.workflow.floor import floor_files, nearest_target, write_floor

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
    certificate:
        How the neighbours were found and checked.
    warnings:
        What changes the meaning of the result; also in the summary.
    """

    path: Path
    pairs_path: Path
    summary_path: Path
    summary: str
    counts: MiningCounts
    certificate: Certificate
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
    min_similarity: float = _Config.min_similarity,
    within_label: bool = _Config.within_label,
    device: str = _Config.device,
    memory_limit: int = _Config.memory_limit,
    exclude_paths: Collection[str] = (),
) -> MiningResult:
    """Find for every target its nearest pool images, and write the unique ones.

    Writes three files: the mined table, beside it the pair table (`<stem>_pairs.parquet`) and
    `mining_summary.txt`; with `min_similarity` also `mined_raw.parquet`, `mined_candidates.parquet` and
    `knn_summary.csv`. The pool is read part by part and may be larger than memory.

    Parameters
    ----------
    source_parquet, target_parquet:
        Embedding tables of the pool and of the targets: a parquet file, or a folder of them.
    output_parquet:
        The mined table to write.
    topn, knn_metric, and every setting after them:
        As in `NearestNeighborsConfig`, which holds the defaults.
    exclude_paths:
        Pool images that are not wanted, by their paths (two spellings of a path are one): they are left out of the
        search, so that every target still gets `topn` others.

    Raises
    ------
    ConfigError
        When a setting cannot be right.
    TableError, VectorError
        When a table cannot be read or holds what is not a vector.
    EncoderMismatch
        When the two tables were written by different encoders.
    SearchError
        When the search fails its own check.
    """
    settings = NearestNeighborsConfig(
        str(source_parquet), str(target_parquet), str(output_parquet), topn, knn_metric,
        source_embed_column_name, target_embed_column_name, str(filter_by_label), distance_threshold, min_similarity,
        within_label, device, memory_limit,
    )  # fmt: skip
    return mine_with(settings, exclude_paths=exclude_paths)


def mine_with(
    settings: NearestNeighborsConfig, notes: Sequence[str] = (), exclude_paths: Collection[str] = ()
) -> MiningResult:
    """Do what `mine` does.

    Parameters
    ----------
    settings:
        As `mine` takes them.
    notes:
        What is known already to change the meaning of the result, and was said: the first warnings of the summary.
    exclude_paths:
        As `mine` takes them.
    """
    settings.validate()
    output = Path(settings.output_parquet)
    beside = (*_beside(output), *(floor_files(output) if settings.has_floor else ()))
    if output in beside and output.name != "mined_candidates.parquet":
        raise TableError("is the name of another file of this run", where=str(output), hint="choose another name")
    for written in (output, *beside):
        check_output(written, inputs=(settings.source_parquet, settings.target_parquet))
    columns = (settings.target_embed_column_name, settings.source_embed_column_name)
    check_embedding_table(settings.source_parquet, columns[1])
    target = read_embedding_table(settings.target_parquet, columns[0])
    source = EmbeddingStream(settings.source_parquet, columns[1])
    source.check_filepaths()
    excluded = _excluded(source, exclude_paths)
    left = source.rows - (0 if excluded is None else int(excluded.sum()))
    warnings = [*compare_encoders(target, source, columns), *_setting_warnings(settings, target, source, left)]

    wanted = Search(
        min(settings.topn, max(left, 1)), settings.knn_metric, settings.within_label, excluded, settings.device,
        settings.memory_limit, certified=True,
    )  # fmt: skip
    searched = search(open_side(target, "target", columns[0]), source, wanted)
    warnings += _result_warnings(settings, (target.name, source.name), searched)
    pairs = _pairs(target, source, searched)
    selection = _select(settings, pairs, target.labels is not None and source.has_labels)
    if settings.has_floor:
        rows = pairs.column("source_row").to_numpy()[selection.kept]
        nearest = nearest_target(source, rows, target, settings.device, settings.memory_limit)
        selection = apply_floor(selection, nearest, settings.min_similarity)
    for warning in warnings:
        log.warning(warning)
    return _write(output, settings, searched, selection, pairs, excluded, (*notes, *warnings))


def _beside(output: Path) -> tuple[Path, Path]:
    """The pair table and the summary of a mined table."""
    return sibling(output, "_pairs"), output.with_name("mining_summary.txt")


def _excluded(source: EmbeddingStream, paths: Collection[str]) -> npt.NDArray[np.bool_] | None:
    """Per row of the pool, whether its path is excluded; None where none is."""
    if not paths:
        return None
    return np.concatenate(list(map(Barred(paths), source.filepaths())))


def _setting_warnings(
    settings: NearestNeighborsConfig, target: EmbeddingTable, source: EmbeddingStream, left: int
) -> Iterator[str]:
    """What in the settings makes the result mean something else than it seems; `left` rows may be searched."""
    if not left:
        yield "every row of the pool is excluded: nothing is mined"
    elif settings.topn > left:
        has = "the pool has" if left == source.rows else "is left of the pool after exclusion"
        yield f"topn={settings.topn} is more than {has}: clamped to {left}"
    threshold = settings.distance_threshold
    if settings.knn_metric == "cosine" and threshold > _LARGEST_COSINE:
        yield f"distance_threshold={threshold} is over 2.0, the largest cosine distance: it drops nothing"
    if threshold < 0 and threshold != _Config.distance_threshold:
        yield f"distance_threshold={threshold} is negative: the distance filter is off"
    if settings.filter_by_label.strip().lower() not in TRUE_WORDS | FALSE_WORDS:
        yield f"filter_by_label={settings.filter_by_label!r} is not one of true, 1, yes: not filtered"
    if settings.filters_by_label:
        sides = (("target", target.name, target.labels is not None), ("source", source.name, source.has_labels))
        for side, name, has_labels in sides:
            if not has_labels:
                yield f"filter_by_label is on, but the {side} table {name} has no column 'label': not filtered"


def _result_warnings(settings: NearestNeighborsConfig, names: tuple[str, str], searched: Searched) -> Iterator[str]:
    """What the search met that changes what its result means."""
    if settings.knn_metric == "cosine":
        for side, zeros in zip(("target", "source"), searched.zeros, strict=True):
            if zeros:
                yield f"{zeros} zero vectors in the {side} table: their cosine distance is 1 to everything"
    short = int((searched.neighbors.rows < 0).any(axis=1).sum())
    if short and settings.within_label:
        yield f"within_label: {short} targets have fewer than {searched.neighbors.rows.shape[1]} sources of their label"


def _pairs(target: EmbeddingTable, source: EmbeddingStream, searched: Searched) -> pa.Table:
    """One row for every pair that the search returned, in the order of walking: the pair table but for its outcome."""
    rows = searched.neighbors.rows
    targets, places = np.nonzero(rows >= 0)
    wanted, positions = np.unique(rows[targets, places], return_inverse=True)
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
        "rank": pa.array((places + 1).astype(np.int32)),
        "distance": pa.array(searched.neighbors.distances[targets, places]),
        "score": pa.nulls(len(targets), pa.float32()),  # nearest-neighbour selection gives no score
    }
    return pa.table(list(columns.values()), schema=pa.schema([SCHEMA.field(name) for name in columns]))


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


def _write(
    output: Path,
    settings: NearestNeighborsConfig,
    searched: Searched,
    selection: Selection,
    pairs: pa.Table,
    excluded: npt.NDArray[np.bool_] | None,
    warnings: tuple[str, ...],
) -> MiningResult:
    """Write the pair table, the summary and, last, the mined table."""
    outcome = pa.DictionaryArray.from_arrays(
        pa.array(selection.outcomes), pa.array([str(outcome) for outcome in OUTCOMES])
    )
    pairs = pairs.append_column(SCHEMA.field("outcome"), outcome)
    mined = _files(pairs, selection.kept)
    targets, topn = searched.neighbors.rows.shape
    counts = MiningCounts(
        targets=targets,
        topn=topn,
        pairs=pairs.num_rows,
        label_mismatches=selection.count(Outcome.LABEL_MISMATCH) if selection.label_filter else None,
        over_distance=selection.count(Outcome.OVER_DISTANCE) if selection.distance_filter else None,
        duplicates=selection.count(Outcome.DUPLICATE),
        unique=mined.num_rows,
        under_similarity=selection.count(Outcome.UNDER_SIMILARITY) if settings.has_floor else None,
        excluded=None if excluded is None else int(excluded.sum()),
    )
    certificate = searched.certificate
    summary = mining_summary(
        counts, output, settings.distance_threshold, str(certificate), warnings, settings.min_similarity
    )
    pairs_path, summary_path = _beside(output)
    write_table(pairs, pairs_path)
    with atomic_path(summary_path) as temporary:
        temporary.write_text(summary, encoding="utf-8")
    if settings.has_floor:
        raw = selection.kept | (selection.outcomes == OUTCOMES.index(Outcome.UNDER_SIMILARITY))
        write_floor(output, _files(pairs, raw), mined, settings.min_similarity)
    write_table(mined, output)
    return MiningResult(output, pairs_path, summary_path, summary, counts, certificate, warnings)


def _files(pairs: pa.Table, which: npt.NDArray[np.bool_]) -> pa.Table:
    """The pool images of some pairs as a mined table."""
    return pa.table({"filepath": pc.filter(pairs.column("source_filepath"), pa.array(which))})
