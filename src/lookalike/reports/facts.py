"""What a run amounts to: the numbers of the report, gathered from the record, the pair table and the embedding tables.

Of the pool's vectors only a small sample is read, to know how far a random pool image is from a target.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from scipy.spatial.distance import cdist

from lookalike.config.schemas import TRUE_WORDS, NearestNeighborsConfig
from lookalike.encoders.identity import EncoderIdentity, differences
from lookalike.errors import TableError
from lookalike.reports.labels import NO_LABEL, Labels, read_labels
from lookalike.reports.pairs import Pairs, read_pairs
from lookalike.reports.paths import PathFacts, look_at_paths
from lookalike.reports.sample import VectorRows
from lookalike.reports.thumbnails import Reading
from lookalike.selection.filters import Outcome
from lookalike.tables.pair_table import sibling
from lookalike.tables.run_folder import InputRecord, RunFolder, RunRecord, read_record

#: Rows of each side that the distance of a random pair is measured on.
_RANDOM_TARGETS, _RANDOM_POOL = 200, 1000
#: Targets and hubs that are named.
_FIRST = 5
_ROUNDING = 1e-12
_SCIPY = {"cosine": "cosine", "euclidean": "euclidean", "manhattan": "cityblock"}

#: A hub is found for so many targets at least, for such a share of them, and so many times as often as by chance.
HUB_TARGETS, HUB_SHARE, HUB_TIMES = 10, 0.1, 10
#: The pool counts as exhausted when such a share of what may be mined is mined, or of the candidates were duplicates.
MINED_SHARE, DUPLICATE_SHARE = 0.8, 0.5
#: Outcomes of a pair whose target has its image, or one that is the same or almost the same, in the mined table.
SERVED = (Outcome.KEPT, Outcome.DUPLICATE, Outcome.NEAR_DUPLICATE)
#: Nearest distances from this share of a random pair's distance on count as unrelated.
UNRELATED = 0.8


@dataclass(frozen=True)
class Side:
    """One side: its record, the identity in its embedding table, and its quarantine table where there is one."""

    name: str
    record: InputRecord
    identity: EncoderIdentity | None
    quarantine: Path | None


@dataclass(frozen=True)
class LabelFacts:
    """One target label.

    Attributes
    ----------
    label:
        As the first target spells it.
    targets:
        Target rows.
    mined:
        Kept pairs.
    best, median:
        Of the distances of kept pairs; None where there are none.
    without_own:
        Targets without a kept pair.
    nothing:
        Those of them none of whose neighbours is a duplicate or near-duplicate of a kept one either.
    """

    label: str
    targets: int
    mined: int
    best: float | None
    median: float | None
    without_own: int
    nothing: int


@dataclass(frozen=True)
class Hub:
    """A pool image that is found for very many targets."""

    filepath: str
    targets: int


@dataclass(frozen=True)
class Facts:
    """Everything that the report says; distances are None where there are no pairs.

    Attributes
    ----------
    folder, record:
        The run.
    targets, pool:
        Both sides.
    outcomes:
        Pairs by outcome.
    labels:
        Per target label, those with most targets first.
    has_labels:
        Whether the targets have labels.
    without_own, nothing:
        As of `LabelFacts`, over all targets.
    first_nothing:
        Paths of the first targets that are left with nothing.
    hubs:
        Worst first; at most a few of them.
    hub_count:
        All of them.
    nearest:
        The median of the targets' nearest distances.
    random:
        The median distance of a target to a random pool image.
    unrelated:
        Targets whose nearest pool image is no nearer than `UNRELATED` of that.
    first_unrelated:
        Paths of the farthest of them.
    same_path, same_vector:
        Targets whose own path is among their neighbours; targets with a neighbour of another path at distance 0.
    self_mined:
        Kept pairs of a target with its own path.
    scores:
        Least, median and largest score of the kept pairs, where there are scores.
    paths:
        Of the mined table.
    defaults:
        Of the settings of the search.
    """

    folder: RunFolder
    record: RunRecord
    targets: Side
    pool: Side
    outcomes: dict[str, int]
    labels: list[LabelFacts]
    has_labels: bool
    without_own: int
    nothing: int
    first_nothing: list[str]
    hubs: list[Hub]
    hub_count: int
    nearest: float | None
    random: float | None
    unrelated: int
    first_unrelated: list[str]
    same_path: int
    same_vector: int
    self_mined: int
    scores: tuple[float, float, float] | None
    paths: PathFacts
    defaults: dict[str, Any] = field(default_factory=lambda: vars(NearestNeighborsConfig()))

    def setting(self, name: str) -> Any:
        """A setting of the search, or its default where the record does not have it."""
        return self.record.settings.get(name, self.defaults.get(name))

    @property
    def metric(self) -> str:
        """The metric of the search."""
        return str(self.setting("knn_metric"))

    @property
    def topn(self) -> int:
        """Neighbours a target, as searched."""
        found = self.record.counts.get("topn") if self.searched else None
        return int(found or self.setting("topn"))

    @property
    def threshold(self) -> float | None:
        """The distance threshold, where one is set."""
        value = float(self.setting("distance_threshold"))
        return value if value >= 0 else None

    @property
    def target_count(self) -> int:
        """Targets that were searched for."""
        return self.record.targets.embedded

    @property
    def left_out(self) -> int:
        """Pool images that might not be mined, and were not searched."""
        return self.record.counts.get("excluded") or 0

    @property
    def searched(self) -> int:
        """Pool images that were searched."""
        return self.record.pool.embedded - self.left_out

    @property
    def scored(self) -> bool:
        """Whether images were selected by score, and not as the topn nearest of every target."""
        return self.record.selection is not None

    @property
    def budget(self) -> int:
        """How many images a selection by score could keep; 0 without one."""
        return int(self.record.selection["budget"]) if self.record.selection is not None else 0

    @property
    def mined(self) -> int:
        """Rows of the mined table."""
        return self.outcomes[Outcome.KEPT]

    @property
    def pairs(self) -> int:
        """Pairs that the search returned."""
        return sum(self.outcomes.values())

    @property
    def wants_label_filter(self) -> bool:
        """Whether the label filter was asked for."""
        return str(self.setting("filter_by_label")).strip().lower() in TRUE_WORDS

    @property
    def filter_ran(self) -> bool:
        """Whether the label filter could work."""
        return self.record.counts.get("label_mismatches") is not None

    @property
    def filter_was_noop(self) -> bool:
        """Whether the label filter was asked for and changed nothing.

        Where labels act inside the search, a pair of other labels is never met; where there are no pairs, there was
        nothing to change.
        """
        if self.label_rule or (self.filter_ran and not self.pairs):
            return False
        return self.wants_label_filter and not self.record.counts.get("label_mismatches")

    @property
    def label_rule(self) -> str:
        """The setting that let each target meet images of its own label only; empty where none did."""
        if self.setting("within_label"):
            return "within_label"
        return "filter_by_label" if self.scored and self.wants_label_filter and self.filter_ran else ""

    @property
    def pool_image(self) -> str:
        """What a target's neighbours are called: an image that was left out, or has another label, may be nearer."""
        searched = "searched pool image" if self.left_out else "pool image"
        return f"{searched} of its label" if self.label_rule else searched

    @property
    def all_unrelated(self) -> bool:
        """Whether most targets have nothing near."""
        return bool(self.target_count) and self.unrelated > self.target_count / 2

    @property
    def same_encoder(self) -> bool | None:
        """Whether one encoder wrote both tables; None where that is not known."""
        one, two = self.targets.identity, self.pool.identity
        return None if one is None or two is None else one.fingerprint == two.fingerprint

    @property
    def rounding(self) -> list[str]:
        """In what numerics the two tables differ."""
        one, two = self.targets.identity, self.pool.identity
        return [] if one is None or two is None else differences(one, two)[1]


