"""`select_scored`: from targets and a pool to the images that are kept, with the reason for every pair.

The pool is read three times, block by block, and may be larger than memory:

1. its mean and covariance, and the background: all of it, or a random sample;
2. the exact nearest neighbours of every target (`neighbors.search`);
3. the score of every image, and its nearest target.

Between 2 and 3 the scoring is chosen, on the background (`heldout`). With ``scoring=nearest`` only 2 and 3 are read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import ScoringConfig
from lookalike.errors import ConfigError, VectorError
from lookalike.neighbors.base import Float64s, Floats, Neighbors, Rows
from lookalike.neighbors.certificate import Certificate
from lookalike.neighbors.devices import choose_devices
from lookalike.neighbors.search import Search, search
from lookalike.neighbors.sides import Side, open_side
from lookalike.selection.coverage import Coverage, Limits, Outcomes, Pairs, cover
from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.selection.heldout import LEAST_TARGETS, HeldOut, Option, Sample, held_out
from lookalike.selection.passes import Background, Scorer, learn, project, score_pool
from lookalike.selection.scoring import WHITENED, checked_weights
from lookalike.selection.space import Mask, Moments, Singles, Whitening, blocks

#: Numbers of components that ``components=auto`` tries.
LADDER = (16, 32, 64, 128, 256)
#: What is used, with density_ratio, where too few targets are there to choose.
FALLBACK_COMPONENTS = 32
#: Pairs of `nearest` at most, where the budget asks for many neighbours a target.
_MOST_PAIRS = 5_000_000


@dataclass(frozen=True)
class Choice:
    """Which scoring was used, and why.

    Attributes
    ----------
    option:
        The scoring and its components.
    reason:
        One sentence for people.
    tried:
        Every candidate with its held-out figures, best first; empty where nothing was tried.
    """

    option: Option
    reason: str
    tried: tuple[HeldOut, ...] = ()


@dataclass(frozen=True)
class ScoredSelection:
    """What is kept, and what became of every pair.

    The pairs are those of every target with its neighbours, and of every other image that came to its turn with its
    nearest target; best score first, and those of an image together, its nearest target first. The kept ones in this
    order are the mined list.

    Attributes
    ----------
    targets, rows:
        Per pair, the rows of both sides (int64).
    ranks:
        Per pair, from 1; -1 where the image is farther than the neighbours that were looked for (int32).
    distances:
        Per pair, by `knn_metric`, in the space of the embeddings (float32).
    scores:
        Per pair, the score of its image (float32).
    outcomes:
        Per pair, an index into `filters.OUTCOMES` (int8).
    own:
        Per target, how many of its own candidates are kept, for whatever target: with 0 it is not served.
    kept_for:
        Per target, how many images are kept for it.
    pool_scores:
        Per row of the pool; NaN where it was excluded (float32).
    cutoff:
        The least score that was kept by the budget and not by a floor; NaN where nothing was.
    choice:
        Which scoring was used, and why.
    budget:
        The number of images that could be kept.
    background, exact_background:
        How many pool images `density_ratio` compares with, and whether these are all.
    seed:
        Of the halves and of the sample.
    certificate:
        How the neighbours were found and checked.
    seconds:
        Of every step, in the order of the steps.
    notes:
        What changes the meaning of the result; for the summary, the report and the record.
    """

    targets: Rows
    rows: Rows
    ranks: npt.NDArray[np.int32]
    distances: Singles
    scores: Singles
    outcomes: Outcomes
    own: Rows
    kept_for: Rows
    pool_scores: Singles
    cutoff: float
    choice: Choice
    budget: int
    background: int
    exact_background: bool
    seed: int
    certificate: Certificate
    seconds: dict[str, float]
    notes: tuple[str, ...]

    @property
    def kept(self) -> Mask:
        """Per pair, whether it is kept."""
        return np.asarray(self.outcomes == OUTCOMES.index(Outcome.KEPT))

    @property
    def kept_rows(self) -> Rows:
        """The pool rows that are kept, best score first."""
        kept: Rows = self.rows[self.kept]
        return kept

    @property
    def served(self) -> Mask:
        """Per target, whether at least one of its own candidates is kept."""
        return np.asarray(self.own > 0)

    def count(self, outcome: Outcome) -> int:
        """How many pairs had an outcome."""
        return int((self.outcomes == OUTCOMES.index(outcome)).sum())


def select_scored(
    targets: Any,
    pool: Any,
    settings: ScoringConfig,
    *,
    target_weights: npt.ArrayLike | None = None,
    target_labels: Any = None,
    excluded: Mask | None = None,
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
        One a target; only `max_per_label` asks for them.
    excluded:
        One value a row of the pool: those that are true are taken as if they were not in the pool.

    Raises
    ------
    ConfigError
        When a setting cannot be right.
    VectorError
        When a side has no rows, dimensions differ, or values are not finite or too large.
    SearchError
        When the search fails its own check.
    """
    settings.validate()
    sides = _side(targets, "targets"), _side(pool, "pool")
    weights = checked_weights(target_weights, sides[0].rows)
    labels = _label_numbers(settings, target_labels, sides[0].rows)
    return _Run(*sides, settings, weights, labels, _checked_mask(excluded, sides[1].rows)).result()


