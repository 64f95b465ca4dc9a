"""`unique_neighbors`: a wanted number of pool images. What `tmm unique_neighbor_matching` does."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lookalike.config.schemas import UniqueNeighborMatchingConfig
from lookalike.errors import ConfigError, TableError
from lookalike.neighbors.certificate import Certificate
from lookalike.reports.unique_summary import dataset_stats, distance_stats
from lookalike.selection.allocation import ANY, COMMON, Share, allocate, make_strata
from lookalike.selection.assignment import assign
from lookalike.selection.unique import Mask, Pairs, Rows, match
from lookalike.tables.annotations import Annotations, read_annotations
from lookalike.tables.atomic import check_output
from lookalike.tables.embedding_stream import EmbeddingStream, read_embedding_table
from lookalike.tables.pair_table import write_table
from lookalike.workflow.comparable import compare_encoders
from lookalike.workflow.exclusion import Barred, read_excluded
from lookalike.workflow.unique_output import (
    Sides,
    Solved,
    UniqueFolder,
    embedding_table,
    file_name,
    pair_table,
    pass_table,
    write_sheets,
    write_summary,
)
from lookalike.workflow.unique_search import UnitSearch

log = logging.getLogger(__name__)
_Config = UniqueNeighborMatchingConfig


@dataclass(frozen=True)
class UniqueResult:
    """What `unique_neighbors` made.

    Attributes
    ----------
    path:
        The mined table: one column, named as that of the pool's paths; nearest first.
    pairs_path:
        The pair table: every candidate of each target, with its outcome.
    summary_path:
        `summary.json`.
    summary:
        Its content.
    columns:
        Of the mined table.
    retrieved:
        Rows of the mined table.
    certificate:
        How the neighbours were found and checked, in all searches.
    files:
        Everything that was written.
    warnings:
        What changes the meaning of the result; also in the summary.
    """

    path: Path
    pairs_path: Path
    summary_path: Path
    summary: dict[str, Any]
    columns: tuple[str, ...]
    retrieved: int
    certificate: Certificate
    files: tuple[Path, ...]
    warnings: tuple[str, ...]


def unique_neighbors(
    source_path: str | Path,
    target_path: str | Path,
    output_dir: str | Path,
    desired_unique_count: int,
    *,
    allocation_policy: str = _Config.allocation_policy,
    distance_metric: str = _Config.distance_metric,
    candidate_expansion_factor: int = _Config.candidate_expansion_factor,
    source_embedding_column: str = _Config.source_embedding_column,
    target_embedding_column: str = _Config.target_embedding_column,
    source_filepath_column: str = _Config.source_filepath_column,
    target_filepath_column: str = _Config.target_filepath_column,
    exclude_path: str | Path | None = _Config.exclude_path,
    source_detection_file: str | Path | None = _Config.source_detection_file,
    target_detection_file: str | Path | None = _Config.target_detection_file,
    detection_format: str | None = _Config.detection_format,
    rare_class_list: str = _Config.rare_class_list,
    save_embeddings: bool = _Config.save_embeddings,
    visualize: bool = _Config.visualize,
    exclude_by: str = _Config.exclude_by,
    assignment: str = _Config.assignment,
    device: str = _Config.device,
    memory_limit: int = _Config.memory_limit,
) -> UniqueResult:
    """Mine a wanted number of different pool images; each goes to one target at most.

    Writes `final_unique_files.parquet`, its pair table, a table of every pass and `summary.json`. The vectors of the
    pool are read part by part; its paths are held in memory.

    Parameters
    ----------
    source_path, target_path:
        Embedding tables of the pool and of the targets: a parquet file, or a folder of them.
    output_dir:
        The folder for everything.
    desired_unique_count:
        How many images are wanted. Where the pool has fewer, all of them are taken.
    allocation_policy, and every setting after it:
        As in `UniqueNeighborMatchingConfig`, which holds the defaults.

    Raises
    ------
    ConfigError
        When a setting cannot be right, or one that another needs is missing.
    TableError, VectorError
        When a table or annotations cannot be read.
    EncoderMismatch
        When the two tables were written by different encoders.
    """
    settings = UniqueNeighborMatchingConfig(
        str(source_path), str(target_path), str(output_dir), desired_unique_count, allocation_policy, distance_metric,
        candidate_expansion_factor, source_embedding_column, target_embedding_column, source_filepath_column,
        target_filepath_column, _text(exclude_path), _text(source_detection_file), _text(target_detection_file),
        detection_format, rare_class_list, save_embeddings, visualize, exclude_by, assignment, device, memory_limit,
    )  # fmt: skip
    settings.validate()
    if {COMMON, ANY} & set(settings.rare_classes):
        raise ConfigError(
            f"a rare class cannot be named {COMMON!r} or {ANY!r}: these are the names of pools",
            where="rare_class_list",
            hint="rename the class in the annotations",
        )
    folder = UniqueFolder(Path(output_dir))
    inputs = [settings.source_path, settings.target_path, settings.exclude_path, settings.source_detection_file]
    inputs.append(settings.target_detection_file)
    for written in (folder.final, folder.pairs, folder.embeddings, folder.summary):
        check_output(written, inputs=tuple(filter(None, inputs)))
    return _Run(settings, folder).work()


class _Run:
    """One run: what was read, what was found on the way."""

    def __init__(self, settings: UniqueNeighborMatchingConfig, folder: UniqueFolder) -> None:
        self.settings, self.folder = settings, folder
        target = read_embedding_table(
            settings.target_path, settings.target_embedding_column, settings.target_filepath_column
        )
        source = EmbeddingStream(
            settings.source_path, settings.source_embedding_column, settings.source_filepath_column
        )
        columns = (settings.target_embedding_column, settings.source_embedding_column)
        self.warnings = list(compare_encoders(target, source, columns))
        paths = pa.chunked_array(list(source.filepaths()), pa.string()).combine_chunks()
        order = pc.rank(paths, sort_keys="ascending", tiebreaker="dense").to_numpy(zero_copy_only=False)
        self.sides = Sides(target, source, paths, order.astype(np.int64))
        self.classes = {
            side: _read_classes(kind, settings.detection_format, names, self.warnings)
            for side, kind, names in (
                ("target", settings.target_detection_file, target.filepaths),
                ("source", settings.source_detection_file, paths),
            )
        }
        self.targets: Rows = np.arange(len(target))
        self.solved: list[Solved] = []
        self.written: list[Path] = []

    def work(self) -> UniqueResult:
        """Match, and write everything; the mined table comes last."""
        settings, folder, sides = self.settings, self.folder, self.sides
        free, excluded = self._free()
        shares = self._match(free)
        pairs = Pairs.join([one.kept for one in self.solved]).nearest_first(sides.path_order)
        self._result_warnings(int(free.sum()), len(pairs.sources), shares)
        self._write(pair_table(self.solved, sides), folder.pairs)
        names = (settings.source_filepath_column, settings.source_embedding_column)
        if settings.save_embeddings:
            self._write(embedding_table(pairs.sources, sides, names), folder.embeddings)
        for one in self.solved if settings.visualize else ():
            self.written += write_sheets(folder, one, sides, settings.distance_metric)
        summary = self._summary(pairs, shares, excluded)
        write_summary(summary, folder)
        self._write(pa.table({names[0]: sides.paths.take(pa.array(pairs.sources))}), folder.final)
        self.written.append(folder.summary)
        folder.remove_others(self.written)
        for warning in self.warnings:
            log.warning(warning)
        return UniqueResult(
            folder.final, folder.pairs, folder.summary, summary, (names[0],), len(pairs.sources),
            self.search.certificate, tuple(self.written), tuple(self.warnings),
        )  # fmt: skip

    def _free(self) -> tuple[Mask, int | None]:
        """Per row of the pool, whether it may be taken; and how many rows are excluded, where some could be."""
        free = np.zeros(len(self.sides.paths), np.bool_)
        free[np.unique(self.sides.path_order, return_index=True)[1]] = True  # the first row of every path
        repeated = len(free) - int(free.sum())
        if repeated:
            self.warnings.append(
                f"{repeated} rows of the pool repeat the path of an earlier row: only the first one counts"
            )
        if not self.settings.exclude_path:
            return free, None
        unwanted = read_excluded(self.settings.exclude_path, self.settings.source_filepath_column)
        barred = Barred(unwanted, self.settings.exclude_by)(self.sides.paths)
        if unwanted and not barred.any():
            self.warnings.append(f"none of the {len(unwanted)} paths of exclude_path is in the pool")
        return free & ~barred, int(barred.sum())

    def _match(self, free: Mask) -> list[Share]:
        """Match by the policy; the shares of the strata, where there are any."""
        settings, wanted = self.settings, self.settings.desired_unique_count
        self.search = UnitSearch(
            self.sides.target, self.sides.source, settings.distance_metric, settings.device, settings.memory_limit
        )
        if settings.allocation_policy == "global":
            if free.any():
                self._solve("global", self.targets, free, wanted)
            return []
        rare = settings.rare_classes
        shows = {side: _shows(self.classes[side], rare) for side in ("target", "source")}
        for name, column in zip(rare, shows["target"].T, strict=True):
            if not column.any():
                self.warnings.append(f"no target shows the rare class {name!r}: its quota is 0")
        return allocate(
            make_strata(rare, shows["target"], shows["source"], wanted), self.targets, free, wanted, self._solve
        )

    def _solve(self, name: str, targets: Rows, free: Mask, count: int) -> Pairs:
        """One matching, with the tables of its passes."""
        factor, order = self.settings.candidate_expansion_factor, self.sides.path_order
        greedy = match(self.search, targets, free, order, count, factor)
        exact = assign(self.search, greedy, free, order) if self.settings.assignment == "optimal" else None
        solved = Solved(name, self._stem(name), greedy, exact)
        for one in greedy.passes:
            table = pass_table(one, self.sides, self.settings.save_embeddings)
            self._write(table, self.folder.pass_table(solved, one))
        self.solved.append(solved)
        return self.solved[-1].kept

    def _stem(self, name: str) -> str:
        """A file name for a matching; classes that become the same one are numbered."""
        stem, used = file_name(name), {one.stem for one in self.solved}
        return next(
            one for one in (stem, *(f"{stem}_{number}" for number in range(2, len(used) + 3))) if one not in used
        )

    def _write(self, table: pa.Table, path: Path) -> None:
        write_table(table, path)
        self.written.append(path)

    def _result_warnings(self, free: int, retrieved: int, shares: Sequence[Share]) -> None:
        """What the matching met that changes what its result means."""
        wanted = self.settings.desired_unique_count
        if retrieved < wanted:
            self.warnings.append(
                f"desired_unique_count={wanted} is more than the pool has: it has {free} different images that may be "
                f"taken, so {wanted - retrieved} are short"
            )
        for share in shares:
            own, name = share.own, share.stratum.name
            if own < share.stratum.quota:
                elsewhere = f", {share.fallback} came from images without a rare class" if name != COMMON else ""
                self.warnings.append(
                    f"{name}: {own} of the {share.stratum.quota} wanted images are in its own pool{elsewhere}"
                )
        for side, zeros in zip(("target", "source"), self.search.zeros, strict=True):
            if zeros:
                self.warnings.append(f"{zeros} zero vectors in the {side} table: they cannot be scaled to length 1")
        if any(one.assignment and not one.assignment.proven for one in self.solved):
            self.warnings.append(
                "assignment=optimal: the least total distance among the candidates; that no other pair could lower it "
                "is not proven, because more candidates would not fit in memory"
            )

    def _summary(self, pairs: Pairs, shares: Sequence[Share], excluded: int | None) -> dict[str, Any]:
        """The content of `summary.json`: the contract's keys, and ours under `lookalike`."""
        settings, rare = self.settings, self.settings.rare_classes
        wanted, retrieved = settings.desired_unique_count, len(pairs.sources)
        summary: dict[str, Any] = {
            "allocation_policy": settings.allocation_policy,
            "desired_unique_count": wanted,
            "retrieved_unique_count": retrieved,
            "coverage_pct": round(100 * retrieved / wanted, 2),
            "target_queries": len(self.targets),
            "rare_classes": list(rare),
        }
        if self.classes["target"] is not None:
            summary["target_dataset"] = dataset_stats(self.classes["target"], rare)
        if self.classes["source"] is not None:
            found = [self.classes["source"][row] for row in pairs.sources.tolist()]
            summary["resultant_dataset"] = dataset_stats(found, rare)
        if settings.allocation_policy == "class_stratified":
            summary["allocation"] = {share.stratum.name: share.stratum.quota for share in shares}
            nearest = {one.name: one.matching.passes[0].distances[:, 0] for one in self.solved}
            own = [distances for name, distances in nearest.items() if name in summary["allocation"]]
            summary["distance_stats"] = distance_stats(np.concatenate([np.empty(0, np.float32), *own]))
        summary["lookalike"] = self._details(pairs, shares, excluded)
        return summary

    def _details(self, pairs: Pairs, shares: Sequence[Share], excluded: int | None) -> dict[str, Any]:
        """What the contract's keys do not say."""
        details: dict[str, Any] = {
            "distance_metric": self.settings.distance_metric,
            "assignment": self.settings.assignment,
            "total_distance": pairs.total,
            "short": self.settings.desired_unique_count - len(pairs.sources),
            "targets_served": len(np.unique(pairs.targets)),
            "excluded": excluded,
        }
        if self.settings.assignment == "optimal":
            details["greedy_total_distance"] = sum(one.matching.kept.total for one in self.solved)
            details["proven"] = all(one.assignment.proven for one in self.solved if one.assignment)
        details["matchings"] = [
            {
                "name": one.name,
                "retrieved": len(one.kept.sources),
                "topn": one.matching.topn,
                "passes": len(one.matching.passes),
                "filled_after_the_passes": one.matching.filled,
                "total_distance": one.kept.total,
                "top1_distances": distance_stats(one.matching.passes[0].distances[:, 0]),
            }
            for one in self.solved
        ]
        if shares:
            details["shares"] = [
                {
                    "name": share.stratum.name,
                    "target_images": len(share.stratum.targets),
                    "pool_images": int(share.stratum.sources.sum()),
                    "quota": share.stratum.quota,
                    "from_own_pool": share.own,
                    "from_common_pool": share.fallback,
                    "short": share.short,
                }
                for share in shares
            ]
        details["exact_search"] = str(self.search.certificate)
        details["warnings"] = list(self.warnings)
        details["files"] = sorted(file.name for file in (*self.written, self.folder.final, self.folder.summary))
        return details


