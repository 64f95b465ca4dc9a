"""`select_scored`: from targets and a pool to the images that are kept, with the reason for every pair.

The pool is read three times, block by block, and may be larger than memory:

1. the exact nearest neighbours of every target (`neighbors.search`);
2. its mean and covariance, and the background: all of it, or a random sample;
3. the score of every image, and its nearest target.

Between 2 and 3 the scoring is chosen, on the background (`choice`). With ``scoring=nearest`` only 1 and 3 are read.
Where a GPU searches and has room, the first reading leaves the pool there, and there is no other (`neighbors.held`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import ScoringConfig
from lookalike.neighbors.base import Floats, Neighbors
from lookalike.neighbors.certificate import Certificate
from lookalike.neighbors.devices import choose_devices
from lookalike.neighbors.held import hold
from lookalike.neighbors.search import Search, search
from lookalike.neighbors.sides import LabelledSide, Side
from lookalike.selection.choice import FALLBACK_COMPONENTS, LADDER, Chooser, Chosen
from lookalike.selection.coverage import Coverage
from lookalike.selection.given import Given, check_given, vectors_of
from lookalike.selection.heldout import HeldOut, Option
from lookalike.selection.keeping import Keeper
from lookalike.selection.pairs import Images, Limits, Pairs
from lookalike.selection.passes import score_pool
from lookalike.selection.result import Choice, Diary, ScoredSelection
from lookalike.selection.rules import Rules
from lookalike.selection.space import Mask, Singles

__all__ = [
    "FALLBACK_COMPONENTS",
    "LADDER",
    "Choice",
    "HeldOut",
    "Option",
    "ScoredSelection",
    "pairs_of",
    "score_by_rank",
    "select_scored",
]

#: Pairs of `nearest` at most, where the budget asks for many neighbours a target.
_MOST_PAIRS = 5_000_000


def select_scored(
    targets: Any,
    pool: Any,
    settings: ScoringConfig,
    *,
    target_weights: npt.ArrayLike | None = None,
    target_labels: Any = None,
    excluded: Mask | None = None,
    pool_labels: Any = None,
    keys: npt.ArrayLike | None = None,
    avoid: Any = None,
) -> ScoredSelection:
    """Score the pool, and keep the best within the limits.

    Parameters
    ----------
    targets, pool:
        rows x dimension each: an array, an `EmbeddingTable`, an `EmbeddingStream`, or anything that gives chunks as
        `neighbors.sides.Side` says. The targets are held in memory.
    settings:
        What to keep.
    target_weights:
        One number from 0 a target: how much it counts. A column like `weakness`.
    target_labels:
        One a target; only `max_per_label` and `filter_by_label` ask for them.
    excluded:
        One value a row of the pool: those that are true are taken as if they were not in the pool.
    pool_labels:
        One a row of the pool; only `filter_by_label` asks for them. Whole numbers on both sides are compared as they
        are, anything else as text without case and outer blanks.
    keys:
        One whole number a row of the pool, equal where the paths are equal: one row of each is kept at most.
    avoid:
        Images to stay away from, as the targets are given. `scoring` says how they push others away: `density_ratio`
        and `lda` by the score (`scoring.py`), `nearest` drops what is nearer to one of them than to any target.

    Raises
    ------
    ConfigError
        When a setting or an argument cannot be right.
    VectorError
        When a side has no rows, dimensions differ, or values are not finite or too large.
    SearchError
        When the search fails its own check.
    """
    settings.validate()
    given = check_given(targets, pool, settings, target_weights, target_labels, excluded, pool_labels, keys, avoid)
    return Selecting(given, settings).result()


class Selecting:
    """One selection: its inputs, and the steps in their order.

    Parameters
    ----------
    given:
        The inputs.
    settings:
        What to keep.
    """

    def __init__(self, given: Given, settings: ScoringConfig) -> None:
        self._settings, self._diary = settings, Diary()
        products = float(given.targets.rows) * given.pool.rows * given.pool.dimension
        with self._diary.timed("starting"):
            self._devices = choose_devices(settings.device, products)
            self._given = given = replace(given, pool=hold(given.pool, self._devices))
        self._vectors: Floats = vectors_of(given.targets)
        self._rules = Rules(
            settings.distance_threshold,
            settings.min_similarity,
            None if given.pool_labels is None else given.labels,
            given.pool_labels,
        )

    @property
    def _ruled(self) -> bool:
        """Whether anything but scores, limits and the budget decides."""
        given = self._given
        return (
            self._rules.active
            or self._settings.dedup_threshold >= 0
            or given.keys is not None
            or given.avoid is not None
        )

    def result(self) -> ScoredSelection:
        """Run all steps."""
        given, settings, diary = self._given, self._settings, self._diary
        lists, certificate = self.neighbours(max(settings.candidates, settings.topn))
        budget = self.budget(lists, settings)
        chosen = self.choose(budget)
        plain = chosen.scorer is None
        rules = self.rules(chosen)
        images = rules.with_threshold(self.score(chosen), pairs_of(lists))
        limits = limits_of(settings, budget)
        keeper = Keeper(given.pool, given.keys, given.labels, settings, diary)
        while True:
            if plain:
                lists, certificate = self._widened(lists, certificate, images, budget + keeper.collapsed)
                score_by_rank(images.scores, lists)
            pairs = pairs_of(lists)
            collapsed = keeper.collapsed
            with diary.timed("keeping"):
                covered = keeper.keep(pairs, images, limits, rules.of_pairs(pairs))
            if not plain or keeper.collapsed == collapsed:
                break
        self._note_coverage(covered, budget)
        return ScoredSelection(
            **vars(covered.pairs),
            scores=images.scores[covered.pairs.rows],
            outcomes=covered.outcomes,
            own=covered.own,
            kept_for=covered.kept_for,
            pool_scores=images.scores,
            pool_outcomes=covered.pool_outcomes,
            pool_targets=images.targets,
            pool_distances=images.distances,
            pool_instead=covered.instead,
            pool_groups=np.full(given.pool.rows, -1, np.int64) if keeper.groups is None else keeper.groups,
            cutoff=covered.cutoff,
            choice=chosen.choice,
            budget=budget,
            background=chosen.background,
            exact_background=chosen.background == given.allowed,
            seed=settings.seed,
            certificate=certificate,
            seconds=diary.seconds,
            notes=tuple(diary.notes),
        )

    @property
    def notes(self) -> list[str]:
        """What changes the meaning of the result, so far."""
        return self._diary.notes

    def choose(self, budget: int) -> Chosen:
        """Settle the scoring for so many kept images."""
        given = self._given
        return Chooser(
            given.pool, given.excluded, given.allowed, self._vectors, given.weights, given.avoid, self._settings,
            self._devices, self._diary,
        ).choose(budget)  # fmt: skip

    def rules(self, chosen: Chosen) -> Rules:
        """What pairs and images must be like."""
        # By rank nothing can be pushed away: what is nearer to what is to be avoided is left out.
        return replace(self._rules, avoid=self._given.avoid) if chosen.scorer is None else self._rules

    def score(self, chosen: Chosen) -> Images:
        """The score of every image, and the rules that it breaks but for the threshold."""
        given = self._given
        with self._diary.timed("scoring"):
            return score_pool(
                given.pool, given.excluded, self._vectors, self._settings.knn_metric, self._devices, chosen.scorer,
                self.rules(chosen),
            )  # fmt: skip

    def neighbours(self, k: int) -> tuple[Neighbors, Certificate]:
        """The nearest pool images of every target, of its label where labels must agree."""
        settings, given = self._settings, self._given
        targets: Side = given.targets
        pool: Side = given.pool
        if given.pool_labels is not None:
            targets, pool = LabelledSide(targets, given.labels), LabelledSide(pool, given.pool_labels)
        wanted = Search(
            min(k, given.allowed),
            settings.knn_metric,
            given.pool_labels is not None,
            given.excluded,
            settings.device,
            settings.memory_limit,
            True,
        )
        with self._diary.timed("searching"):
            searched = search(targets, pool, wanted)
        return searched.neighbors, searched.certificate

    def _widened(
        self, lists: Neighbors, certificate: Certificate, images: Images, budget: int
    ) -> tuple[Neighbors, Certificate]:
        """More neighbours a target, where those at hand have too few images for the budget."""
        targets, k = lists.rows.shape
        most = min(self._given.allowed, max(k, _MOST_PAIRS // targets))
        while k < most and self._usable(lists, images) < budget:
            k = min(2 * k, most)
            lists, certificate = self.neighbours(k)
        return lists, certificate

    def _usable(self, lists: Neighbors, images: Images) -> int:
        """How many images of the lists break no rule."""
        rows = np.unique(lists.rows)
        rows = rows[rows >= 0]
        return self._given.images(rows[images.possible[rows]])

    def budget(self, lists: Neighbors, settings: ScoringConfig) -> int:
        """How many images may be kept."""
        asked, allowed = settings.budget, self._given.allowed
        if not asked:
            first = lists.rows[:, : settings.topn]
            return self._given.images(first[first >= 0])
        budget = max(1, round(asked * allowed)) if asked < 1 else int(asked)
        if budget > allowed:
            self._diary.notes.append(f"budget={budget} is more than the pool has: clamped to {allowed}")
        return min(budget, allowed)

    def _note_coverage(self, covered: Coverage, budget: int) -> None:
        """What was asked for and could not be had."""
        floor, kept, notes = self._settings.min_per_target, int(covered.kept_for.sum()), self._diary.notes
        if floor and 2 * covered.by_floor > budget:
            notes.append(
                f"min_per_target={floor} decides {covered.by_floor} of {budget} images, whatever their scores: where "
                "precision matters more than that every target is served, raise the budget or set it to 0"
            )
        short = int((covered.own < floor).sum())
        if short:
            notes.append(
                f"{short} of {len(covered.own)} targets have fewer than min_per_target={floor} kept images among their "
                f"{self._settings.candidates} nearest"
            )
        if not budget:
            notes.append("no target has a neighbour in the pool that may be kept: nothing is kept")
        if kept < budget:
            also = " and the rules for near-duplicates, labels, distances and paths" if self._ruled else ""
            notes.append(f"{kept} images are kept of a budget of {budget}: the limits{also} allow no more")


def limits_of(settings: ScoringConfig, budget: int) -> Limits:
    """How many images may be kept, in all and for whom."""
    return Limits(budget, settings.min_per_target, settings.max_per_target, settings.max_per_label, settings.candidates)


def pairs_of(lists: Neighbors) -> Pairs:
    """The neighbours of every target as pairs."""
    targets, places = np.nonzero(lists.rows >= 0)
    return Pairs(targets, lists.rows[targets, places], (places + 1).astype(np.int32), lists.distances[targets, places])


def score_by_rank(scores: Singles, lists: Neighbors) -> None:
    """1 / rank among the neighbours of the target for which that is best; 0 for images beyond all of them."""
    for place in range(lists.rows.shape[1]):
        rows = lists.rows[:, place]
        rows = rows[rows >= 0]
        scores[rows] = np.maximum(scores[rows], np.float32(1 / (place + 1)))
