"""`ladder`: how many images each rung of some settings would keep, from one search and one scoring of the pool.

Every rung is decided as `select_scored` decides it, with all rules. What differs from rung to rung is how many
neighbours set the budget, the budget itself, and the threshold: the search, the scoring and the scores are the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from lookalike.config.schemas import ScoringConfig
from lookalike.neighbors.base import Neighbors, Rows
from lookalike.neighbors.sides import pick_vectors
from lookalike.progress import progress
from lookalike.selection.choice import Chosen
from lookalike.selection.coverage import Same
from lookalike.selection.filters import select_pairs
from lookalike.selection.given import Given, vectors_of
from lookalike.selection.keeping import Keeper
from lookalike.selection.pairs import Images
from lookalike.selection.result import Choice, Diary
from lookalike.selection.rules import Rules
from lookalike.selection.scored import Selecting, limits_of, pairs_of, score_by_rank
from lookalike.selection.space import Mask


class Rung(NamedTuple):
    """Settings that are tried.

    Attributes
    ----------
    scored:
        Whether images are selected by score; else the topn nearest of every target are kept, each once.
    topn:
        Neighbours a target.
    budget:
        As `ScoringConfig.budget`; 0: set by `topn`.
    threshold:
        As `distance_threshold`; negative: off.
    """

    scored: bool
    topn: int
    budget: float
    threshold: float


class Yield(NamedTuple):
    """What a rung gives.

    Attributes
    ----------
    rung:
        The settings.
    budget:
        How many images might be kept.
    images:
        How many are, each once.
    served:
        Targets with a kept image among their own candidates.
    """

    rung: Rung
    budget: int
    images: int
    served: int


@dataclass(frozen=True)
class Ladder:
    """The yields of all rungs.

    Attributes
    ----------
    yields:
        In the order of the rungs.
    choice:
        The scoring of the scored ones; None where there are none.
    notes:
        What changes the meaning of the figures.
    """

    yields: tuple[Yield, ...]
    choice: Choice | None
    notes: tuple[str, ...]


def quantile_thresholds(lists: Neighbors, topn: int, shares: tuple[float, ...]) -> list[float]:
    """Thresholds within which such shares of the pairs of the topn nearest are, to four digits."""
    distances = lists.distances[:, :topn]
    found = distances[np.isfinite(distances)]
    return [float(f"{np.quantile(found, share):.4g}") for share in shares] if len(found) else []


def ladder(
    given: Given,
    settings: ScoringConfig,
    rungs: list[Rung],
    *,
    shares: tuple[float, ...] = (),
    same_label: bool = False,
) -> Ladder:
    """Count what each rung keeps.

    Parameters
    ----------
    given:
        The inputs, as `check_given` gives them. Labels of the pool act inside the search.
    settings:
        Everything that a rung leaves open.
    rungs:
        What to try.
    shares:
        For the first rung, also with thresholds within which such shares of its pairs are.
    same_label:
        For rungs that are not scored: drop pairs whose labels differ, after the search.
    """
    return _Climb(given, settings, same_label).result(rungs, shares)


class _Climb:
    """One ladder."""

    def __init__(self, given: Given, settings: ScoringConfig, same_label: bool) -> None:
        self._given, self._settings, self._same_label = given, settings, same_label
        self._selecting = Selecting(given if not same_label else replace(given, pool_labels=None), settings)
        self._same = Same(given.keys)

    def result(self, rungs: list[Rung], shares: tuple[float, ...]) -> Ladder:
        """Search, score, and try every rung."""
        settings, selecting = self._settings, self._selecting
        most = min(max(settings.candidates, *(rung.topn for rung in rungs)), self._given.allowed)
        lists, _ = selecting.neighbours(most)
        first = rungs[0]
        rungs = rungs + [
            first._replace(threshold=value)
            for value in quantile_thresholds(lists, first.topn, shares)
            if value != first.threshold
        ]
        chosen = selecting.choose(selecting.budget(lists, settings)) if any(rung.scored for rung in rungs) else None
        images = None if chosen is None else selecting.score(chosen)
        yields = []
        with progress("trying", len(rungs), "settings") as advance:
            for done, rung in enumerate(rungs, 1):
                if rung.scored:
                    assert chosen is not None
                    assert images is not None
                    yields.append(self._scored(rung, lists, chosen, images))
                else:
                    yields.append(self._nearest(rung, lists))
                advance(done)
        notes = tuple(dict.fromkeys(selecting.notes))  # rungs that meet the same limit say so once
        return Ladder(tuple(yields), None if chosen is None else chosen.choice, notes)

    def _scored(self, rung: Rung, lists: Neighbors, chosen: Chosen, images: Images) -> Yield:
        """As `select_scored` does it."""
        settings = replace(self._settings, topn=rung.topn, budget=rung.budget, distance_threshold=rung.threshold)
        depth = max(settings.candidates, settings.topn)
        lists = Neighbors(lists.distances[:, :depth], lists.rows[:, :depth])
        pairs = pairs_of(lists)
        rules = replace(self._selecting.rules(chosen), distance_threshold=rung.threshold)
        images = rules.with_threshold(replace(images, scores=images.scores.copy()), pairs)
        if chosen.scorer is None:
            score_by_rank(images.scores, lists)
        budget = self._selecting.budget(lists, settings)
        keeper = Keeper(self._given.pool, self._given.keys, self._given.labels, settings, Diary())
        covered = keeper.keep(pairs, images, limits_of(settings, budget), rules.of_pairs(pairs))
        return Yield(rung, budget, int(covered.kept_for.sum()), int((covered.own > 0).sum()))

    def _nearest(self, rung: Rung, lists: Neighbors) -> Yield:
        """As the drop-in contract has it."""
        given = self._given
        pairs = pairs_of(Neighbors(lists.distances[:, : rung.topn], lists.rows[:, : rung.topn]))
        same: Mask | None = None
        if self._same_label and given.pool_labels is not None:
            same = np.asarray(given.labels[pairs.targets] == given.pool_labels[pairs.rows])
        found = select_pairs(
            self._same.of(pairs.rows), pairs.distances, same_label=same, distance_threshold=rung.threshold
        )
        kept = self._like_targets(pairs.rows[found.kept])
        candidates = lists.rows[:, : self._settings.candidates]
        own = np.isin(self._same.of(np.maximum(candidates, 0)), self._same.of(kept)) & (candidates >= 0)
        return Yield(rung, len(pairs.rows), len(kept), int(own.any(axis=1).sum()))

    def _like_targets(self, rows: Rows) -> Rows:
        """Those of some rows of the pool that are as like a target as `min_similarity` asks."""
        settings, pool = self._settings, self._given.pool
        if settings.min_similarity <= -1 or not len(rows):
            return rows
        rules = Rules(min_similarity=settings.min_similarity)
        vectors = pick_vectors(pool, rows)
        measured = rules.measure(rows, vectors, vectors_of(self._given.targets), settings.knn_metric, ["cpu"])
        alike: Rows = rows[measured.stopped == 0]
        return alike
