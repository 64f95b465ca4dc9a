"""`calibrate`: distance thresholds for a pool and its encoder, proposed from the pool's own distances."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import CalibrateConfig
from lookalike.neighbors.sides import Side
from lookalike.selection.calibration import Calibration, calibrate
from lookalike.tables.embedding_stream import EmbeddingStream, plain_label
from lookalike.tables.run_folder import RunFolder

_Config = CalibrateConfig
#: Quantiles of the table, beside the one of the proposal.
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99)
#: Digits of a proposal.
_DIGITS = 4
#: With fewer images, a quantile is a guess.
_FEW = 100
#: Random pairs within the proposed threshold, from which on it tells little.
_MANY_RANDOM = 0.5


@dataclass(frozen=True)
class Step:
    """One line of the table.

    Attributes
    ----------
    quantile, distance:
        Such a share of the pool images has its nearest other one within this distance.
    random:
        The share of random pairs that are within it.
    same_label:
        Of the images with a nearest one within it, the share whose label is that one's; None without labels.
    """

    quantile: float
    distance: float
    random: float
    same_label: float | None


@dataclass(frozen=True)
class Proposal:
    """What `calibrate_pool` found.

    Attributes
    ----------
    pool, metric:
        What was measured.
    rows, sampled:
        Images of the pool, and those whose nearest other one was looked for.
    steps:
        The table.
    random:
        The median distance of a random pair.
    random_same_label:
        The share of the sampled images whose label is that of a random other one; None without labels.
    twins:
        Images with another one at distance 0.
    distance_threshold, dedup_threshold:
        What is proposed; None where nothing can be.
    reasons:
        Why, one sentence for each.
    notes:
        What is to be known besides.
    command:
        How to use it.
    """

    pool: str
    metric: str
    rows: int
    sampled: int
    steps: tuple[Step, ...]
    random: float
    random_same_label: float | None
    twins: int
    distance_threshold: float | None
    dedup_threshold: float | None
    reasons: tuple[str, ...]
    notes: tuple[str, ...]
    command: str


def calibrate_pool(
    pool: str | Path,
    *,
    knn_metric: str = _Config.knn_metric,
    quantile: float = _Config.quantile,
    sample: int = _Config.sample,
    seed: int = _Config.seed,
    pool_vectors: str = _Config.pool_vectors,
    device: str = _Config.device,
    memory_limit: int = _Config.memory_limit,
) -> Proposal:
    """Propose `distance_threshold` and `dedup_threshold` for a pool.

    Parameters
    ----------
    pool:
        An embedding table, or a run folder, whose pool is taken.
    knn_metric, and every setting after it:
        As in `CalibrateConfig`, which holds the defaults.

    Raises
    ------
    ConfigError
        When a setting cannot be right.
    TableError, VectorError
        When the table cannot be read, or has fewer than two rows.
    """
    CalibrateConfig(knn_metric, quantile, sample, seed, pool_vectors, device, memory_limit).validate()
    folder = RunFolder(Path(pool))
    table = str(folder.pool if folder.pool.is_file() else pool)
    stream = EmbeddingStream(table, pool_vectors)

    def measured(metric: str) -> Calibration:
        return calibrate(stream, metric, sample=sample, seed=seed, device=device, memory_limit=memory_limit)

    found = measured(knn_metric)
    # Near-duplicates are compared by cosine, whatever the metric of the search is.
    cosine = found if knn_metric == "cosine" else measured("cosine")
    labels = _labels(stream)
    steps = tuple(_step(found, share, labels) for share in sorted({*QUANTILES, quantile}))
    threshold = _rounded(found.quantile(quantile)) if found.middle > 0 else None
    dedup = cosine.duplicates_end()
    dedup = None if dedup is None else _rounded(dedup)
    return Proposal(
        pool=table,
        metric=knn_metric,
        rows=stream.rows,
        sampled=len(found.rows),
        steps=steps,
        random=found.middle,
        random_same_label=_random_same(labels),
        twins=found.twins,
        distance_threshold=threshold,
        dedup_threshold=dedup,
        reasons=_reasons(found, cosine, quantile, threshold, dedup),
        notes=_notes(found, stream, threshold, seed),
        command=_command(table, knn_metric, pool_vectors, threshold, dedup),
    )


def _step(found: Calibration, share: float, labels: npt.NDArray[np.object_] | None) -> Step:
    distance = found.quantile(share)
    same = None
    if labels is not None:
        within = found.nearest <= distance
        same = float((labels[found.rows[within]] == labels[found.neighbors[within]]).mean())
    return Step(share, distance, found.random_within(distance), same)


def _labels(stream: Side) -> npt.NDArray[np.object_] | None:
    """The labels of the pool as they are compared; None where it has none."""
    if not stream.has_labels:
        return None
    assert isinstance(stream, EmbeddingStream)
    return np.array([plain_label(label) for label in stream.read_scalars().column("label").to_pylist()], np.object_)


def _random_same(labels: npt.NDArray[np.object_] | None) -> float | None:
    """How often two random images of the pool have one label."""
    if labels is None:
        return None
    counts = np.unique(labels, return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1)).sum() / (len(labels) * (len(labels) - 1)))


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _reasons(
    found: Calibration, cosine: Calibration, quantile: float, threshold: float | None, dedup: float | None
) -> tuple[str, ...]:
    """Why these two."""
    if threshold is None:
        return ("random pairs of this pool are at distance 0: there is nothing to tell apart",)
    reasons = [
        f"distance_threshold: {100 * quantile:g} % of the pool images have another one within {threshold:g}, and "
        f"{100 * (1 - found.random_within(threshold)):.0f} % of random pairs are farther apart"
    ]
    if dedup is None:
        reasons.append("dedup_threshold: too few images that differ to tell where near-duplicates end")
    else:
        count = int((cosine.nearest <= dedup).sum())
        reasons.append(
            f"dedup_threshold: different images of this pool are hardly ever nearer than {dedup:g} (cosine); "
            f"{count} of {len(cosine.rows)} images have another one within it"
        )
    return tuple(reasons)


def _notes(found: Calibration, stream: Side, threshold: float | None, seed: int) -> tuple[str, ...]:
    """What is to be known besides."""
    notes = []
    if len(found.rows) < stream.rows:
        notes.append(f"measured: a random sample of {len(found.rows)} images (seed {seed}), each among all of the pool")
    if len(found.rows) < _FEW:
        notes.append(f"{len(found.rows)} images are few: a larger pool has nearer neighbours, and smaller thresholds")
    if found.twins:
        notes.append(f"{found.twins} images have another one at distance 0")
    if threshold is not None and found.random_within(threshold) > _MANY_RANDOM:
        notes.append(
            f"{100 * found.random_within(threshold):.0f} % of random pairs are within the threshold: to this encoder "
            "the nearest images of this pool are hardly nearer than any, and a threshold tells little"
        )
    return tuple(notes)


def _command(pool: str, metric: str, vectors: str, threshold: float | None, dedup: float | None) -> str:
    """The command that mines with it; the targets are the user's."""
    words = ["lookalike", "mine", "--targets", "TARGETS", "--pool", pool, "--metric", metric]
    words += [] if vectors == _Config.pool_vectors else [f"pool_vectors={vectors}"]
    for name, value in (("distance_threshold", threshold), ("dedup_threshold", dedup)):
        words += [] if value is None else [f"{name}={value:g}"]
    return shlex.join(words)
