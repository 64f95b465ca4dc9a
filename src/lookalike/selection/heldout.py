"""How well a scoring finds what it should, without labels: by targets that are hidden in the pool.

A random half of the targets is put into the pool and everything is scored with the other half. A good scoring finds the
hidden ones again: their ranks among the pool are small. The figure is the mean of log(rank), over several halves;
`choice` makes shares of it. Which images are defective is never asked.

Visible and hidden targets must differ in nothing but being hidden. So the space of this test is whitened on the pool
with all the targets: a pool of few images and many dimensions is whitened to fit itself, and targets from outside would
be alike for no other reason than being outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.held import Arithmetic, Hiding
from lookalike.neighbors.metrics import METRICS
from lookalike.neighbors.threads import in_parts
from lookalike.selection.scoring import NEAR
from lookalike.selection.space import Mask, Singles, directions

#: With fewer targets, a half says too little.
LEAST_TARGETS = 10
#: More targets than this do not make the choice surer; a random part of them is used.
_MOST_TARGETS = 500
#: Nor do more pool images among which the hidden ones take their ranks; a random part of them is ranked.
_MOST_RANKED = 10_000


class Option(NamedTuple):
    """A scoring and how many components it looks at (0 for `nearest`, which looks at the vectors)."""

    scoring: str
    components: int

    def __str__(self) -> str:
        return f"{self.scoring}, {self.components} components" if self.components else self.scoring


@dataclass(frozen=True)
class HeldOut:
    """How well an option finds hidden targets.

    Attributes
    ----------
    option:
        What was tried.
    log_rank:
        Mean natural logarithm of the hidden targets' ranks among the pool, over all halves: less is better. A target
        that stands before every pool image has rank 1.
    spread:
        Standard deviation of that mean from half to half.
    found:
        Share of the hidden targets that stand within the budget.
    among:
        How many pool images the ranks are among: all, or a random part.
    share:
        How much it counts in the blend that scores the pool, 0 to 1.
    """

    option: Option
    log_rank: float
    spread: float
    found: float
    among: int
    share: float = 0.0

    @property
    def rank(self) -> float:
        """The typical (geometric mean) rank of a hidden target."""
        return float(np.exp(self.log_rank))


class Sample(NamedTuple):
    """The pool, or a random sample of it, and the targets.

    Attributes
    ----------
    pool, targets:
        Whitened coordinates.
    pool_vectors, target_vectors:
        The vectors themselves.
    weights:
        Of the targets.
    ranked:
        Rows of the pool here among which hidden targets take their ranks.
    """

    pool: Singles
    targets: Singles
    pool_vectors: Floats
    target_vectors: Floats
    weights: Float64s
    ranked: Rows


class Half(NamedTuple):
    """One way to hide targets: rows of the hidden and of the visible ones."""

    hidden: Rows
    visible: Rows


def held_out(
    sample: Sample, options: list[Option], *, metric: str, share: float, splits: int, seed: int, arithmetic: Arithmetic
) -> tuple[HeldOut, ...]:
    """Try every option on the same random halves; in the order of the options.

    Parameters
    ----------
    sample:
        Where the targets are hidden.
    options:
        What to try.
    metric:
        Of `nearest`.
    share:
        Of the pool, that is kept: ranks within it count as found.
    splits, seed:
        How many halves, and what they are drawn with.
    arithmetic:
        What computes.
    """
    hidden = hide(sample, splits, seed)
    within = share * len(hidden.sample.ranked)
    return tuple(hidden.figures(option, hidden.ranks(option, metric, arithmetic), within) for option in options)


def hide(sample: Sample, splits: int, seed: int) -> Hidden:
    """Draw the halves; the parameters are those of `held_out`."""
    random = np.random.default_rng(seed)
    sample = _some(sample, random)
    halves = []
    for _ in range(splits):
        drawn = random.permutation(len(sample.targets))
        middle = len(drawn) // 2
        halves.append(Half(np.sort(drawn[:middle]), np.sort(drawn[middle:])))
    return Hidden(sample, tuple(halves))


@dataclass(frozen=True)
class Hidden:
    """Targets that are hidden, half by half.

    Attributes
    ----------
    sample:
        The pool and the targets, or a random part of them.
    halves:
        Who is hidden.
    """

    sample: Sample
    halves: tuple[Half, ...]

    def ranks(self, option: Option, metric: str, arithmetic: Arithmetic) -> list[Float64s]:
        """Per half, the ranks of its hidden targets by an option."""
        if option.scoring == "nearest":
            return _nearest(self.sample, list(self.halves), metric)
        return [_ranks(*one) for one in self._scores(option, arithmetic)]

    def blended_ranks(self, shares: Mapping[Option, float], arithmetic: Arithmetic) -> list[Float64s]:
        """Per half, the ranks of its hidden targets by the weighted mean of several options' scores.

        Each score is brought to a mean of 0 and a standard deviation of 1 over the pool first, as `passes.Blend` does.
        """
        sums = [[np.zeros(len(self.sample.ranked)), np.zeros(len(half.hidden))] for half in self.halves]
        for option, share in shares.items():
            for both, (pool, hidden) in zip(sums, self._scores(option, arithmetic), strict=True):
                deviation = float(pool.std())
                if deviation > np.finfo(np.float32).eps:
                    both[0] += share * (pool - pool.mean()) / deviation
                    both[1] += share * (hidden - pool.mean()) / deviation
        return [_ranks(pool, hidden) for pool, hidden in sums]

    def _scores(self, option: Option, arithmetic: Arithmetic) -> list[_Scores]:
        """Per half, the scores of the pool and of its hidden targets by an option."""
        halves = list(self.halves)
        if option.scoring == "lda":
            return _lda(self.sample, option.components, halves)
        return _density_ratio(self.sample, option.components, halves, arithmetic)

    def figures(self, option: Option, ranks: list[Float64s], within: float) -> HeldOut:
        """What the ranks of an option say, where ranks up to `within` count as found."""
        logs = self.means([np.log(own) for own in ranks])
        return HeldOut(
            option, float(np.mean(logs)), float(np.std(logs)), self.share([own <= within for own in ranks]),
            len(self.sample.ranked),
        )  # fmt: skip

    def share(self, found: list[Mask]) -> float:
        """The share of the hidden targets, by their weights, for which something is true; the mean over all halves."""
        return float(np.mean(self.means(found)))

    def means(self, values: Sequence[Float64s | Mask]) -> list[float]:
        """Per half, the weighted mean of one value a hidden target."""
        means = []
        for half, own in zip(self.halves, values, strict=True):
            weights = self.sample.weights[half.hidden]
            means.append(float(np.average(own, weights=weights if weights.any() else np.ones(len(weights)))))
        return means

    def distances(self, metric: str) -> list[Float64s]:
        """Per half, how far each hidden target is from the nearest visible one."""
        vectors = self.sample.target_vectors.astype(np.float64)
        one = METRICS[metric]
        each = np.array([one.distances(np.broadcast_to(row, vectors.shape), vectors) for row in vectors])
        return [each[np.ix_(hidden, visible)].min(axis=1) for hidden, visible in self.halves]


def _some(sample: Sample, random: np.random.Generator) -> Sample:
    """A random part of the targets and of the ranks' pool, where there are very many."""
    if len(sample.ranked) > _MOST_RANKED:
        sample = sample._replace(ranked=np.sort(random.choice(sample.ranked, _MOST_RANKED, replace=False)))
    if len(sample.targets) <= _MOST_TARGETS:
        return sample
    some = np.sort(random.choice(len(sample.targets), _MOST_TARGETS, replace=False))
    return sample._replace(
        targets=sample.targets[some], target_vectors=sample.target_vectors[some], weights=sample.weights[some]
    )