def _side(given: Any, name: str) -> Side:
    """What was given, if it gives chunks; else what it holds."""
    side: Side = given if callable(getattr(given, "chunks", None)) else open_side(given, name, "embedding")
    return side


def _label_numbers(settings: ScoringConfig, labels: Any, targets: int) -> Rows:
    """Numbers of the targets' labels, equal where they agree as text without case and outer blanks."""
    if labels is None:
        if settings.max_per_label:
            raise ConfigError("max_per_label needs labels, and the targets have none", hint="leave it out")
        return np.zeros(targets, np.int64)
    texts = [str(label).strip().upper() for label in labels]
    if len(texts) != targets:
        raise ConfigError(f"there are {targets} targets and {len(texts)} labels", hint="give one label a target")
    numbers: Rows = np.unique(texts, return_inverse=True)[1].astype(np.int64)
    return numbers


def _checked_mask(excluded: Mask | None, rows: int) -> Mask | None:
    if excluded is None:
        return None
    mask = np.asarray(excluded)
    if mask.shape != (rows,) or mask.dtype != np.bool_:
        raise ConfigError(
            f"excluded has shape {mask.shape} and type {mask.dtype}, and the pool has {rows} rows",
            hint="give true or false for every row of the pool",
        )
    return mask


class _Run:
    """One selection: its inputs, and the steps in their order."""

    def __init__(
        self, targets: Side, pool: Side, settings: ScoringConfig, weights: Float64s, labels: Rows, excluded: Mask | None
    ) -> None:
        self._targets, self._pool, self._settings = targets, pool, settings
        self._weights, self._labels, self._excluded = weights, labels, excluded
        self._allowed = pool.rows - (0 if excluded is None else int(excluded.sum()))
        self._notes: list[str] = []
        self._seconds: dict[str, float] = {}
        self._refuse()
        products = float(targets.rows) * pool.rows * pool.dimension
        self._devices = choose_devices(settings.device, products)
        self._vectors: Floats = np.concatenate([block.vectors for block in blocks(targets, None)])

    def _refuse(self) -> None:
        """Refuse sides that cannot be right."""
        if not self._targets.rows:
            raise VectorError("there are no targets", where=self._targets.name)
        if not self._allowed:
            raise VectorError("has no row that may be mined", where=self._pool.name, hint="check what is excluded")
        if self._targets.dimension != self._pool.dimension:
            raise VectorError(
                f"targets have {self._targets.dimension} dimensions, the pool has {self._pool.dimension}",
                hint="embed both sides with one encoder",
            )

    def result(self) -> ScoredSelection:
        """Run all steps."""
        settings = self._settings
        lists, certificate = self._neighbours(max(settings.candidates, settings.topn))
        budget = self._budget(lists)
        scorer, choice, background = None, Choice(Option("nearest", 0), "nearest, as asked"), 0
        if settings.scoring != "nearest":
            scorer, choice, background = self._choose(budget)
        if choice.option.scoring == "nearest":
            lists, certificate = self._widened(lists, certificate, budget)
        with self._timed("scoring"):
            images = score_pool(self._pool, self._excluded, self._vectors, settings.knn_metric, self._devices, scorer)
            if scorer is None:
                score_by_rank(images.scores, lists)
        limits = Limits(
            budget, settings.min_per_target, settings.max_per_target, settings.max_per_label, settings.candidates
        )
        with self._timed("keeping"):
            covered = cover(pairs_of(lists), images, self._labels, limits)
        self._note_coverage(covered, budget)
        return ScoredSelection(
            **vars(covered.pairs),
            scores=images.scores[covered.pairs.rows],
            outcomes=covered.outcomes,
            own=covered.own,
            kept_for=covered.kept_for,
            pool_scores=images.scores,
            cutoff=covered.cutoff,
            choice=choice,
            budget=budget,
            background=background,
            exact_background=background == self._allowed,
            seed=settings.seed,
            certificate=certificate,
            seconds=self._seconds,
            notes=tuple(self._notes),
        )

    def _neighbours(self, k: int) -> tuple[Neighbors, Certificate]:
        """The nearest pool images of every target."""
        settings = self._settings
        wanted = Search(
            min(k, self._allowed),
            settings.knn_metric,
            False,
            self._excluded,
            settings.device,
            settings.memory_limit,
            True,
        )
        with self._timed("searching"):
            searched = search(self._targets, self._pool, wanted)
        return searched.neighbors, searched.certificate

    def _widened(self, lists: Neighbors, certificate: Certificate, budget: int) -> tuple[Neighbors, Certificate]:
        """More neighbours a target, where those at hand have too few images for the budget."""
        targets, k = lists.rows.shape
        most = min(self._allowed, max(k, _MOST_PAIRS // targets))
        while k < most and len(np.unique(lists.rows)) < budget:
            k = min(2 * k, most)
            lists, certificate = self._neighbours(k)
        return lists, certificate

    def _budget(self, lists: Neighbors) -> int:
        """How many images may be kept."""
        asked = self._settings.budget
        if not asked:
            first = lists.rows[:, : self._settings.topn]
            return len(np.unique(first[first >= 0]))
        budget = max(1, round(asked * self._allowed)) if asked < 1 else int(asked)
        if budget > self._allowed:
            self._notes.append(f"budget={budget} is more than the pool has: clamped to {self._allowed}")
        return min(budget, self._allowed)

    def _choose(self, budget: int) -> tuple[Scorer | None, Choice, int]:
        """What scores the pool (None: `nearest`), why, and how large the background is."""
        settings = self._settings
        with self._timed("learning the pool"):
            moments, background = learn(self._pool, self._excluded, self._allowed, settings.background, settings.seed)
            most = max(LADDER) if settings.components == "auto" else int(settings.components)
            whitening = Whitening.of(moments, most)
        with self._timed("choosing"):
            choice = self._choice(moments, whitening, background, budget)
        if choice.option.scoring == "nearest":
            return None, choice, len(background.rows)
        if choice.option.scoring == "density_ratio" and len(background.rows) < self._allowed:
            self._notes.append(
                f"density_ratio compares with a random sample of {len(background.rows)} of {self._allowed} pool images "
                f"(seed {settings.seed})"
            )
        scorer = Scorer(whitening, choice.option, self._vectors, self._weights, background, self._devices)
        return scorer, choice, len(background.rows)

    def _choice(self, moments: Moments, whitening: Whitening, background: Background, budget: int) -> Choice:
        """One of the options that the settings leave open."""
        settings = self._settings
        options = self._options(whitening.components)
        if not options:
            self._notes.append("the pool's vectors do not differ: they cannot be whitened, and scoring=nearest is used")
            return Choice(Option("nearest", 0), "the pool's vectors do not differ")
        if len(options) == 1:
            return Choice(options[0], f"{options[0]}, as asked")
        counted = self._weights > 0
        if counted.sum() < LEAST_TARGETS:
            fallback = _fallback(options)
            reason = f"{counted.sum()} targets are too few to hide some of them ({LEAST_TARGETS} are needed)"
            self._notes.append(f"scoring was not chosen by held-out targets: {reason}; {fallback} is used")
            return Choice(fallback, reason)
        moments.see(self._vectors)
        both = Whitening.of(moments, whitening.components)
        sample = Sample(
            project(both, background.vectors), project(both, self._vectors[counted]),
            background.vectors, self._vectors[counted], self._weights[counted], np.arange(len(background.rows)),
        )  # fmt: skip
        tried = held_out(
            sample, options, metric=settings.knn_metric, share=budget / self._allowed, splits=settings.splits,
            seed=settings.seed, devices=self._devices,
        )  # fmt: skip
        ordered = tuple(sorted(tried, key=lambda one: one.log_rank))
        first, last = ordered[0], ordered[-1]
        reason = (
            f"of {len(tried)} options it found hidden targets best: typical rank {first.rank:.0f} among "
            f"{first.among} pool images (the worst option: {last.rank:.0f})"
        )
        return Choice(first.option, reason, ordered)

    def _options(self, there: int) -> list[Option]:
        """What the settings leave open, in the space's number of components; nothing where there are none."""
        settings = self._settings
        if not there:
            return []
        if settings.components == "auto":
            numbers = [number for number in LADDER if number <= there] or [there]
        else:
            numbers = [min(int(settings.components), there)]
            if numbers[0] < int(settings.components):
                self._notes.append(f"components={settings.components} is more than the pool has: {there} are used")
        scorings = WHITENED if settings.scoring == "auto" else (settings.scoring,)
        options = [Option(scoring, number) for scoring in scorings for number in numbers]
        return [Option("nearest", 0), *options] if settings.scoring == "auto" else options

    def _note_coverage(self, covered: Coverage, budget: int) -> None:
        """What was asked for and could not be had."""
        floor, kept = self._settings.min_per_target, int(covered.kept_for.sum())
        if floor and 2 * covered.by_floor > budget:
            self._notes.append(
                f"min_per_target={floor} decides {covered.by_floor} of {budget} images, whatever their scores: where "
                "precision matters more than that every target is served, raise the budget or set it to 0"
            )
        short = int((covered.own < floor).sum())
        if short:
            self._notes.append(
                f"{short} of {len(covered.own)} targets have fewer than min_per_target={floor} kept images among their "
                f"{self._settings.candidates} nearest"
            )
        if kept < budget:
            self._notes.append(f"{kept} images are kept of a budget of {budget}: the limits allow no more")

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._seconds[step] = self._seconds.get(step, 0.0) + time.perf_counter() - started


def _fallback(options: list[Option]) -> Option:
    """The option that is used where nothing can be tried: of density_ratio if it is open, near 32 components."""
    preferred = [option for option in options if option.scoring == "density_ratio"] or options
    return min(preferred, key=lambda option: abs(option.components - FALLBACK_COMPONENTS))


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