def _text(path: str | Path | None) -> str | None:
    return None if path is None else str(path)


def _read_classes(
    path: str | None, kind: str | None, paths: pa.Array, warnings: list[str]
) -> list[Counter[str] | None] | None:
    """The classes of all images of a table; None where there are no annotations."""
    if not path or not kind:
        return None
    annotations = read_annotations(path, kind)
    classes = annotations.of(paths.to_pylist())
    warnings += _annotation_warnings(annotations, classes)
    return classes


def _annotation_warnings(annotations: Annotations, classes: Sequence[Counter[str] | None]) -> Iterator[str]:
    """What annotations leave out; refuses those of other images."""
    bare = sum(one is None for one in classes)
    if bare == len(classes):
        raise TableError(
            f"none of the {bare} images is annotated here, by its path, base name or stem",
            where=annotations.name,
            hint="give the annotations of this table; a base name that several images share is not used",
        )
    if bare:
        yield f"{bare} of {len(classes)} images are not annotated in {annotations.name}: they count as without classes"
    lines, first = annotations.skipped
    if lines:
        yield f"{annotations.name}: {lines} lines are no KITTI labels and are left out, first {first}"


def _shows(classes: Sequence[Counter[str] | None] | None, rare: Sequence[str]) -> npt.NDArray[np.bool_]:
    """Images x classes: whether an image shows a rare class."""
    assert classes is not None  # class_stratified needs annotations
    return np.array([[one is not None and one[name] > 0 for name in rare] for one in classes], np.bool_)
