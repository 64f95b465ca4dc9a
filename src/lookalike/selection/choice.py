"""How the scoring of a selection is settled: as asked, or by targets that are hidden in the pool (`heldout`).

What is left open is blended. Some ten options differ by less than a few dozen targets can tell, so that the best of
them is a matter of luck; their mean is nearly as good as the best, whoever that is. An option's share is in proportion
to one over its typical rank of hidden targets to a power: half the square root of the number of targets, because the
random part of that rank's logarithm falls with this root. `lda` looks at nothing but a mean, which is unsure for few
targets: it counts less where there are fewer than 60.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from lookalike.config.schemas import ScoringConfig
from lookalike.neighbors.base import Float64s, Floats
from lookalike.neighbors.sides import Side
from lookalike.selection.arithmetic import arithmetic_of, project
from lookalike.selection.heldout import LEAST_TARGETS, HeldOut, Option, Sample, held_out
from lookalike.selection.passes import Background, Blend, Scorer, learn
from lookalike.selection.result import Choice, Diary
from lookalike.selection.scoring import WHITENED
from lookalike.selection.space import Mask, Moments, Whitening

#: Numbers of components that ``components=auto`` tries.
LADDER = (16, 32, 64, 128, 256)
#: What is used, with density_ratio, where too few targets are there to choose.
FALLBACK_COMPONENTS = 32
#: The scoring of a choice that several options share.
BLEND = Option("blend", 0)
#: The power of the typical rank that shares are in proportion to, for one target; it grows with the root of their
#: number.
_POWER = 0.5
#: With fewer targets than this, `lda` counts less.
_SURE_MEAN = 60
#: So many options have a share, and less than this part of the best one's is none: the others change little and cost
#: as much time.
_MOST_SHARES = 5
_LEAST_PART = 0.1


class Chosen(NamedTuple):
    """What scores the pool.

    Attributes
    ----------
    scorer:
        None: `nearest`.
    choice:
        Which one it is, and why.
    background:
        How many pool images the choice and the score look at.
    """

    scorer: Scorer | Blend | None
    choice: Choice
    background: int


class Chooser:
    """Settles what scores a pool.

    Parameters
    ----------
    pool, excluded, allowed:
        The pool; which rows are taken as if they were not there; how many are left.
    targets, weights:
        Vectors of the targets and how much each counts.
    avoid:
        Vectors that push images away once the scoring is settled, or None.
    settings:
        What is left open.
    devices:
        Where to search.
    diary:
        Where notes and seconds go.
    """

    def __init__(
        self,
        pool: Side,
        excluded: Mask | None,
        allowed: int,
        targets: Floats,
        weights: Float64s,
        avoid: Floats | None,
        settings: ScoringConfig,
        devices: list[str],
        diary: Diary,
    ) -> None:
        self._pool, self._excluded, self._allowed = pool, excluded, allowed
        self._targets, self._weights, self._avoid = targets, weights, avoid
        self._settings, self._devices, self._diary = settings, devices, diary
        self._arithmetic = arithmetic_of(pool, devices)

    def choose(self, budget: int) -> Chosen:
        """Settle it for so many kept images; reads the pool once, unless `nearest` is asked for."""
        settings = self._settings
        if settings.scoring == "nearest":
            return Chosen(None, Choice(Option("nearest", 0), "nearest, as asked"), 0)
        with self._diary.timed("learning the pool"):
            moments, background = learn(self._pool, self._excluded, self._allowed, settings.background, settings.seed)
            most = max(LADDER) if settings.components == "auto" else int(settings.components)
            whitening = Whitening.of(moments, most)
        with self._diary.timed("choosing"):
            choice = self._choice(moments, whitening, background, budget)
        used = {choice.option: 1.0}
        if choice.option == BLEND:
            used = {one.option: one.share for one in choice.tried if one.share}
        if choice.option.scoring == "nearest":
            return Chosen(None, choice, len(background.rows))
        if len(background.rows) < self._allowed and any(option.scoring == "density_ratio" for option in used):
            self._diary.notes.append(
                f"density_ratio compares with a random sample of {len(background.rows)} of {self._allowed} pool images "
                f"(seed {settings.seed})"
            )
        with self._diary.timed("scoring"):
            scorers = [
                Scorer(
                    whitening, option, self._targets, self._weights, background, self._devices, self._avoid,
                    settings.avoid_weight, self._arithmetic,
                )
                for option in used
            ]  # fmt: skip
            scorer = scorers[0] if len(used) == 1 else Blend(scorers, [*used.values()], background, self._arithmetic)
        return Chosen(scorer, choice, len(background.rows))

    def _choice(self, moments: Moments, whitening: Whitening, background: Background, budget: int) -> Choice:
        """One of the options that the settings leave open."""
        settings, notes = self._settings, self._diary.notes
        options = self._options(whitening.components)
        if not options:
            notes.append("the pool's vectors do not differ: they cannot be whitened, and scoring=nearest is used")
            return Choice(Option("nearest", 0), "the pool's vectors do not differ")
        if len(options) == 1:
            return Choice(options[0], f"{options[0]}, as asked")
        counted = self._weights > 0
        if counted.sum() < LEAST_TARGETS:
            fallback = _fallback(options)
            reason = f"{counted.sum()} targets are too few to hide some of them ({LEAST_TARGETS} are needed)"
            notes.append(f"scoring was not chosen by held-out targets: {reason}; {fallback} is used")
            return Choice(fallback, reason)
        moments.see(self._targets)
        both = Whitening.of(moments, whitening.components)
        sample = Sample(
            project(both, background.vectors), project(both, self._targets[counted]),
            background.vectors, self._targets[counted], self._weights[counted], np.arange(len(background.rows)),
        )  # fmt: skip
        tried = held_out(
            sample, options, metric=settings.knn_metric, share=budget / self._allowed, splits=settings.splits,
            seed=settings.seed, arithmetic=self._arithmetic,
        )  # fmt: skip
        ordered = shared(tried, int(counted.sum()))
        used = [one.option for one in ordered if one.share]
        return Choice(BLEND if len(used) > 1 else used[0], reason_of(ordered), ordered)

    def _options(self, there: int) -> list[Option]:
        """What the settings leave open, in the space's number of components; nothing where there are none."""
        settings = self._settings
        if not there:
            return []
        if settings.components == "auto":
            numbers = auto_components(there)
        else:
            numbers = [min(int(settings.components), there)]
            if numbers[0] < int(settings.components):
                self._diary.notes.append(
                    f"components={settings.components} is more than the pool has: {there} are used"
                )
        scorings = WHITENED if settings.scoring == "auto" else (settings.scoring,)
        options = [Option(scoring, number) for scoring in scorings for number in numbers]
        return [Option("nearest", 0), *options] if settings.scoring == "auto" else options


