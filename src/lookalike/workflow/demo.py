"""`lookalike demo`: the whole job on real industrial images with a real encoder, offline.

Some defective images are the targets, everything else is the pool. One run mines the nearest pool images of every
target, and what was found is compared with what chance would give.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.config.schemas import at_least
from lookalike.errors import ConfigError
from lookalike.reports.contact_sheet import OTHER_FRAME, SAME_FRAME, TARGET_FRAME, Sheet, Tile, write_contact_sheet
from lookalike.selection.filters import Outcome
from lookalike.tables.pair_table import write_table
from lookalike.workflow.demo_data import DATASETS, GOOD, Dataset, write_encoder
from lookalike.workflow.run import run
from lookalike.workflow.run_steps import RunResult

log = logging.getLogger(__name__)
#: Targets where none are asked for: this many, and at most one in so many defective images, so that the pool has more.
_TARGETS, _SHARE = 100, 8
#: Images at least: of fewer, hardly any would be defective.
_LEAST = 20


@dataclass(frozen=True)
class DemoResult:
    """What the demo found.

    Attributes
    ----------
    dataset:
        What it ran on.
    targets:
        How many images were drawn as targets.
    run:
        The run, with its folder.
    base_rate:
        Share of defective images in the pool: what chance would give.
    nearest_rate:
        Share of defective images among the `topn` nearest of every target.
    mined_rate:
        Share of defective images among the unique mined images.
    contact_sheet:
        The PNG.
    """

    dataset: Dataset
    targets: int
    run: RunResult
    base_rate: float
    nearest_rate: float
    mined_rate: float
    contact_sheet: Path


def run_demo(
    dataset: str, folder: Path, *, images: int | None, targets: int | None, topn: int, seed: int
) -> DemoResult:
    """Run, compare and draw.

    Parameters
    ----------
    dataset:
        A key of `DATASETS`.
    folder:
        Where everything is written; made when missing.
    images:
        How many images of the dataset are used, drawn at random; None: all.
    targets:
        How many defective images are drawn as targets; None: 100, or an eighth of those where that is fewer.
    topn:
        Neighbours a target.
    seed:
        Of the draws.

    Raises
    ------
    ConfigError
        When a value cannot be right.
    MissingDependency
        When the packages of the images or of the encoder are not installed.
    """
    if dataset not in DATASETS:
        raise ConfigError(f"dataset={dataset!r} is not possible", hint=f"use one of: {', '.join(DATASETS)}")
    at_least("topn", topn, 1)
    at_least("seed", seed, 0)
    data = _dataset(dataset, images, seed)
    target_table, pool_table = _split(data, targets, seed)
    encoder = write_encoder(folder / "encoder")
    inputs = (folder / "targets.parquet", folder / "pool.parquet")
    for table, path in zip((target_table, pool_table), inputs, strict=True):
        write_table(table, path)
    mined = run(*inputs, out=str(folder), model="timm", model_path=str(encoder), topn=topn, knn_metric="cosine")
    pairs = pq.read_table(mined.folder.pairs)
    found = np.array(pairs.column("source_label").to_pylist()) != GOOD
    near = pairs.column("rank").fill_null(topn + 1).to_numpy() <= topn
    kept = np.array(pairs.column("outcome").to_pylist()) == "kept"
    result = DemoResult(
        dataset=data,
        targets=target_table.num_rows,
        run=mined,
        base_rate=float(np.mean(np.array(pool_table.column("label").to_pylist()) != GOOD)),
        nearest_rate=float(found[near].mean()),
        mined_rate=float(found[kept].mean()),
        contact_sheet=folder / "contact_sheet.png",
    )
    write_contact_sheet(_sheet(result, pairs, topn), result.contact_sheet)
    return result


def _dataset(name: str, images: int | None, seed: int) -> Dataset:
    """The dataset, or some of its images at random."""
    data = DATASETS[name]()
    if images is None:
        return data
    at_least("images", images, _LEAST)
    if images > data.table.num_rows:
        log.warning("there are only %d images, and all are used", data.table.num_rows)
    return data.sample(images, seed)


def _split(data: Dataset, targets: int | None, seed: int) -> tuple[pa.Table, pa.Table]:
    """The targets and the pool, which keeps defective images."""
    defective = int((np.array(data.table.column("label").to_pylist()) != GOOD).sum())
    wanted = max(1, min(_TARGETS, defective // _SHARE)) if targets is None else targets
    if not 1 <= wanted < defective:
        possible = f"use 1 to {defective - 1}, or more images" if defective > 1 else "use more images"
        raise ConfigError(
            f"targets={wanted} is not possible: {defective} of the {data.table.num_rows} images are defective",
            hint=possible,
        )
    return data.split(wanted, seed)


def _sheet(result: DemoResult, pairs: pa.Table, topn: int) -> Sheet:
    """The contact sheet of a pair table: a row of tiles a target, with the nearest images that were mined for it."""
    rows: dict[int, list[Tile]] = {}
    for pair in sorted(pairs.to_pylist(), key=lambda pair: (pair["target_row"], pair["distance"])):
        target = Tile(pair["target_filepath"], f"target: {pair['target_label']}", TARGET_FRAME)
        tiles = rows.setdefault(pair["target_row"], [target])
        if pair["outcome"] == Outcome.KEPT and len(tiles) <= topn:
            frame = OTHER_FRAME if pair["source_label"] == GOOD else SAME_FRAME
            tiles.append(Tile(pair["source_filepath"], f"{pair['source_label']} {pair['distance']:.3f}", frame))
    return Sheet(
        title=f"lookalike: {len(rows)} targets and images mined for them, {result.dataset.title}",
        legend=(
            "Blue: target. Green: mined, defective. Orange: mined, nominal. Number: cosine distance. "
            f"Defective among the mined: {result.mined_rate:.0%}, in the pool: {result.base_rate:.0%}. "
            f"Licence: {result.dataset.licence}."
        ),
        rows=list(rows.values()),
        columns=max(1, min(4, len(rows) // 4)),
    )
