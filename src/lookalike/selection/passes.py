"""The passes over the pool: what is learned of it, and the score of every image.

Blocks have one size and come in one order, however the pool is read, and neighbours are measured exactly: the same pool
has the same scores whatever its chunks are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.config.schemas import ScoringConfig
from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.held import Arithmetic, Held, There, held
from lookalike.neighbors.sides import Side
from lookalike.progress import progress
from lookalike.selection.arithmetic import HostArithmetic, project
from lookalike.selection.heldout import Option
from lookalike.selection.pairs import Images
from lookalike.selection.rules import Rules
from lookalike.selection.scoring import NEAR, lda_axis
from lookalike.selection.space import Mask, Moments, Singles, Whitening, blocks, blocks_there, directions

#: Images whose scores are looked at to bring them to one scale, at most.
_MEASURED = 1024


@dataclass(frozen=True)
class Background:
    """What `density_ratio` compares with, and what the choice is made on.

    Attributes
    ----------
    rows:
        Rows of the pool, ascending.
    vectors:
        Theirs.
    """

    rows: Rows
    vectors: Floats


def learn(pool: Side, excluded: Mask | None, allowed: int, background: int, seed: int) -> tuple[Moments, Background]:
    """Mean and covariance of the pool, and its background: all of it, or a random sample.

    Parameters
    ----------
    pool:
        Read once.
    excluded:
        Rows that are taken as if they were not there.
    allowed:
        How many rows are there without them.
    background:
        Rows of the background at most.
    seed:
        Of the sample.
    """
    wanted = np.arange(allowed)
    if allowed > background:
        wanted = np.sort(np.random.default_rng(seed).choice(allowed, background, replace=False))
    there = held(pool)
    if there is not None:
        return _learn_there(there, excluded, wanted)
    moments = Moments(pool.dimension)
    rows = np.empty(len(wanted), np.int64)
    vectors: Floats = np.empty((len(wanted), pool.dimension), pool.dtype)
    seen = 0
    with progress("reading the pool", allowed, "vectors") as advance:
        for block in blocks(pool, excluded):
            moments.see(block.vectors)
            begin, end = np.searchsorted(wanted, (seen, seen + len(block.rows)))
            picked = wanted[begin:end] - seen
            rows[begin:end], vectors[begin:end] = block.rows[picked], block.vectors[picked]
            seen += len(block.rows)
            advance(seen)
    return moments, Background(rows, vectors)


def _learn_there(pool: Held, excluded: Mask | None, wanted: Rows) -> tuple[Moments, Background]:
    """The same where the pool is held on a device; `wanted` are places among the rows that may be mined."""
    moments = Moments.of(pool.sums(excluded))
    rows = wanted if excluded is None else np.flatnonzero(~excluded)[wanted]
    return moments, Background(rows, pool.vectors(rows))


class Scorer:
    """Scores blocks of the pool by one option in the whitened space.

    Parameters
    ----------
    whitening:
        Of the pool.
    option:
        A scoring of `scoring.WHITENED` and its components.
    targets:
        Vectors of the targets; those of weight 0 count for nothing.
    weights:
        Of the targets.
    background:
        Of the pool.
    devices:
        Where to search.
    avoid, avoid_weight:
        Vectors of images that push others away, and how strongly.
    arithmetic:
        What computes, where it is not the processor: that of the blocks that are scored.
    """

    def __init__(
        self,
        whitening: Whitening,
        option: Option,
        targets: Floats,
        weights: Float64s,
        background: Background,
        devices: list[str],
        avoid: Floats | None = None,
        avoid_weight: float = ScoringConfig.avoid_weight,
        arithmetic: Arithmetic | None = None,
    ) -> None:
        self.whitening, self._scoring = whitening.leading(option.components), option.scoring
        self._arithmetic = compute = arithmetic or HostArithmetic(devices)
        counted = weights > 0
        self._weights = weights[counted] / weights[counted].mean()
        self._avoid_weight, self._rows = avoid_weight, background.rows
        goals = self._directions(targets[counted])
        others = None if avoid is None else self._directions(avoid)
        if self._scoring == "lda":
            self._axis = lda_axis(goals, self._weights, others, avoid_weight)
            return
        self._targets, self._avoid = compute.put(goals), None if others is None else compute.put(others)
        whole = compute.project(compute.put(background.vectors), self.whitening.mean, self.whitening.axes)
        self._background = compute.units(whole, self.whitening.components)

    def scores(self, rows: Rows, vectors: There) -> Float64s:
        """The scores of some pool rows, whose vectors lie where the arithmetic computes."""
        return self.scores_of(rows, self._arithmetic.project(vectors, self.whitening.mean, self.whitening.axes))

    def scores_of(self, rows: Rows, projected: There) -> Float64s:
        """The same from whitened coordinates, of which the first ones count."""
        compute = self._arithmetic
        images = compute.units(projected, self.whitening.components)
        if self._scoring == "lda":
            return compute.products(images, self._axis)
        like = compute.mean_cosines(images, self._targets, NEAR, weights=self._weights)
        place = np.searchsorted(self._rows, rows)
        there = self._rows[np.minimum(place, len(self._rows) - 1)] == rows
        own = np.where(there, place, -1)
        scores: Float64s = like - compute.mean_cosines(images, self._background, NEAR, own=own)
        if self._avoid is not None:
            scores -= self._avoid_weight * np.maximum(compute.mean_cosines(images, self._avoid, NEAR), 0)
        return scores

    def _directions(self, vectors: Floats) -> Singles:
        return directions(project(self.whitening, vectors), self.whitening.components)


class Blend:
    """Scores blocks of the pool by several options at once: the weighted mean of their scores.

    Each score is brought to a mean of 0 and a standard deviation of 1 over the background first, so that they can be
    added. One that is the same for all images adds nothing.

    Parameters
    ----------
    scorers:
        One an option, of one whitening.
    shares:
        Theirs, with a sum of 1.
    background:
        Of the pool. Of a large one, rows at equal steps are enough.
    arithmetic:
        As `Scorer` takes it.
    """

    def __init__(
        self, scorers: list[Scorer], shares: list[float], background: Background, arithmetic: Arithmetic
    ) -> None:
        self._arithmetic = arithmetic
        self._whitening = max((scorer.whitening for scorer in scorers), key=lambda one: one.components)
        step = -(-len(background.rows) // _MEASURED)
        rows, projected = background.rows[::step], self._project(arithmetic.put(background.vectors[::step]))
        self._scorers = []
        for scorer, share in zip(scorers, shares, strict=True):
            scores = scorer.scores_of(rows, projected)
            deviation = float(scores.std())
            factor = share / deviation if deviation > np.finfo(np.float32).eps else 0.0
            self._scorers.append((scorer, float(scores.mean()), factor))

    def scores(self, rows: Rows, vectors: There) -> Float64s:
        """See `Scorer.scores`."""
        scores, projected = np.zeros(len(rows)), self._project(vectors)
        for scorer, mean, factor in self._scorers:
            scores += (scorer.scores_of(rows, projected) - mean) * factor
        return scores

    def _project(self, vectors: There) -> There:
        """Whitened coordinates for all scorers: those with fewer components take the first ones."""
        return self._arithmetic.project(vectors, self._whitening.mean, self._whitening.axes)


def score_pool(
    pool: Side,
    excluded: Mask | None,
    targets: Floats,
    metric: str,
    devices: list[str],
    scorer: Scorer | Blend | None,
    rules: Rules | None = None,
) -> Images:
    """Score every image, and find its nearest target.

    Parameters
    ----------
    pool:
        Read once.
    excluded:
        Rows that may not be kept.
    targets:
        Vectors.
    metric:
        By which a target is near.
    devices:
        Where to search.
    scorer:
        None leaves the scores at 0.
    rules:
        What images must be like; their threshold is left to `Rules.with_threshold`.
    """
    rules = rules or Rules()
    scores = np.full(pool.rows, np.nan, np.float32)
    nearest = np.full(pool.rows, -1, np.int64)
    distances = np.full(pool.rows, np.inf, np.float32)
    allowed = np.ones(pool.rows, np.bool_) if excluded is None else ~excluded
    stopped, seen = np.zeros(pool.rows if rules.active else 0, np.int8), 0
    with progress("scoring", int(allowed.sum()), "vectors") as advance:
        for rows, vectors in blocks_there(pool, excluded):
            measured = rules.measure(rows, vectors, targets, metric, devices)
            nearest[rows], distances[rows] = measured.targets, measured.distances
            if rules.active:
                stopped[rows] = measured.stopped
            scores[rows] = 0.0 if scorer is None else scorer.scores(rows, vectors)
            seen += len(rows)
            advance(seen)
    return Images(scores, nearest, distances, allowed, stopped if rules.active else None)
