"""`tune`: which settings of `lookalike mine` fit these targets and this pool, from one search for each encoder.

What is recommended, and why, stands in `recommend`: this module reads the tables, tries everything, and writes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from lookalike.config.schemas import TuneConfig
from lookalike.errors import ConfigError, TableError
from lookalike.neighbors.sides import open_side
from lookalike.reports.plot_tune import Curve, draw_curves
from lookalike.selection.sweep import OFF, Point, Setting, by_option, sweep
from lookalike.tables.atomic import atomic_path, check_place
from lookalike.tables.embedding_stream import EmbeddingStream, plain_label, read_embedding_table
from lookalike.tables.embedding_table import EmbeddingTable
from lookalike.tables.pair_table import write_table
from lookalike.tables.run_folder import RunFolder, read_record
from lookalike.workflow.comparable import compare_encoders
from lookalike.workflow.exclusion import Barred
from lookalike.workflow.recommend import Chosen, Tried, recommend, scoring_of, settings_of
from lookalike.workflow.weights import read_weights

log = logging.getLogger(__name__)
_Config = TuneConfig
Mask = npt.NDArray[np.bool_]

#: What is written.
FILES = ("tune.parquet", "tune.csv", "tune.png")
#: Shares of the pairs within the thresholds of `threshold=auto`.
_QUANTILES = (0.9, 0.75, 0.5)
#: Target labels that get a column of their own.
_MOST_LABELS = 20


@dataclass(frozen=True)
class Tuned:
    """What `tune` found.

    Attributes
    ----------
    table:
        One row a setting; `docs/tune.md` explains the columns.
    files:
        What was written.
    settings:
        What is recommended, as `key=value` for `lookalike mine`.
    encoder:
        The encoder that is recommended.
    row:
        Its row in the table.
    reasons:
        Why, one sentence for each part.
    notes:
        What changes the meaning of the figures.
    """

    table: pa.Table
    files: tuple[Path, ...]
    settings: tuple[str, ...]
    encoder: str
    row: int
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Sides:
    """Both sides of one encoder, before anything is tried."""

    name: str
    target: EmbeddingTable
    stream: EmbeddingStream
    paths: pa.Array
    labels: tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]] | None
    weights: npt.NDArray[np.float64] | None
    excluded: Mask
    notes: list[str]


def tune(
    sides: Mapping[str, tuple[str | Path, str | Path]],
    out: str | Path,
    *,
    topn: str = _Config.topn,
    components: str = _Config.components,
    threshold: str = _Config.threshold,
    knn_metric: str = _Config.knn_metric,
    target_vectors: str = _Config.target_vectors,
    pool_vectors: str = _Config.pool_vectors,
    target_weight_column: str = _Config.target_weight_column,
    splits: int = _Config.splits,
    background: int = _Config.background,
    seed: int = _Config.seed,
    device: str = _Config.device,
    memory_limit: int = _Config.memory_limit,
    exclude_paths: Collection[str] = (),
    force: bool = False,
) -> Tuned:
    """Try settings, and write `tune.parquet`, `tune.csv` and `tune.png`.

    Parameters
    ----------
    sides:
        By the name of the encoder, the embedding tables of targets and pool; all of the same images.
    out:
        The folder to write into.
    topn, and every setting after it:
        As in `TuneConfig`, which holds the defaults.
    exclude_paths:
        Pool images that may not be mined; those with the path of a target are left out, too.
    force:
        Whether files of an earlier `tune` are replaced.

    Raises
    ------
    ConfigError
        When a setting cannot be right, or encoders have embedded different images.
    TableError, VectorError
        When a table cannot be read, or a file is there already.
    EncoderMismatch
        When the two tables of an encoder were written by different ones.
    """
    config = TuneConfig(
        topn,
        components,
        threshold,
        knn_metric,
        target_vectors,
        pool_vectors,
        target_weight_column,
        splits,
        background,
        seed,
        device,
        memory_limit,
    )
    config.validate()
    if not sides:
        raise ConfigError("there is nothing to tune", hint="give --targets and --pool, or a run folder")
    files = tuple(Path(out) / name for name in FILES)
    for file in files:
        check_place(file, inputs=tuple(str(one) for pair in sides.values() for one in pair))
        if file.exists() and not force:
            raise TableError("is there already", where=str(file), hint="choose another --out, or use --force")
    opened = [_open(name, *pair, config, exclude_paths) for name, pair in sides.items()]
    for one in opened[1:]:
        _same_images(opened[0], one)
    encoders = [_swept(one, config) for one in opened]
    notes = [f"{one.name}: {note}" for one in opened for note in one.notes]
    chosen = recommend(encoders)
    table = _table(encoders, chosen)
    write_table(table, files[0])
    with atomic_path(files[1]) as temporary:
        pyarrow.csv.write_csv(table, temporary, pyarrow.csv.WriteOptions(quoting_style="needed"))
    draw_curves(_curves(table, encoders), chosen.on_curve, files[2])
    return Tuned(table, files, settings_of(chosen, config), chosen.encoder, chosen.row, chosen.reasons, tuple(notes))


def sides_of_run(run: Path) -> tuple[Path, Path, list[str], str]:
    """The embedding tables of a run folder, pool images that might not be mined, and the column of weights it had.

    Raises
    ------
    TableError
        When it has no tables, or its record is damaged.
    """
    folder = RunFolder(run)
    for table in (folder.targets, folder.pool):
        if not table.is_file():
            raise TableError(f"holds no {table.name}", where=str(run), hint="name the folder of a finished run")
    barred: list[str] = []
    if folder.excluded.is_file():
        barred = [str(path) for path in pq.read_table(folder.excluded, columns=["filepath"]).column(0).to_pylist()]
    settings = read_record(folder).settings if folder.record.is_file() else {}
    return folder.targets, folder.pool, barred, str(settings.get("target_weight_column", ""))


def _open(
    name: str, targets: str | Path, pool: str | Path, config: TuneConfig, exclude_paths: Collection[str]
) -> _Sides:
    """Read what is needed of one encoder's tables beside the pool's vectors."""
    target = read_embedding_table(str(targets), config.target_vectors)
    stream = EmbeddingStream(str(pool), config.pool_vectors)
    known = list(compare_encoders(target, stream, (config.target_vectors, config.pool_vectors)))
    scalars = stream.read_scalars()
    paths = pc.cast(scalars.column("filepath"), pa.string()).combine_chunks()
    own = Barred(target.filepaths.to_pylist(), parts=False)(paths)
    excluded = own | Barred(exclude_paths)(paths)
    if own.any():
        known.append(f"{int(own.sum())} pool images have the path of a target and are left out")
    if (excluded & ~own).any():
        known.append(f"{int((excluded & ~own).sum())} pool images might not be mined in the run, and are left out")
    if excluded.all():
        raise TableError("has only images that are left out", where=str(pool), hint="name the pool")
    labels = None
    if target.labels is not None and stream.has_labels:
        labels = (_labels(target.labels), _labels(scalars.column("label")))
    weights = read_weights(str(targets), config.target_weight_column)
    return _Sides(name, target, stream, paths, labels, weights, excluded, known)


def _swept(sides: _Sides, config: TuneConfig) -> Tried:
    """Try everything with one encoder."""
    excluded = sides.excluded
    swept = sweep(
        open_side(sides.target, "target", config.target_vectors),
        sides.stream,
        config.scored(),
        components=config.numbers("components"),
        topns=_topns(config, int((~excluded).sum()), sides.notes),
        thresholds=None if config.thresholds is None else (OFF, *config.thresholds),
        quantiles=_QUANTILES,
        weights=sides.weights,
        excluded=excluded if excluded.any() else None,
        keys=sides.paths.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64),
    )
    sides.notes.extend(swept.notes)
    return Tried(sides.name, swept, sides.labels, sides.stream.rows)


def _topns(config: TuneConfig, allowed: int, notes: list[str]) -> list[int]:
    """Numbers of neighbours that the pool has."""
    asked = config.numbers("topn")
    there = sorted({min(number, allowed) for number in asked})
    if there[-1] < asked[-1]:
        notes.append(f"topn={asked[-1]} is more than the pool has: clamped to {allowed}")
    return there


def _labels(column: pa.ChunkedArray) -> npt.NDArray[np.object_]:
    return np.array([plain_label(label) for label in column.to_pylist()], np.object_)


def _same_images(one: _Sides, two: _Sides) -> None:
    """Refuse encoders whose figures cannot be compared."""
    pairs = {"targets": (one.target.filepaths, two.target.filepaths), "pool": (one.paths, two.paths)}
    for side, (first, second) in pairs.items():
        if not first.equals(second):
            raise ConfigError(
                f"the {side} of {one.name} and {two.name} are not the same images in the same order",
                hint="embed the same two tables with each encoder; held-out ranks cannot be compared otherwise",
            )


def _table(encoders: Sequence[Tried], chosen: Chosen) -> pa.Table:
    """One row for every setting of every encoder."""
    names = _label_names(encoders)
    rows = [row for encoder in encoders for row in _rows(encoder, names)]
    for number, row in enumerate(rows):
        row["recommended"] = number == chosen.row
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return pa.table({name: pa.array(values, _TYPES.get(name, pa.float64())) for name, values in columns.items()})


#: Columns that hold no float64.
_TYPES = {
    "encoder": pa.string(),
    "scoring": pa.string(),
    "components": pa.int64(),
    "topn": pa.int64(),
    "yield": pa.int64(),
    "knee": pa.string(),
    "recommended": pa.bool_(),
}
#: What the knee of all curves together is called in the column `knee`.
_TOGETHER = "together"


def _rows(encoder: Tried, names: Sequence[str]) -> list[dict[str, Any]]:
    """The table's rows of one encoder, in the order of its points."""
    knees: dict[Setting, list[str]] = {}
    for _, points in by_option(encoder.swept.points):
        found = encoder.knee(points)
        for name, place in {_TOGETHER: found.place, **found.alone}.items():
            if place is not None:
                knees.setdefault(points[place].setting, []).append(name)
    return [
        {**_row(encoder, point, names), "knee": ", ".join(knees.get(point.setting, ())) or None, "recommended": False}
        for point in encoder.swept.points
    ]


