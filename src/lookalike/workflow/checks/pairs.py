"""The pair table and the mined table: every pair decided, its rows real, and the mined table what follows from it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.tables.embedding_table import key_of
from lookalike.workflow.by_score import RULES
from lookalike.workflow.checks.finding import Finding, Rule, error, some
from lookalike.workflow.checks.summary import dropped_by
from lookalike.workflow.checks.tables import Shape, Shapes

#: Rows of an embedding table whose paths are in memory at a time.
_BLOCK = 65_536
#: Largest cosine distance, and what float32 may add to it.
_LARGEST_COSINE = 2.0 + 1e-6
_AGAIN = "mine again"


@dataclass(frozen=True)
class Pairs:
    """The pair table in memory; `outcomes` are words, and null where a pair has none."""

    table: pa.Table
    outcomes: pa.Array

    @classmethod
    def read(cls, shape: Shape) -> Pairs:
        """Read what the checks need."""
        columns = ["target_row", "source_row", "target_filepath", "source_filepath", "rank", "distance", "outcome"]
        table = pq.read_table(shape.path, columns=columns, partitioning=None)
        outcome = table.column("outcome")
        return cls(table, outcome.cast(pa.string()).combine_chunks())

    @property
    def kept(self) -> pa.Array:
        """Per pair, whether it is kept; false where the outcome is null."""
        return pc.fill_null(pc.equal(self.outcomes, str(Outcome.KEPT)), False)

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """A column of numbers; a null becomes NaN."""
        array: npt.NDArray[Any] = self.table.column(name).to_numpy()
        return array

    def counts(self) -> dict[str, int]:
        """How many pairs there are, and how many of each outcome, by the names of the summary."""
        found = {str(one["values"]): int(one["counts"]) for one in pc.value_counts(self.outcomes).to_pylist()}
        names = {
            "label_mismatches": Outcome.LABEL_MISMATCH,
            "over_distance": Outcome.OVER_DISTANCE,
            "under_similarity": Outcome.UNDER_SIMILARITY,
            "duplicates": Outcome.DUPLICATE,
            "unique": Outcome.KEPT,
        }
        names |= {dropped_by(rule): outcome for outcome, rule in RULES.items()}
        return {"pairs": self.table.num_rows, **{name: found.get(outcome, 0) for name, outcome in names.items()}}


def check_pairs(pairs: Pairs, shapes: Shapes, name: str, settings: dict[str, Any]) -> Iterator[Finding]:
    """Outcomes, rows, ranks and distances of every pair."""
    yield from _check_outcomes(pairs, name, settings)
    for side, shape in (("target", shapes.targets), ("source", shapes.pool)):
        if shape:
            yield from _check_side(pairs, side, shape, name)
    yield from _check_order(pairs, name, settings)


def _check_outcomes(pairs: Pairs, name: str, settings: dict[str, Any]) -> Iterator[Finding]:
    """Each pair has one of the known outcomes, and what is kept is within the threshold."""
    if pairs.outcomes.null_count:
        yield error(Rule.OUTCOME, f"{pairs.outcomes.null_count} pairs have no outcome", name, _AGAIN)
    known = {str(outcome) for outcome in OUTCOMES}
    strange = [one for one in pc.unique(pairs.outcomes).drop_null().to_pylist() if one not in known]
    if strange:
        message = f"has outcomes that are not known: {some(strange)}; known are {', '.join(sorted(known))}"
        yield error(Rule.OUTCOME, message, name, "a newer lookalike made the run? Check it with that one")
    threshold = settings.get("distance_threshold")
    if isinstance(threshold, int | float) and threshold >= 0:
        kept = pairs.kept.to_numpy(zero_copy_only=False)
        beyond = int((pairs.numbers("distance")[kept] > np.float32(threshold)).sum())
        if beyond:
            yield error(Rule.OUTCOME, f"{beyond} kept pairs are beyond the threshold {threshold}", name, _AGAIN)


def _check_side(pairs: Pairs, side: str, shape: Shape, name: str) -> Iterator[Finding]:
    """Each pair's row is in the embedding table and has the path that the pair names."""
    column = pairs.table.column(f"{side}_row")
    rows = pairs.numbers(f"{side}_row")
    bad = int(column.null_count + ((rows < 0) | (rows >= shape.rows)).sum())
    if bad:
        message = f"{bad} pairs have a {side}_row that is not among the {shape.rows} rows of {shape.path.name}"
        yield error(Rule.BOUNDS, message, name, _AGAIN)
        return
    order = np.argsort(rows, kind="stable")
    said = pairs.table.column(f"{side}_filepath").combine_chunks().cast(pa.large_binary())
    wrong = 0
    for first, paths in _paths(shape.path):
        begin, end = np.searchsorted(rows, (first, first + len(paths)), sorter=order)
        here = order[begin:end]
        if len(here):
            same = pc.equal(said.take(pa.array(here)), paths.take(pa.array(rows[here] - first)))
            wrong += len(here) - int(pc.sum(pc.fill_null(same, False)).as_py() or 0)
    if wrong:
        message = f"{wrong} pairs have a {side}_filepath that is not the one of their {side}_row in {shape.path.name}"
        yield error(Rule.BOUNDS, message, name, "a table was replaced or put in another order: mine again")


