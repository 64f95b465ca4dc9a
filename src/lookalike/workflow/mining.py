"""`mine`: from two embedding tables to the mined list. What `tmm nearest_neighbors` does."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import FALSE_WORDS, TRUE_WORDS, NearestNeighborsConfig
from lookalike.encoders.identity import EncoderIdentity
from lookalike.errors import TableError
from lookalike.neighbors.certificate import Certificate
from lookalike.reports.summary import MiningCounts, mining_summary
from lookalike.selection.filters import Outcome
from lookalike.selection.result import ScoredSelection
from lookalike.tables.atomic import atomic_path, check_output
from lookalike.tables.embedding_stream import EmbeddingStream, read_embedding_table
from lookalike.tables.embedding_table import EmbeddingTable, check_embedding_table
from lookalike.tables.pair_table import sibling, write_table
from lookalike.workflow.by_distance import choose_by_distance
from lookalike.workflow.by_score import choose_by_score, describe_choice
from lookalike.workflow.comparable import compare_encoders
from lookalike.workflow.exclusion import Barred, read_excluded
from lookalike.workflow.floor import floor_files, write_floor
from lookalike.workflow.pairing import Chosen

log = logging.getLogger(__name__)
_Config = NearestNeighborsConfig

#: The largest value of each metric that has one; a threshold above it drops nothing.
_LARGEST_COSINE = 2.0
#: Fewer mined images than this share of the last iteration's are a warning (drop-in contract, section 7).
_LEAST_YIELD = 0.5


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
    excluded:
        Per row of the pool, whether it was left out; None where none could be.
    scored:
        The selection by score, where it was one.
    """

    path: Path
    pairs_path: Path
    summary_path: Path
    summary: str
    counts: MiningCounts
    certificate: Certificate
    warnings: tuple[str, ...]
    excluded: npt.NDArray[np.bool_] | None = None
    scored: ScoredSelection | None = None


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
    scoring: str = _Config.scoring,
    components: str = _Config.components,
    candidates: int = _Config.candidates,
    budget: float = _Config.budget,
    min_per_target: int = _Config.min_per_target,
    max_per_target: int = _Config.max_per_target,
    max_per_label: int = _Config.max_per_label,
    target_weight_column: str = _Config.target_weight_column,
    dedup_threshold: float = _Config.dedup_threshold,
    diversity: float = _Config.diversity,
    diversity_method: str = _Config.diversity_method,
    avoid_weight: float = _Config.avoid_weight,
    avoid_parquet: str | Path = _Config.avoid_parquet,
    exclude_path: str | None = _Config.exclude_path,
    splits: int = _Config.splits,
    background: int = _Config.background,
    seed: int = _Config.seed,
    device: str = _Config.device,
    memory_limit: int = _Config.memory_limit,
    exclude_paths: Collection[str] = (),
) -> MiningResult:
    """Find for every target its nearest pool images, and write the unique ones.

    With `scoring`, or a budget or limit, the pool images are scored instead, and the best are kept (docs/selection.md).

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
        str(source_parquet), str(target_parquet), str(output_parquet), topn=topn, knn_metric=knn_metric,
        source_embed_column_name=source_embed_column_name, target_embed_column_name=target_embed_column_name,
        filter_by_label=str(filter_by_label), distance_threshold=distance_threshold, min_similarity=min_similarity,
        within_label=within_label, scoring=scoring, components=str(components), candidates=candidates, budget=budget,
        min_per_target=min_per_target, max_per_target=max_per_target, max_per_label=max_per_label,
        target_weight_column=target_weight_column, dedup_threshold=dedup_threshold, diversity=diversity,
        diversity_method=diversity_method, avoid_weight=avoid_weight, avoid_parquet=str(avoid_parquet),
        exclude_path=exclude_path, splits=splits, background=background, seed=seed, device=device,
        memory_limit=memory_limit,
    )  # fmt: skip
    return mine_with(settings, exclude_paths=exclude_paths)


def mine_with(
    settings: NearestNeighborsConfig,
    notes: Sequence[str] = (),
    exclude_paths: Collection[str] = (),
    last_yield: int = 0,
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
    last_yield:
        Images that the last iteration of a retraining loop mined; fewer than half of that now is a warning.
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
    if settings.exclude_path:
        exclude_paths = [*exclude_paths, *read_excluded(settings.exclude_path, "filepath")]
    excluded = _excluded(source, exclude_paths)
    left = source.rows - (0 if excluded is None else int(excluded.sum()))
    warnings = [*compare_encoders(target, source, columns), *_setting_warnings(settings, target, source, left)]

    if settings.selects_by_score and left:
        avoid, said = _avoided(settings, source)
        warnings += said
        chosen = choose_by_score(settings, target, source, excluded, avoid)
    else:
        chosen = choose_by_distance(settings, target, source, excluded)
    warnings += chosen.warnings
    if chosen.counts.unique < _LEAST_YIELD * last_yield:
        warnings.append(
            f"this iteration gives {chosen.counts.unique} images, the last one gave {last_yield}: the pool may be "
            "exhausted"
        )
    for warning in warnings:
        log.warning(warning)
    return _write(output, settings, chosen, excluded, (*notes, *warnings))


def _beside(output: Path) -> tuple[Path, Path]:
    """The pair table and the summary of a mined table."""
    return sibling(output, "_pairs"), output.with_name("mining_summary.txt")


def _excluded(source: EmbeddingStream, paths: Collection[str]) -> npt.NDArray[np.bool_] | None:
    """Per row of the pool, whether its path is excluded; None where none is."""
    if not paths:
        return None
    return np.concatenate(list(map(Barred(paths), source.filepaths())))


def _avoided(settings: NearestNeighborsConfig, source: EmbeddingStream) -> tuple[EmbeddingTable | None, list[str]]:
    """The images to stay away from, where there are any, and what their table gives to say."""
    if not settings.avoid_parquet:
        return None, []
    columns = (settings.target_embed_column_name, settings.source_embed_column_name)
    avoid = read_embedding_table(settings.avoid_parquet, columns[0])
    return avoid, [f"avoid: {warning}" for warning in compare_encoders(avoid, source, columns)]


def _setting_warnings(
    settings: NearestNeighborsConfig, target: EmbeddingTable, source: EmbeddingStream, left: int
) -> Iterator[str]:
    """What in the settings makes the result mean something else than it seems; `left` rows may be searched."""
    if not left:
        yield "every row of the pool is excluded: nothing is mined"
    elif settings.topn > left and not settings.selects_by_score:
        has = "the pool has" if left == source.rows else "is left of the pool after exclusion"
        yield f"topn={settings.topn} is more than {has}: clamped to {left}"
    threshold = settings.distance_threshold
    if settings.knn_metric == "cosine" and threshold > _LARGEST_COSINE:
        yield f"distance_threshold={threshold} is over 2.0, the largest cosine distance: it drops nothing"
    if threshold < 0 and threshold != _Config.distance_threshold:
        yield f"distance_threshold={threshold} is negative: the distance filter is off"
    if _is_of_texts(target) and settings.selects_by_score and settings.scoring != "nearest":
        yield (
            f"scoring={settings.scoring} supposes that the targets are images, and they are texts: that it finds more "
            "than scoring=nearest is not known"
        )
    if settings.filter_by_label.strip().lower() not in TRUE_WORDS | FALSE_WORDS:
        yield f"filter_by_label={settings.filter_by_label!r} is not one of true, 1, yes: not filtered"
    if settings.filters_by_label:
        sides = (("target", target.name, target.labels is not None), ("source", source.name, source.has_labels))
        for side, name, has_labels in sides:
            if not has_labels:
                yield f"filter_by_label is on, but the {side} table {name} has no column 'label': not filtered"


def _is_of_texts(table: EmbeddingTable) -> bool:
    """Whether a text encoder wrote the vectors."""
    identity = EncoderIdentity.from_json(table.identity_json, table.name) if table.identity_json else None
    return identity is not None and identity.images is not None


def _write(
    output: Path,
    settings: NearestNeighborsConfig,
    chosen: Chosen,
    excluded: npt.NDArray[np.bool_] | None,
    warnings: tuple[str, ...],
) -> MiningResult:
    """Write the pair table, the summary and, last, the mined table."""
    mined = chosen.files(Outcome.KEPT)
    summary = mining_summary(
        chosen.counts, output, settings.distance_threshold, str(chosen.certificate), warnings, settings.min_similarity,
        () if chosen.scored is None else describe_choice(chosen.scored),
    )  # fmt: skip
    pairs_path, summary_path = _beside(output)
    write_table(chosen.pairs, pairs_path)
    with atomic_path(summary_path) as temporary:
        temporary.write_text(summary, encoding="utf-8")
    if settings.has_floor:
        write_floor(output, chosen.files(Outcome.KEPT, Outcome.UNDER_SIMILARITY), mined, settings.min_similarity)
    write_table(mined, output)
    return MiningResult(
        output, pairs_path, summary_path, summary, chosen.counts, chosen.certificate, warnings, excluded, chosen.scored
    )