def _row(encoder: Tried, point: Point, names: Sequence[str]) -> dict[str, Any]:
    option, topn, threshold = point.setting
    ranks = {one.option: one.rank for one in encoder.swept.tried}
    return {
        "encoder": encoder.name,
        "scoring": scoring_of(option),
        "components": option.components or None,
        "topn": topn,
        "distance_threshold": None if threshold == OFF else threshold,
        "yield": len(point.rows),
        "pool_share": len(point.rows) / encoder.rows,
        "held_out_recall": _number(point.recall),
        "held_out_rank": ranks.get(option),
        "coverage": point.served,
        "redundancy": _number(point.redundancy),
        **_precision(encoder, point, names),
    }


def _precision(encoder: Tried, point: Point, names: Sequence[str]) -> dict[str, float | None]:
    """The share of the kept images with the label of their target: of all, and by the target's label."""
    right = encoder.right(point)
    if encoder.labels is None or right is None:
        return {"precision": None}
    wanted = encoder.labels[0][point.targets]
    found: dict[str, float | None] = {"precision": float(right.mean()) if len(right) else None}
    for name in names:
        own = right[wanted == name]
        found[f"precision: {name}"] = float(own.mean()) if len(own) else None
    return found


def _label_names(encoders: Sequence[Tried]) -> list[str]:
    """The most frequent labels of the targets, where there is more than one."""
    if encoders[0].labels is None:
        return []
    names, counts = np.unique(encoders[0].labels[0].astype(str), return_counts=True)
    order = np.lexsort((names, -counts))
    return [str(name) for name in names[order][:_MOST_LABELS]] if len(names) > 1 else []


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _curves(table: pa.Table, encoders: Sequence[Tried]) -> list[Curve]:
    """The curves of the plot: every scoring of every encoder, without a threshold."""
    curves = []
    rows = table.to_pylist()
    first = 0
    for encoder in encoders:
        own = rows[first : first + len(encoder.swept.points)]
        for option, _ in by_option(encoder.swept.points):
            chosen = [
                (first + number, row)
                for number, (row, point) in enumerate(zip(own, encoder.swept.points, strict=True))
                if point.setting.option == option and point.setting.threshold == OFF
            ]
            curves.append(Curve(encoder.name, scoring_of(option), option.components, tuple(chosen)))
        first += len(own)
    return curves
