"""`mine`: from two embedding tables to the mined list. What `tmm nearest_neighbors` does."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.config.schemas import FALSE_WORDS, TRUE_WORDS, NearestNeighborsConfig
from lookalike.encoders.identity import EncoderIdentity, differences, side_by_side
from lookalike.errors import EncoderMismatch, VectorError
from lookalike.neighbors.certificate import Certificate
from lookalike.neighbors.search import Search, Searched, search
from lookalike.neighbors.sides import open_side
from lookalike.reports.summary import MiningCounts, mining_summary
from lookalike.selection.filters import OUTCOMES, Outcome, Selection, select_pairs
from lookalike.tables.atomic import atomic_path, check_output
from lookalike.tables.embedding_stream import EmbeddingStream, label_codes, read_embedding_table
from lookalike.tables.embedding_table import EmbeddingTable, check_embedding_table
from lookalike.tables.image_table import check_filepath
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
    within_label: bool = _Config.within_label,
    device: str = _Config.device,
    memory_limit: int = _Config.memory_limit,
) -> MiningResult:
    """Find for every target its nearest pool images, and write the unique ones.

    Writes three files: the mined table, beside it the pair table (`<stem>_pairs.parquet`) and
    `mining_summary.txt`. The pool is read part by part and may be larger than memory.

    Parameters
    ----------
    source_parquet, target_parquet:
        Embedding tables of the pool and of the targets: a parquet file, or a folder of them.
    output_parquet:
        The mined table to write.
    topn, knn_metric, and every setting after them:
        As in `NearestNeighborsConfig`, which holds the defaults.

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
        source_embed_column_name, target_embed_column_name, str(filter_by_label), distance_threshold, within_label,
        device, memory_limit,
    )  # fmt: skip
    return mine_with(settings)


def mine_with(settings: NearestNeighborsConfig, notes: Sequence[str] = ()) -> MiningResult:
    """Do what `mine` does.

    Parameters
    ----------
    settings:
        As `mine` takes them.
    notes:
        What is known already to change the meaning of the result, and was said: the first warnings of the summary.
    """
    settings.validate()
    output = Path(settings.output_parquet)
    for written in (output, *_beside(output)):
        check_output(written, inputs=(settings.source_parquet, settings.target_parquet))
    columns = (settings.target_embed_column_name, settings.source_embed_column_name)
    check_embedding_table(settings.source_parquet, columns[1])
    target = read_embedding_table(settings.target_parquet, columns[0])
    source = EmbeddingStream(settings.source_parquet, columns[1])
    source.check_filepaths()
    warnings = [*_compare_encoders(target, source, columns), *_setting_warnings(settings, target, source)]

    wanted = Search(
        settings.topn, settings.knn_metric, settings.within_label, None, settings.device, settings.memory_limit,
        certified=True,
    )  # fmt: skip
    searched = search(open_side(target, "target", columns[0]), source, wanted)
    warnings += _result_warnings(settings, (target.name, source.name), searched)
    pairs = _pairs(target, source, searched)
    selection = _select(settings, pairs, target.labels is not None and source.has_labels)
    for warning in warnings:
        log.warning(warning)
    return _write(output, settings, searched, selection, pairs, (*notes, *warnings))


def _beside(output: Path) -> tuple[Path, Path]:
    """The pair table and the summary of a mined table."""
    return sibling(output, "_pairs"), output.with_name("mining_summary.txt")


def _compare_encoders(target: EmbeddingTable, source: EmbeddingStream, columns: tuple[str, str]) -> Iterator[str]:
    """Refuse tables of different encoders; yield a warning where their likeness cannot be known."""
    sides = ((target.identity_json, target.name), (source.identity_json, source.name))
    one, two = (EncoderIdentity.from_json(text, name) if text else None for text, name in sides)
    yield from compare_encoders(one, two, (target.name, source.name))
    if target.vectors.shape[1] != source.dimension:
        raise VectorError(
            f"targets have {target.vectors.shape[1]} dimensions ({target.name}, column {columns[0]!r}), "
            f"the pool has {source.dimension} ({source.name}, column {columns[1]!r})",
            hint="embed both with the same model and model_path",
        )