def _paths(path: Path) -> Iterator[tuple[int, pa.Array]]:
    """The paths (or texts) of a table as bytes, block by block, each with the number of its first row."""
    first = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=_BLOCK, columns=[key_of(file.schema_arrow.names)]):
            yield first, batch.column(0).cast(pa.large_binary())
            first += batch.num_rows


def _check_order(pairs: Pairs, name: str, settings: dict[str, Any]) -> Iterator[Finding]:
    """For each target, ranks begin at 1, none twice, and distances do not fall."""
    targets, ranks, distances = (pairs.numbers(column) for column in ("target_row", "rank", "distance"))
    if not len(ranks):
        return
    no_distance = int((~np.isfinite(distances) | (distances < 0)).sum())
    if no_distance:
        yield error(Rule.ORDER, f"{no_distance} pairs have no distance that is possible", name, _AGAIN)
    metric = settings.get("knn_metric", settings.get("metric"))
    if metric == "cosine" and (distances > _LARGEST_COSINE).any():
        yield error(Rule.ORDER, "has cosine distances over 2, the largest that there is", name, _AGAIN)
    ranked = np.isfinite(ranks)  # an image beyond a target's neighbours has no rank
    targets, ranks, distances = targets[ranked], ranks[ranked], distances[ranked]
    if not len(ranks):
        return
    order = np.lexsort((ranks, targets))
    targets, ranks, distances = targets[order], ranks[order], distances[order]
    begins = np.r_[True, targets[1:] != targets[:-1]]
    unlike = int((ranks[begins] != 1).sum() + ((ranks[1:] == ranks[:-1]) & ~begins[1:]).sum())
    if unlike:
        yield error(Rule.ORDER, f"{unlike} ranks are missing at the begin or are there twice", name, _AGAIN)
    falls = (distances[1:] < distances[:-1]) & ~begins[1:]
    if falls.any():
        row = int(targets[1:][falls][0])
        message = f"distances fall with the rank in {int(falls.sum())} places, first for target row {row}"
        yield error(Rule.ORDER, message, name, _AGAIN)


def check_mined(pairs: Pairs | None, shapes: Shapes, reviewed: Path) -> Iterator[Finding]:
    """The mined table follows from the pair table; without one, its paths are at least those of the pool."""
    if shapes.mined is None:
        return
    name = shapes.mined.path.name
    mined = _all_paths(shapes.mined.path)
    repeated = len(mined) - pc.count_distinct(mined).as_py()
    if repeated:
        yield error(Rule.MINED, f"has {repeated} paths more than once", name, _AGAIN)
    if pairs is not None:
        kept = pairs.table.column("source_filepath").combine_chunks().cast(pa.large_binary()).filter(pairs.kept)
        if not kept.equals(mined):
            same = pc.all(pc.is_in(mined, kept)).as_py() is not False and len(mined) == len(kept)
            how = "in another order" if same else f"{len(mined)} paths, and the pair table has {len(kept)} kept ones"
            yield error(Rule.MINED, f"is not what the pair table says was kept: {how}", name, _AGAIN)
    elif shapes.pool is not None:
        yield from _check_in_pool(mined, shapes.pool, name)
    if reviewed.is_file():
        yield from _check_reviewed(reviewed, mined, name)


def _check_in_pool(mined: pa.Array, pool: Shape, name: str) -> Iterator[Finding]:
    """Every mined path is one of the pool's."""
    found = np.zeros(len(mined), np.bool_)
    for _, paths in _paths(pool.path):
        found |= pc.is_in(mined, paths).to_numpy(zero_copy_only=False)
    if not found.all():
        missing = int((~found).sum())
        yield error(Rule.MINED, f"has {missing} paths that are not in {pool.path.name}", name, _AGAIN)


def _check_reviewed(reviewed: Path, mined: pa.Array, name: str) -> Iterator[Finding]:
    """What a person kept is a part of what was mined."""
    strange = pc.sum(pc.invert(pc.is_in(_all_paths(reviewed), mined))).as_py()
    if strange:
        message = f"has {strange} paths that are not in {name}"
        yield error(Rule.MINED, message, reviewed.name, "run `lookalike review` again with this run's decisions")


def _all_paths(path: Path) -> pa.Array:
    """The column `filepath` of a table as bytes."""
    column = pq.read_table(path, columns=["filepath"], partitioning=None).column("filepath")
    return column.cast(pa.large_binary()).combine_chunks()