class _Scores(NamedTuple):
    """The scores of the pool's images, and those of the hidden targets."""

    pool: Float64s
    hidden: Float64s


def _lda(sample: Sample, components: int, halves: list[Half]) -> list[_Scores]:
    pool = directions(sample.pool[sample.ranked], components)
    targets = directions(sample.targets, components)
    # A cosine to a mean orders as the product with it does.
    means = np.array([sample.weights[visible] @ targets[visible] for _, visible in halves])
    scores, own = pool.astype(np.float64) @ means.T, targets.astype(np.float64) @ means.T
    return [_Scores(scores[:, number], own[hidden, number]) for number, (hidden, _) in enumerate(halves)]


def _density_ratio(sample: Sample, components: int, halves: list[Half], arithmetic: Arithmetic) -> list[_Scores]:
    pool, targets, ranked = (
        arithmetic.units(arithmetic.put(vectors), components)
        for vectors in (sample.pool, sample.targets, sample.pool[sample.ranked])
    )
    visible = np.zeros((len(halves), len(targets)), np.bool_)
    for number, half in enumerate(halves):
        visible[number, half.visible] = True
    hiding, everyone = Hiding(visible, sample.weights), np.arange(len(targets))
    like, unlike = arithmetic.half_means(ranked, pool, targets, hiding, NEAR, own=sample.ranked)
    own_like, own_unlike = arithmetic.half_means(targets, pool, targets, hiding, NEAR, own_target=everyone)
    scores, own = like - unlike, own_like - own_unlike
    return [_Scores(scores[number], own[number, hidden]) for number, (hidden, _) in enumerate(halves)]


def _nearest(sample: Sample, halves: list[Half], metric: str) -> list[Float64s]:
    """By the best rank among the neighbours of any visible target."""
    one = METRICS[metric]
    targets = one.prepare_targets(sample.target_vectors, wide=True).vectors
    scores = []
    for vectors in (sample.pool_vectors[sample.ranked], sample.target_vectors):
        sources = one.prepare(vectors, wide=True)
        score = np.empty((len(targets), len(vectors)))
        one.product(targets, sources.vectors, score)
        score *= 1.0 if sources.scale is None else sources.scale
        score += 0.0 if sources.offset is None else sources.offset
        scores.append(score)
    pool, others = scores
    pool_ranks = np.empty(pool.shape, np.int32)  # how many pool images are nearer to the target
    other_ranks = np.empty(others.shape, np.int32)

    def rank(part: slice) -> None:
        for number in range(*part.indices(len(targets))):
            order = np.argsort(-pool[number], kind="stable")
            pool_ranks[number, order] = np.arange(len(order))
            other_ranks[number] = np.searchsorted(-pool[number, order], -others[number])

    in_parts(rank, len(targets))
    ranks = []
    for hidden, visible in halves:
        best_of_pool = pool_ranks[visible].min(axis=0)
        ranks.append(_ranks(-best_of_pool, -other_ranks[np.ix_(visible, hidden)].min(axis=0)))
    return ranks


def _ranks(pool: Float64s, hidden: Float64s) -> Float64s:
    """Per hidden target, 1 + how many pool images have a better score; of equal ones the half."""
    ordered = np.sort(pool)
    better = len(ordered) - np.searchsorted(ordered, hidden, side="right")
    as_good = len(ordered) - np.searchsorted(ordered, hidden, side="left")
    ranks: Float64s = 1.0 + (better + as_good) / 2
    return ranks