def auto_components(there: int) -> list[int]:
    """The numbers of components that `components=auto` tries in a space that has so many."""
    return [number for number in LADDER if number <= there] or [there]


def shared(tried: Sequence[HeldOut], targets: int) -> tuple[HeldOut, ...]:
    """The same with their shares in the blend, best first.

    `nearest` orders images by ranks that cannot be added to scores. It is tried to compare, and used alone where
    nothing else comes near.

    Parameters
    ----------
    tried:
        Held-out figures of every option.
    targets:
        How many targets were hidden in turn.
    """
    ordered = sorted(tried, key=lambda one: one.log_rank)
    weights = {"density_ratio": 1.0, "lda": min(1.0, targets / _SURE_MEAN), "nearest": 0.0}
    power = _POWER * targets**0.5
    parts = np.exp([-power * (one.log_rank - ordered[0].log_rank) for one in ordered])
    parts *= [weights[one.option.scoring] for one in ordered]
    if parts.max() < _LEAST_PART:  # so much better is `nearest`, which comes first then
        parts[0] = 1.0
    parts[np.argsort(-parts, kind="stable")[_MOST_SHARES:]] = 0.0
    parts[parts < _LEAST_PART * parts.max()] = 0.0
    parts /= parts.sum()
    return tuple(replace(one, share=float(part)) for one, part in zip(ordered, parts, strict=True))


def reason_of(ordered: Sequence[HeldOut]) -> str:
    """The reason for what `shared` gives, for people."""
    used, worst = [one for one in ordered if one.share], ordered[-1]
    best = used[0]
    found = (
        f"typical rank of a hidden target {best.rank:.0f} among {best.among} pool images with {best.option}, "
        f"{worst.rank:.0f} with the worst option"
    )
    number = f"{len(ordered)} options"
    if best is not ordered[0]:  # only `nearest` can be better and have no share
        found += f" and {ordered[0].rank:.0f} with nearest, which cannot be blended"
        number += " but nearest"
    if len(used) > 1:
        return f"{len(used)} of {len(ordered)} options, by how well they found hidden targets: {found}"
    return f"no other of {number} found hidden targets nearly as well: {found}"


def _fallback(options: list[Option]) -> Option:
    """The option that is used where nothing can be tried: of density_ratio if it is open, near 32 components."""
    preferred = [option for option in options if option.scoring == "density_ratio"] or options
    return min(preferred, key=lambda option: abs(option.components - FALLBACK_COMPONENTS))