def compare_encoders(one: EncoderIdentity | None, two: EncoderIdentity | None, names: tuple[str, str]) -> Iterator[str]:
    """Refuse different encoders of two tables; yield a warning where only the rounding differs, or one is unknown."""
    if one is None or two is None:
        unknown = [name for identity, name in zip((one, two), names, strict=True) if identity is None]
        yield (
            f"no encoder identity in {' and '.join(unknown)}: made elsewhere, so that both sides were written by "
            "the same encoder is not checked"
        )
        return
    model, numerics = differences(one, two)
    if model:
        raise EncoderMismatch(
            f"the two tables were written by different encoders; they differ in {', '.join(model)}:\n"
            + side_by_side(one, two, names),
            hint="run `embedding image_embeddings` again for one of them, with the other's model and model_path",
        )
    if numerics:
        yield f"the two tables were computed with different {', '.join(numerics)}: distances differ by rounding"


def _setting_warnings(
    settings: NearestNeighborsConfig, target: EmbeddingTable, source: EmbeddingStream
) -> Iterator[str]:
    """What in the settings makes the result mean something else than it seems."""
    if settings.topn > source.rows:
        yield f"topn={settings.topn} is more than the pool has: clamped to {source.rows}"
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
    if short:
        yield f"within_label: {short} targets have fewer than {searched.neighbors.rows.shape[1]} sources of their label"


def _pairs(target: EmbeddingTable, source: EmbeddingStream, searched: Searched) -> pa.Table:
    """One row for every pair that the search returned, in the order of walking: the pair table but for its outcome."""
    rows = searched.neighbors.rows
    targets, places = np.nonzero(rows >= 0)
    wanted, positions = np.unique(rows[targets, places], return_inverse=True)
    picked = source.pick(wanted, ("filepath", "label"))
    picked = check_filepath(picked, source.name) if len(wanted) else picked
    labels = (
        pa.array(_texts(target.labels, len(target))),
        pa.array(_texts(picked.column("label") if source.has_labels else None, len(wanted))),
    )
    left, right = pa.array(targets), pa.array(positions)
    columns = {
        "target_row": left,
        "source_row": pa.array(wanted).take(right),
        "target_filepath": target.filepaths.take(left),
        "source_filepath": picked.column("filepath").cast(pa.string()).combine_chunks().take(right),
        "target_label": labels[0].cast(pa.string()).take(left),
        "source_label": labels[1].cast(pa.string()).take(right),
        "rank": pa.array((places + 1).astype(np.int32)),
        "distance": pa.array(searched.neighbors.distances[targets, places]),
        "score": pa.nulls(len(targets), pa.float32()),  # nearest-neighbour selection gives no score
    }
    return pa.table(list(columns.values()), schema=pa.schema([SCHEMA.field(name) for name in columns]))


def _texts(labels: pa.ChunkedArray | None, count: int) -> list[str | None]:
    """Labels as Python's `str` writes them; None where there are none, or a row has none."""
    if labels is None:
        return [None] * count
    return [None if label is None else str(label) for label in labels.to_pylist()]


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
    warnings: tuple[str, ...],
) -> MiningResult:
    """Write the pair table, the summary and, last, the mined table."""
    outcome = pa.DictionaryArray.from_arrays(
        pa.array(selection.outcomes), pa.array([str(outcome) for outcome in OUTCOMES])
    )
    pairs = pairs.append_column(SCHEMA.field("outcome"), outcome)
    kept: npt.NDArray[np.bool_] = selection.kept
    mined = pa.table({"filepath": pc.filter(pairs.column("source_filepath"), pa.array(kept))})
    targets, topn = searched.neighbors.rows.shape
    counts = MiningCounts(
        targets=targets,
        topn=topn,
        pairs=pairs.num_rows,
        label_mismatches=selection.count(Outcome.LABEL_MISMATCH) if selection.label_filter else None,
        over_distance=selection.count(Outcome.OVER_DISTANCE) if selection.distance_filter else None,
        duplicates=selection.count(Outcome.DUPLICATE),
        unique=mined.num_rows,
    )
    certificate = searched.certificate
    summary = mining_summary(counts, output, settings.distance_threshold, str(certificate), warnings)
    pairs_path, summary_path = _beside(output)
    write_table(pairs, pairs_path)
    with atomic_path(summary_path) as temporary:
        temporary.write_text(summary, encoding="utf-8")
    write_table(mined, output)
    return MiningResult(output, pairs_path, summary_path, summary, counts, certificate, warnings)
