"""What changed since the last iteration of a ledger: yields, distances, and the targets themselves."""

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

from lookalike.config.schemas import NearestNeighborsConfig
from lookalike.encoders.identity import EncoderIdentity
from lookalike.errors import LookalikeError
from lookalike.selection.drift import centroid_shift, superiority
from lookalike.selection.filters import Outcome
from lookalike.tables.embedding_stream import EmbeddingStream, plain_label, read_embedding_table
from lookalike.tables.embedding_table import EmbeddingTable
from lookalike.tables.run_folder import RunFolder, read_record

#: Labels whose yields the record holds: those that lost most.
_LABELS = 20


@dataclass(frozen=True)
class Iterated:
    """The last iteration.

    Attributes
    ----------
    folder:
        Of the run that made it, as far as that is still there.
    iteration:
        Its number in the ledger.
    """

    folder: RunFolder
    iteration: int


class _NotComparableError(Exception):
    """Why nothing can be compared."""


@dataclass(frozen=True)
class _Side:
    """One iteration."""

    targets: EmbeddingTable
    pairs: pa.Table

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """Per pair, whether it is kept."""
        found: npt.NDArray[np.bool_] = pc.equal(
            self.pairs.column("outcome").cast(pa.string()), str(Outcome.KEPT)
        ).to_numpy()
        return found

    @property
    def mined(self) -> int:
        """Images that were mined."""
        return int(self.kept.sum())

    @property
    def kept_distances(self) -> npt.NDArray[np.float64]:
        """Of the kept pairs."""
        found: npt.NDArray[np.float64] = self._distances[self.kept]
        return found

    @property
    def nearest(self) -> npt.NDArray[np.float64]:
        """Of the targets that have any pair, the distance to the nearest pool image."""
        found = np.full(len(self.targets), np.inf)
        np.minimum.at(found, self.pairs.column("target_row").to_numpy(), self._distances)
        known: npt.NDArray[np.float64] = found[np.isfinite(found)]
        return known

    @property
    def _distances(self) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = self.pairs.column("distance").to_numpy().astype(np.float64)
        return found

    def by_label(self) -> dict[str, tuple[int, int]]:
        """Of every label, as it is compared, its targets and the images that were mined for them."""
        if self.targets.labels is None:
            return {}
        labels = [None if one is None else plain_label(one) for one in self.targets.labels.to_pylist()]
        kept = Counter(labels[row] for row in self.pairs.column("target_row").to_numpy()[self.kept].tolist())
        return {label: (number, kept[label]) for label, number in Counter(labels).items() if label is not None}


def compare(folder: RunFolder, settings: NearestNeighborsConfig, last: Iterated) -> dict[str, Any]:
    """Compare a run with the iteration before it.

    Parameters
    ----------
    folder, settings:
        Of the run.
    last:
        The iteration before.

    Returns
    -------
    dict
        For `run.json`: `iteration` and, where nothing can be compared, `unknown` with the reason.
    """
    try:
        then = _opened_last(folder, settings, last)
    except _NotComparableError as why:
        return {"iteration": last.iteration, "unknown": str(why)}
    now = _open(folder, settings.target_embed_column_name)
    shift = centroid_shift(now.targets.vectors, then.targets.vectors, settings.seed)
    return {
        "iteration": last.iteration,
        "mined": [then.mined, now.mined],
        "nearest": _compared(then.nearest, now.nearest),
        "kept": _compared(then.kept_distances, now.kept_distances),
        "targets": None if shift is None else vars(shift),
        "labels": _labels(then.by_label(), now.by_label()),
    }


def _opened_last(folder: RunFolder, settings: NearestNeighborsConfig, last: Iterated) -> _Side:
    """The last iteration, where its vectors and distances can be compared with those of this one."""
    if not (last.folder.record.is_file() and last.folder.pairs.is_file() and last.folder.targets.is_file()):
        raise _NotComparableError("its run folder is not there, or no run of lookalike")
    try:
        metric = read_record(last.folder).settings.get("knn_metric", NearestNeighborsConfig.knn_metric)
        if metric != settings.knn_metric:
            raise _NotComparableError(f"its distances are {metric}, and this run's {settings.knn_metric}")
        column = read_record(last.folder).settings.get("target_embed_column_name", settings.target_embed_column_name)
        own, others = (
            EmbeddingStream(str(one.targets), name).identity_json
            for one, name in ((folder, settings.target_embed_column_name), (last.folder, column))
        )
        if own is None or others is None:
            raise _NotComparableError("one of the two runs does not say which encoder wrote its vectors")
        names = (str(folder.targets), str(last.folder.targets))
        prints = [
            EncoderIdentity.from_json(text, name).fingerprint for text, name in zip((own, others), names, strict=True)
        ]
        if prints[0] != prints[1]:
            raise _NotComparableError("another encoder wrote its vectors")
        return _open(last.folder, column)
    except (LookalikeError, pa.ArrowInvalid, OSError) as error:
        raise _NotComparableError(f"its run folder cannot be read: {error}") from error


def _open(folder: RunFolder, column: str) -> _Side:
    pairs = pq.read_table(folder.pairs, columns=["target_row", "distance", "outcome"])
    return _Side(read_embedding_table(str(folder.targets), column), pairs)


def _compared(then: npt.NDArray[np.float64], now: npt.NDArray[np.float64]) -> dict[str, float | None]:
    """The medians of some distances, and the probability that one of this run is larger."""
    medians = [float(np.median(one)) if len(one) else math.nan for one in (then, now)]
    figures = {"then": medians[0], "now": medians[1], "superiority": superiority(now, then)}
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def _labels(then: dict[str, tuple[int, int]], now: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """What was mined for every label that both have, those that lost most first."""
    both = sorted(set(then) & set(now), key=lambda label: (now[label][1] - then[label][1], label))
    return [
        {"label": label, "targets": [then[label][0], now[label][0]], "mined": [then[label][1], now[label][1]]}
        for label in both[:_LABELS]
    ]
