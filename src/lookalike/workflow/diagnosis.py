"""What a finished search tells of the pool and the targets: for the record, the report and `target_outcomes.parquet`.

Hubs, targets that the pool has nothing for, regions where most is mined or left out, and what changed since the last
iteration (`selection.diagnosis`, `selection.drift`).
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lookalike.config.schemas import CalibrateConfig, NearestNeighborsConfig
from lookalike.neighbors.base import Neighbors
from lookalike.neighbors.search import Search, search
from lookalike.neighbors.sides import LabelledSide, Side, open_side
from lookalike.selection.calibration import calibrate
from lookalike.selection.diagnosis import Hubness, Surroundings, hubness, lists_of, surroundings
from lookalike.selection.filters import Outcome
from lookalike.selection.pairs import Pairs
from lookalike.tables.embedding_stream import EmbeddingStream, plain_label, read_embedding_table
from lookalike.tables.embedding_table import EmbeddingTable
from lookalike.tables.pair_table import label_texts, write_table
from lookalike.tables.run_folder import RunFolder
from lookalike.workflow.by_score import codes_of
from lookalike.workflow.drift import Iterated, compare
from lookalike.workflow.mining import MiningResult

Mask = npt.NDArray[np.bool_]

#: Pool images whose own nearest one says what is near: a quantile needs no more, and each costs as much as a target.
_SAMPLE = 500
#: Hubs, and paths and labels of targets, that the record names.
_WORST, _FIRST = 10, 5
#: Rules that bar the targets themselves and their copies: they are no images that somebody took away.
_OWN = ("self_match", "self_twin")
_ALREADY_MINED = "already_mined"

#: One row a target. `region` is ``nothing_near``, ``exhausted``, or null; the numbers are of its `candidates` nearest
#: pool images, those that might not be mined included.
SCHEMA = pa.schema(
    [
        pa.field("target_row", pa.int64()),
        pa.field("filepath", pa.string()),
        pa.field("label", pa.string()),
        pa.field("served", pa.bool_()),
        pa.field("mined", pa.int64()),
        pa.field("nearest_filepath", pa.string()),
        pa.field("nearest_distance", pa.float32()),
        pa.field("nearest_quantile", pa.float64()),
        pa.field("near", pa.int64()),
        pa.field("near_mined_before", pa.int64()),
        pa.field("near_left_out", pa.int64()),
        pa.field("region", pa.string()),
    ]
)


@dataclass(frozen=True)
class _Search:
    """What was searched, and what came of it."""

    settings: NearestNeighborsConfig
    target: EmbeddingTable
    pool: EmbeddingStream
    pairs: pa.Table
    lists: Neighbors
    k: int
    excluded: Mask | None

    @property
    def searched(self) -> int:
        """Pool images that might be mined."""
        return int(self.pool.rows - (0 if self.excluded is None else self.excluded.sum()))

    @property
    def within_label(self) -> bool:
        """Whether every target met images of its own label only."""
        by_label = self.settings.selects_by_score and self.settings.filters_by_label
        return (self.settings.within_label or by_label) and self.target.labels is not None and self.pool.has_labels


def diagnose(
    folder: RunFolder, settings: NearestNeighborsConfig, mined: MiningResult, last: Iterated | None = None
) -> dict[str, Any]:
    """Diagnose a search, and write `target_outcomes.parquet`.

    Parameters
    ----------
    folder:
        The run; its embedding tables and its pair table are there, and `excluded.parquet` where images were left out.
    settings:
        Of the search.
    mined:
        What it gave.
    last:
        The last iteration, where there was one.

    Returns
    -------
    dict
        What `run.json` holds as `diagnosis`; docs/report.md explains it.
    """
    job = _opened(folder, settings, mined)
    limit, near = _near(job)
    around = _surroundings(job, folder, limit)
    table = _table(job, mined, around, near)
    write_table(table, folder.target_outcomes)
    found: dict[str, Any] = {
        "k": job.k,
        "near": near if near is None else {name: near[name] for name in ("limit", "quantile", "sample")},
        "nothing_near": _counted(table, "nothing_near"),
        "exhausted": _counted(table, "exhausted"),
        "hubs": _hubs(job),
        "drift": None if last is None else compare(folder, settings, last),
    }
    return found


def _opened(folder: RunFolder, settings: NearestNeighborsConfig, mined: MiningResult) -> _Search:
    target = read_embedding_table(str(folder.targets), settings.target_embed_column_name)
    pool = EmbeddingStream(str(folder.pool), settings.source_embed_column_name)
    pairs = pq.read_table(
        mined.pairs_path, columns=["target_row", "source_row", "source_filepath", "rank", "distance", "outcome"]
    )
    there = pool.rows - (0 if mined.excluded is None else int(mined.excluded.sum()))
    k = min(settings.candidates if settings.selects_by_score else settings.topn, there)
    columns = (pairs.column(name) for name in ("target_row", "source_row", "rank", "distance"))
    targets, rows, ranks, distances = (column.fill_null(-1).to_numpy() for column in columns)
    lists = lists_of(Pairs(targets, rows, ranks, distances), len(target), max(k, 1))
    return _Search(settings, target, pool, pairs, lists, k, mined.excluded)


def _near(job: _Search) -> tuple[float, dict[str, Any] | None]:
    """The distance within which an image is near, and how it was found; nothing is where the pool has no two."""
    if job.pool.rows < 2:
        return math.inf, None
    settings, quantile = job.settings, CalibrateConfig.quantile
    found = calibrate(
        job.pool, settings.knn_metric, sample=_SAMPLE, seed=settings.seed, device=settings.device,
        memory_limit=settings.memory_limit,
    )  # fmt: skip
    limit = found.quantile(quantile)
    return limit, {"limit": limit, "quantile": quantile, "sample": len(found.rows), "nearest": np.sort(found.nearest)}


def _surroundings(job: _Search, folder: RunFolder, limit: float) -> Surroundings:
    """What is near to every target, with what might not be mined."""
    was_mined = np.zeros(job.pool.rows, np.bool_)
    barred = None
    if job.excluded is not None and job.excluded.any():
        others = job.excluded.copy()
        if folder.excluded.is_file():
            table = pq.read_table(folder.excluded, columns=["source_row", "rule"])
            rows, rules = table.column("source_row").to_numpy(), table.column("rule")
            was_mined[rows[pc.equal(rules, _ALREADY_MINED).to_numpy()]] = True
            others[rows[pc.is_in(rules, pa.array(_OWN)).to_numpy()]] = False
        if others.any():
            barred = _nearest_among(job, others)
    return surroundings(job.lists, barred, was_mined, limit, max(job.k, 1))


def _nearest_among(job: _Search, rows: Mask) -> Neighbors:
    """The nearest images of every target among some rows of the pool, of its label where labels matter."""
    settings = job.settings
    target: Side = open_side(job.target, "target", settings.target_embed_column_name)
    pool: Side = job.pool
    if job.within_label:
        codes: dict[str, int] = {}
        assert job.target.labels is not None
        target = LabelledSide(target, codes_of(job.target.labels, codes))
        pool = LabelledSide(pool, codes_of(job.pool.read_scalars().column("label"), codes))
    wanted = Search(
        min(max(job.k, 1), int(rows.sum())), settings.knn_metric, job.within_label, ~rows, settings.device,
        settings.memory_limit, certified=True,
    )  # fmt: skip
    return search(target, pool, wanted).neighbors


def _table(job: _Search, mined: MiningResult, around: Surroundings, near: dict[str, Any] | None) -> pa.Table:
    """The row of every target."""
    count = len(job.target)
    outcomes = job.pairs.column("outcome").cast(pa.string())
    targets = job.pairs.column("target_row").to_numpy()
    kept = pc.equal(outcomes, str(Outcome.KEPT)).to_numpy()
    shared = kept | pc.equal(outcomes, str(Outcome.DUPLICATE)).to_numpy()
    served = np.bincount(targets[shared], minlength=count) > 0 if mined.scored is None else mined.scored.served
    region = np.full(count, None, object)
    quantiles = np.full(count, np.nan)
    if near is not None:
        region[around.exhausted], region[around.nothing_near] = "exhausted", "nothing_near"
        quantiles = np.searchsorted(near["nearest"], around.distances, side="right") / len(near["nearest"])
    if not job.searched:  # all is left out: there is no nearest image to judge by
        quantiles[:] = np.nan
    nearest = pa.array(around.rows, mask=around.rows < 0)
    first = job.pairs.filter(pc.equal(job.pairs.column("rank"), 1))
    paths = dict(zip(first.column("source_row").to_pylist(), first.column("source_filepath").to_pylist(), strict=True))
    columns = {
        "target_row": pa.array(np.arange(count)),
        "filepath": job.target.filepaths,
        "label": label_texts(job.target.labels, count),
        "served": pa.array(served),
        "mined": pa.array(np.bincount(targets[kept], minlength=count)),
        "nearest_filepath": pa.array([None if row is None else paths[row] for row in nearest.to_pylist()], pa.string()),
        "nearest_distance": pa.array(around.distances.astype(np.float32), mask=~np.isfinite(around.distances)),
        "nearest_quantile": pa.array(quantiles, mask=~np.isfinite(quantiles) | ~np.isfinite(around.distances)),
        "near": pa.array(around.near),
        "near_mined_before": pa.array(around.mined_before),
        "near_left_out": pa.array(around.left_out),
        "region": pa.array(region.tolist(), pa.string()),
    }
    return pa.table(columns, schema=SCHEMA)


def _counted(table: pa.Table, region: str) -> dict[str, Any]:
    """How many targets are in a region: how many, the first of them, and of which labels most of them are."""
    own = table.filter(pc.fill_null(pc.equal(table.column("region"), region), False))
    labels = Counter(plain_label(label) for label in own.column("label").to_pylist() if label is not None)
    order = own.sort_by([("nearest_distance", "descending")]) if region == "nothing_near" else own
    most = sorted(labels.items(), key=lambda one: (-one[1], one[0]))[:_FIRST]
    return {"count": own.num_rows, "first": order.column("filepath")[:_FIRST].to_pylist(), "labels": dict(most)}


def _hubs(job: _Search) -> dict[str, Any]:
    """Hubs, as the record holds them."""
    rows = job.lists.rows[job.lists.rows >= 0]
    found: Hubness = hubness(rows, targets=len(job.target), k=job.k, pool=job.searched, worst=_WORST)
    named = job.pairs.filter(pc.is_in(job.pairs.column("source_row"), pa.array(found.rows)))
    known: dict[int, tuple[str, str]] = {}
    for row, path, outcome in zip(
        named.column("source_row").to_pylist(), named.column("source_filepath").to_pylist(),
        named.column("outcome").cast(pa.string()).to_pylist(), strict=True,
    ):  # fmt: skip
        if row not in known or outcome == Outcome.KEPT:
            known[row] = (path, outcome)
    return {
        "skewness": _number(found.skewness),
        "by_chance": _number(found.by_chance),
        "images": [
            {"source_row": row, "filepath": known[row][0], "targets": targets, "mined": known[row][1] == Outcome.KEPT}
            for row, targets in zip(found.rows.tolist(), found.targets.tolist(), strict=True)
        ],
    }


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