def gather(folder: RunFolder) -> Facts:
    """Gather what the report says about a finished run.

    Raises
    ------
    TableError
        When the folder is no finished run, or a table is missing, damaged or of another run.
    """
    record = read_record(folder)
    pairs = read_pairs(folder)
    tables = open_tables(folder, record)
    count = tables[0].rows
    check_rows(folder, pairs, tables)
    labels = read_labels(folder.targets)
    nearest = pairs.nearest(count)
    own, shared = (_targets_with(pairs, count, outcomes) for outcomes in ((Outcome.KEPT,), SERVED))
    random = _random_distance(tables, record)
    far = np.flatnonzero(nearest >= UNRELATED * random) if random else np.zeros(0, np.int64)
    far = far[np.isfinite(nearest[far])]
    worst = np.sort(far[np.argsort(-nearest[far], kind="stable")][:_FIRST])
    nothing = np.flatnonzero(~shared)
    hubs = _hubs(pairs, count, tables[1].rows)
    found = nearest[np.isfinite(nearest)]
    zero = (pairs.distance == 0) & ~pairs.same_path
    return Facts(
        folder=folder,
        record=record,
        targets=_side("target_parquet", record.targets, folder.targets, tables[0]),
        pool=_side("source_pool", record.pool, folder.pool, tables[1]),
        outcomes=pairs.outcomes(),
        labels=_by_label(labels, pairs, own, shared),
        has_labels=labels.there,
        without_own=int((~own).sum()),
        nothing=len(nothing),
        first_nothing=tables[0].filepaths(nothing[:_FIRST]),
        hubs=[Hub(path, number) for path, number in zip(_paths_of(folder, hubs[:_FIRST]), hubs[:_FIRST, 1].tolist(),
                                                        strict=True)],
        hub_count=len(hubs),
        nearest=float(np.median(found)) if found.size else None,
        random=random,
        unrelated=len(far),
        first_unrelated=tables[0].filepaths(worst),
        same_path=len(np.unique(pairs.target_row[pairs.same_path])),
        same_vector=len(np.unique(pairs.target_row[zero])),
        self_mined=int((pairs.same_path & pairs.kept).sum()),
        scores=_scores(pairs),
        paths=look_at_paths(folder, Reading.of(record.settings, record.start).files.base),
    )  # fmt: skip


