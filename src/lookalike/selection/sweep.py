"""`sweep`: what every scoring, number of neighbours and threshold would keep, from one search.

The search asks for as many neighbours as the largest setting needs; the smaller ones look at the first of them. The
pool is scored once by each scoring, and the hidden targets (`heldout`) take their ranks once. What is left for each
setting is what `lookalike mine` does with it: walk, keep, count.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import ScoringConfig
from lookalike.neighbors.base import Float64s, Floats, Neighbors, Rows
from lookalike.neighbors.certificate import Certificate
from lookalike.neighbors.devices import choose_devices
from lookalike.neighbors.held import Arithmetic, hold
from lookalike.neighbors.search import Search, search
from lookalike.neighbors.sides import Side, pick_vectors
from lookalike.progress import progress
from lookalike.selection.arithmetic import arithmetic_of, project
from lookalike.selection.choice import BLEND, auto_components, shared
from lookalike.selection.coverage import Same, cover
from lookalike.selection.filters import Outcome, code
from lookalike.selection.given import vectors_of
from lookalike.selection.heldout import LEAST_TARGETS, HeldOut, Hidden, Option, Sample, hide
from lookalike.selection.pairs import Images, Limits
from lookalike.selection.passes import Background, Blend, Scorer, learn, score_pool
from lookalike.selection.rules import Rules
from lookalike.selection.scored import pairs_of
from lookalike.selection.scoring import WHITENED, checked_weights, near, without_self
from lookalike.selection.space import Mask, Moments, Singles, Whitening, blocks_there

#: Kept images whose likeness to the other ones is measured, at most: more do not change the mean.
_MOST_ALIKE = 1_000
#: No threshold.
OFF = -1.0


class Setting(NamedTuple):
    """What is tried.

    Attributes
    ----------
    option:
        The scoring and its components.
    topn:
        Neighbours a target: with `nearest` they are what is kept, else they set the budget.
    threshold:
        `distance_threshold`; `OFF` for none.
    """

    option: Option
    topn: int
    threshold: float


@dataclass(frozen=True)
class Point:
    """What a setting gives.

    Attributes
    ----------
    setting:
        What was tried.
    rows, targets:
        Rows of the pool that are kept, and the target that each is kept for.
    served:
        Share of the targets with a kept image among their own candidates.
    recall:
        Share of the hidden targets that are found among as many images; NaN where none can be hidden.
    redundancy:
        Mean cosine of a kept image to the kept one that is most like it; NaN for less than two.
    """

    setting: Setting
    rows: Rows
    targets: Rows
    served: float
    recall: float
    redundancy: float


@dataclass(frozen=True)
class Swept:
    """All settings of one encoder.

    Attributes
    ----------
    points:
        One a setting: by scoring, then by `topn`, then by threshold.
    tried:
        The held-out figures of every scoring, best first; empty where no target can be hidden.
    certificate:
        Of the search.
    notes:
        What changes the meaning of the figures.
    """

    points: tuple[Point, ...]
    tried: tuple[HeldOut, ...]
    certificate: Certificate
    notes: tuple[str, ...]


def sweep(
    targets: Side,
    pool: Side,
    settings: ScoringConfig,
    *,
    components: Sequence[int],
    topns: Sequence[int],
    thresholds: Sequence[float] | None,
    quantiles: Sequence[float] = (),
    weights: npt.ArrayLike | None = None,
    excluded: Mask | None = None,
    keys: Rows | None = None,
) -> Swept:
    """Try every setting.

    Parameters
    ----------
    targets, pool:
        Both sides; the targets are held in memory.
    settings:
        Everything that is not tried.
    components, topns:
        What is tried, ascending.
    thresholds:
        The same; None: off, and those within which such shares (`quantiles`) of the pairs of the largest `topn` lie.
    weights:
        One number from 0 a target: how much it counts in the scoring and in the held-out figures; None: all alike.
    excluded:
        Rows of the pool that are taken as if they were not there.
    keys:
        Per row of the pool, a number that is equal for equal paths.

    Raises
    ------
    ConfigError
        When the weights cannot be right.
    VectorError
        When dimensions differ, or values are not finite.
    SearchError
        When the search fails its own check.
    """
    return _Sweep(targets, pool, settings, weights, excluded, keys).result(components, topns, thresholds, quantiles)


@dataclass(frozen=True)
class _Found:
    """Where the hidden targets stand by every option, and how far each is from the nearest visible one."""

    hidden: Hidden
    ranks: dict[Option, list[Float64s]]
    distances: list[Float64s]

    @classmethod
    def of(cls, hidden: Hidden, options: Sequence[Option], metric: str, arithmetic: Arithmetic) -> _Found:
        """Rank them once."""
        ranks = {option: hidden.ranks(option, metric, arithmetic) for option in options}
        return cls(hidden, ranks, hidden.distances(metric))

    def shares(self, targets: int) -> dict[Option, float]:
        """The shares of the options that `scoring=auto` would blend for so many targets."""
        figures = [self.hidden.figures(option, ranks, 0.0) for option, ranks in self.ranks.items()]
        return {one.option: one.share for one in shared(figures, targets) if one.share}

    def recall(self, setting: Setting, share: float) -> float:
        """The share of them that stand among such a share of the pool, and within the threshold."""
        limit = np.inf if setting.threshold == OFF else setting.threshold
        within = share * len(self.hidden.sample.ranked)
        return self.hidden.share(
            [
                (ranks <= within) & (distances <= limit)
                for ranks, distances in zip(self.ranks[setting.option], self.distances, strict=True)
            ]
        )

    def figures(self, share: float) -> tuple[HeldOut, ...]:
        """What is known of every option, best first."""
        within = share * len(self.hidden.sample.ranked)
        figures = [self.hidden.figures(option, ranks, within) for option, ranks in self.ranks.items()]
        return tuple(sorted(figures, key=lambda one: one.log_rank))


class _Sweep:
    """One sweep: its inputs, and the steps in their order."""

    def __init__(
        self,
        targets: Side,
        pool: Side,
        settings: ScoringConfig,
        weights: npt.ArrayLike | None,
        excluded: Mask | None,
        keys: Rows | None,
    ) -> None:
        self._weights = checked_weights(weights, targets.rows)
        self._targets, self._settings, self._excluded = targets, settings, excluded
        self._same, self._notes = Same(keys), list[str]()
        self._allowed = pool.rows - (0 if excluded is None else int(excluded.sum()))
        self._devices = choose_devices(settings.device, float(targets.rows) * pool.rows * pool.dimension)
        self._pool = hold(pool, self._devices)
        self._arithmetic = arithmetic_of(self._pool, self._devices)
        self._vectors: Floats = vectors_of(targets)

    def result(
        self,
        components: Sequence[int],
        topns: Sequence[int],
        thresholds: Sequence[float] | None,
        quantiles: Sequence[float],
    ) -> Swept:
        """Run all steps."""
        settings = self._settings
        most = min(max(*topns, settings.candidates), self._allowed)
        wanted = Search(
            most, settings.knn_metric, excluded=self._excluded, device=settings.device,
            memory_limit=settings.memory_limit, certified=True,
        )  # fmt: skip
        searched = search(self._targets, self._pool, wanted)
        lists = searched.neighbors
        if thresholds is None:
            near_ones = lists.distances[:, : max(topns)]
            own = np.quantile(near_ones[np.isfinite(near_ones)], quantiles) if len(quantiles) else ()
            thresholds = (OFF, *sorted({float(f"{value:.4g}") for value in own}, reverse=True))
        images, found = self._scored(components)
        points = []
        trials = list(product(images, topns, thresholds))
        with progress("trying", len(trials), "settings") as advance:
            for done, trial in enumerate(trials, 1):
                setting = Setting(*trial)
                budget = self._budget(lists, setting.topn)
                rows, kept_for = self._kept(setting, lists, images, budget)
                recall = found.recall(setting, budget / self._allowed) if found else float("nan")
                served = self._served(lists, setting.threshold, rows)
                points.append(Point(setting, rows, kept_for, served, recall, float("nan")))
                advance(done)
        share = self._budget(lists, settings.topn) / self._allowed
        tried = found.figures(share) if found else ()
        return Swept(tuple(self._with_redundancy(points)), tried, searched.certificate, tuple(self._notes))

    def _scored(self, components: Sequence[int]) -> tuple[dict[Option, Images], _Found | None]:
        """Scores of the pool by every option, and where the hidden targets stand by them."""
        settings = self._settings
        moments, background = learn(self._pool, self._excluded, self._allowed, settings.background, settings.seed)
        whitening = Whitening.of(moments, max(components))
        numbers = [number for number in components if number <= whitening.components]
        if whitening.components and not numbers:
            numbers = [whitening.components]
        if len(numbers) < len(components):
            self._notes.append(f"the pool has {whitening.components} components: more cannot be tried")
        if len(background.rows) < self._allowed:
            self._notes.append(
                f"density_ratio compares with a random sample of {len(background.rows)} of {self._allowed} pool images "
                f"(seed {settings.seed})"
            )
        options = [Option("nearest", 0), *(Option(scoring, number) for scoring in WHITENED for number in numbers)]
        base = score_pool(
            self._pool, self._excluded, self._vectors, settings.knn_metric, self._devices, None
        )  # also finds the nearest target of every image
        scorers: dict[Option, Scorer | Blend] = {
            option: Scorer(
                whitening, option, self._vectors, self._weights, background, self._devices, arithmetic=self._arithmetic
            )
            for option in options[1:]
        }
        hidden = self._hidden(moments, whitening, background)
        found = None if hidden is None else _Found.of(hidden, options, settings.knn_metric, self._arithmetic)
        if found is not None and numbers == auto_components(whitening.components):
            self._blend(found, scorers, background)
        scores: list[Singles] = [base.scores.copy() for _ in scorers]
        with progress("scoring", self._allowed * len(scorers), "vectors") as advance:
            seen = 0
            for block in blocks_there(self._pool, self._excluded):
                for scorer, own in zip(scorers.values(), scores, strict=True):
                    own[block.rows] = scorer.scores(*block)
                seen += len(block.rows) * len(scorers)
                advance(seen)
        images = {
            option: Images(own, base.targets, base.distances, base.allowed)
            for option, own in zip([options[0], *scorers], [base.scores, *scores], strict=True)
        }
        return images, found

    def _blend(self, found: _Found, scorers: dict[Option, Scorer | Blend], background: Background) -> None:
        """Add what `scoring=auto` would use, where it blends several of the options."""
        shares = found.shares(int((self._weights > 0).sum()))
        used = [one for option in shares if isinstance(one := scorers.get(option), Scorer)]
        if len(used) < 2:
            return
        scorers[BLEND] = Blend(used, [*shares.values()], background, self._arithmetic)
        found.ranks[BLEND] = found.hidden.blended_ranks(shares, self._arithmetic)

    def _hidden(self, moments: Moments, whitening: Whitening, background: Background) -> Hidden | None:
        """Halves of the targets, in a space of the pool and all targets; None where there are too few."""
        counted = self._weights > 0
        if counted.sum() < LEAST_TARGETS:
            self._notes.append(
                f"{counted.sum()} targets are too few to hide some of them ({LEAST_TARGETS} are needed): there "
                "is no held-out recall"
            )
            return None
        moments.see(self._vectors)
        both = Whitening.of(moments, whitening.components)
        sample = Sample(
            project(both, background.vectors), project(both, self._vectors[counted]), background.vectors,
            self._vectors[counted], self._weights[counted], np.arange(len(background.rows)),
        )  # fmt: skip
        return hide(sample, self._settings.splits, self._settings.seed)

    def _budget(self, lists: Neighbors, topn: int) -> int:
        """How many different images the first neighbours of all targets are."""
        rows = lists.rows[:, :topn]
        return len(np.unique(self._same.of(rows[rows >= 0])))

    def _kept(self, setting: Setting, lists: Neighbors, images: dict[Option, Images], budget: int) -> tuple[Rows, Rows]:
        """The rows that are kept, and for which target."""
        settings, rules = self._settings, Rules(setting.threshold)
        first = max(setting.topn, settings.candidates)
        if setting.option.scoring == "nearest":
            return self._nearest(lists, setting)
        pairs = pairs_of(Neighbors(lists.distances[:, :first], lists.rows[:, :first]))
        limits = Limits(
            budget, settings.min_per_target, settings.max_per_target, settings.max_per_label, settings.candidates
        )
        covered = cover(
            pairs, rules.with_threshold(images[setting.option], pairs), np.zeros(self._targets.rows, np.int64), limits,
            stops=rules.of_pairs(pairs), same=self._same,
        )  # fmt: skip
        kept = covered.outcomes == code(Outcome.KEPT)
        return covered.pairs.rows[kept], covered.pairs.targets[kept]

    def _nearest(self, lists: Neighbors, setting: Setting) -> tuple[Rows, Rows]:
        """The neighbours of every target, each image once, for the target that comes first."""
        pairs = pairs_of(Neighbors(lists.distances[:, : setting.topn], lists.rows[:, : setting.topn]))
        if setting.threshold >= 0:
            # In float32, as distances are: a threshold of 0.3 keeps a distance that prints as 0.3.
            pairs = pairs.at(np.flatnonzero(pairs.distances <= np.float32(setting.threshold)))
        _, once = np.unique(self._same.of(pairs.rows), return_index=True)
        once = np.sort(once)
        return pairs.rows[once], pairs.targets[once]

    def _served(self, lists: Neighbors, threshold: float, kept: Rows) -> float:
        """The share of targets with a kept image among their own candidates."""
        rows = lists.rows[:, : self._settings.candidates]
        there = rows >= 0
        if threshold >= 0:
            there &= lists.distances[:, : rows.shape[1]] <= np.float32(threshold)
        own = np.isin(self._same.of(np.maximum(rows, 0)), self._same.of(kept)) & there
        return float(own.any(axis=1).mean())

    def _with_redundancy(self, points: list[Point]) -> list[Point]:
        """The same, with how like each other the kept images are."""
        chosen = [np.unique(np.linspace(0, len(one.rows) - 1, _MOST_ALIKE).round().astype(np.int64)) for one in points]
        known = np.unique(np.concatenate([one.rows for one in points]))
        each = self._pool.dimension * np.dtype(np.float32).itemsize
        fits = len(known) * each <= self._settings.memory_limit // 2
        vectors = self._picked(known) if fits else None
        measured = []
        for point, some in zip(points, chosen, strict=True):
            if len(point.rows) >= 2:
                own = self._picked(point.rows) if vectors is None else vectors[np.searchsorted(known, point.rows)]
                found = without_self(near(own[some], own, 2, self._devices), some, 1)
                point = replace(point, redundancy=float(found[:, 0].mean()))  # noqa: PLW2901
            measured.append(point)
        return measured

    def _picked(self, rows: Rows) -> Singles:
        """Vectors of some rows of the pool."""
        return np.ascontiguousarray(pick_vectors(self._pool, rows), np.float32)


def by_option(points: Sequence[Point]) -> Iterator[tuple[Option, list[Point]]]:
    """The points of each scoring without a threshold, by `topn`."""
    options = dict.fromkeys(point.setting.option for point in points)
    for option in options:
        own = [one for one in points if one.setting.option == option and one.setting.threshold == OFF]
        yield option, sorted(own, key=lambda one: one.setting.topn)
