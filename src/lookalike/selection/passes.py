"""The passes over the pool: what is learned of it, and the score of every image.

Blocks have one size and come in one order, however the pool is read, and neighbours are measured exactly: the same pool
has the same scores whatever its chunks are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.sides import Side
from lookalike.progress import progress
from lookalike.selection.heldout import Option
from lookalike.selection.pairs import Images
from lookalike.selection.rules import Rules
from lookalike.selection.scoring import NEAR, lda, likeness, mean_of, near, without_self
from lookalike.selection.space import BLOCK, Mask, Moments, Singles, Whitening, blocks, directions


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


def project(whitening: Whitening, vectors: Floats) -> Singles:
    """`Whitening.project` block by block, so that little is held in float64."""
    projected = np.empty((len(vectors), whitening.components), np.float32)
    for first in range(0, len(vectors), BLOCK):
        projected[first : first + BLOCK] = whitening.project(vectors[first : first + BLOCK])
    return projected


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
        avoid_weight: float = 1.0,
    ) -> None:
        self._whitening, self._scoring, self._devices = whitening.leading(option.components), option.scoring, devices
        counted = weights > 0
        self._targets = self._directions(targets[counted])
        self._weights = weights[counted] / weights[counted].mean()
        self._avoid = None if avoid is None else self._directions(avoid)
        self._avoid_weight = avoid_weight
        self._rows = background.rows
        if self._scoring == "density_ratio":
            self._background = self._directions(background.vectors)

    def scores(self, rows: Rows, vectors: Floats) -> Float64s:
        """The scores of some pool rows."""
        images = self._directions(vectors)
        if self._scoring == "lda":
            return lda(images, self._targets, self._weights, self._avoid, self._avoid_weight)
        like = likeness(near(images, self._targets, NEAR, self._devices), self._weights)
        place = np.searchsorted(self._rows, rows)
        there = self._rows[np.minimum(place, len(self._rows) - 1)] == rows
        own = np.where(there, place, -1)
        among = near(images, self._background, NEAR + 1, self._devices)
        scores: Float64s = like - mean_of(without_self(among, own, NEAR))
        if self._avoid is not None:
            scores -= self._avoid_weight * np.maximum(
                mean_of(near(images, self._avoid, NEAR, self._devices).cosines), 0
            )
        return scores

    def _directions(self, vectors: Floats) -> Singles:
        return directions(project(self._whitening, vectors), self._whitening.components)


def score_pool(
    pool: Side,
    excluded: Mask | None,
    targets: Floats,
    metric: str,
    devices: list[str],
    scorer: Scorer | None,
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
        for rows, vectors in blocks(pool, excluded):
            measured = rules.measure(rows, vectors, targets, metric, devices)
            nearest[rows], distances[rows] = measured.targets, measured.distances
            if rules.active:
                stopped[rows] = measured.stopped
            scores[rows] = 0.0 if scorer is None else scorer.scores(rows, vectors)
            seen += len(rows)
            advance(seen)
    return Images(scores, nearest, distances, allowed, stopped if rules.active else None)