def open_tables(folder: RunFolder, record: RunRecord) -> tuple[VectorRows, VectorRows]:
    """The embedding tables of both sides."""
    columns = (record.settings.get(f"{side}_embed_column_name", "embedding") for side in ("target", "source"))
    targets, pool = (VectorRows(path, name) for path, name in zip((folder.targets, folder.pool), columns, strict=True))
    return targets, pool


def check_rows(folder: RunFolder, pairs: Pairs, tables: tuple[VectorRows, VectorRows]) -> None:
    """Refuse a pair table that names rows which the embedding tables do not have."""
    for rows, table in zip((pairs.target_row, pairs.source_row), tables, strict=True):
        if len(rows) and not 0 <= rows.min() <= rows.max() < table.rows:
            raise TableError(
                f"names row {rows.max()}, and {table.path.name} has {table.rows} rows",
                where=str(folder.pairs),
                hint="the two tables are of different runs; mine again",
            )


def _side(name: str, record: InputRecord, path: Path, table: VectorRows) -> Side:
    identity = EncoderIdentity.from_json(table.identity_json, str(path)) if table.identity_json else None
    quarantine = sibling(path, "_quarantine")
    return Side(name, record, identity, quarantine if quarantine.exists() else None)


def _targets_with(pairs: Pairs, targets: int, outcomes: tuple[str, ...]) -> npt.NDArray[np.bool_]:
    """Per target, whether one of its pairs has one of the outcomes."""
    found = np.zeros(targets, np.bool_)
    found[pairs.target_row[pairs.having(*outcomes)]] = True
    return found


def _by_label(
    labels: Labels, pairs: Pairs, own: npt.NDArray[np.bool_], shared: npt.NDArray[np.bool_]
) -> list[LabelFacts]:
    """The row of every target label."""
    names = labels.names or (NO_LABEL,)
    targets, without, nothing = (
        np.bincount(labels.codes, weights, len(names)).astype(np.int64) for weights in (None, ~own, ~shared)
    )
    codes = labels.codes[pairs.target_row[pairs.kept]]
    order = np.argsort(codes, kind="stable")
    distances = np.split(pairs.distance[pairs.kept][order], np.cumsum(np.bincount(codes, minlength=len(names)))[:-1])
    rows = [
        LabelFacts(
            label, int(targets[number]), len(own_distances),
            float(own_distances.min()) if len(own_distances) else None,
            float(np.median(own_distances)) if len(own_distances) else None,
            int(without[number]), int(nothing[number]),
        )
        for number, (label, own_distances) in enumerate(zip(names, distances, strict=True))
    ]  # fmt: skip
    return sorted(rows, key=lambda row: (-row.targets, row.label))


def _hubs(pairs: Pairs, targets: int, pool: int) -> npt.NDArray[np.int64]:
    """Source rows that are found for very many targets, with that number; worst first."""
    rows, numbers = np.unique(pairs.source_row, return_counts=True)
    least = max(HUB_TARGETS, HUB_SHARE * targets, HUB_TIMES * len(pairs) / max(1, pool))
    many = np.flatnonzero(numbers >= least)
    many = many[np.lexsort((rows[many], -numbers[many]))]
    return np.stack([rows[many], numbers[many]], axis=1)


def _paths_of(folder: RunFolder, hubs: npt.NDArray[np.int64]) -> list[str]:
    """The paths of some source rows, from the pair table."""
    if not len(hubs):
        return []
    wanted = hubs[:, 0].tolist()
    table = pq.read_table(
        folder.pairs, columns=["source_row", "source_filepath"], filters=[("source_row", "in", wanted)]
    )
    paths = dict(zip(table["source_row"].to_pylist(), table["source_filepath"].to_pylist(), strict=True))
    return [str(paths[row]) for row in wanted]


def _random_distance(tables: tuple[VectorRows, VectorRows], record: RunRecord) -> float | None:
    """The median distance of a target to a random pool image, over a sample of both."""
    metric = _SCIPY.get(str(record.settings.get("knn_metric", NearestNeighborsConfig.knn_metric)))
    if metric is None:
        return None
    sizes = (_RANDOM_TARGETS, _RANDOM_POOL)
    vectors = [table.vectors(table.sample(size)).astype(np.float64) for table, size in zip(tables, sizes, strict=True)]
    with np.errstate(invalid="ignore", divide="ignore"):
        distances = cdist(*vectors, metric)
    if metric == "cosine":  # a zero vector has distance 1 to everything, and equal vectors differ by rounding here
        distances = np.where(np.isfinite(distances), distances, 1.0)
        distances[np.abs(distances) < _ROUNDING] = 0.0
    return float(np.median(distances)) if distances.size else None


def _scores(pairs: Pairs) -> tuple[float, float, float] | None:
    """Least, median and largest score of the kept pairs."""
    if pairs.score is None:
        return None
    scores = pairs.score[pairs.kept]
    scores = scores[np.isfinite(scores)]
    return (float(scores.min()), float(np.median(scores)), float(scores.max())) if len(scores) else None
