"""What `tune` recommends, and why: the scoring by hidden targets, `topn` by the knee of what more images bring.

Three curves over the number of kept images say what more of them bring: hidden targets found, targets served, and,
where there are labels, right images. The knee of their mean is where to stop. Precision has its say in the third curve:
where further images are wrong ones, it flattens.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import ScoringConfig, TuneConfig
from lookalike.selection.choice import BLEND, FALLBACK_COMPONENTS
from lookalike.selection.heldout import HeldOut, Option
from lookalike.selection.knee import Knee, shared_knee
from lookalike.selection.sweep import OFF, Point, Swept, by_option

#: Held-out recall that a threshold may cost.
_FREE = 0.01
#: The curves that have a say in the knee, and how the reason names them.
RECALL, SERVED, RIGHT = "held-out recall", "coverage", "right images"


@dataclass(frozen=True)
class Tried:
    """One encoder: what was tried with it.

    Attributes
    ----------
    name:
        Of the encoder.
    swept:
        All settings.
    labels:
        Of targets and pool, as they are compared; None where a side has none.
    rows:
        Of the pool.
    """

    name: str
    swept: Swept
    labels: tuple[npt.NDArray[np.object_], npt.NDArray[np.object_]] | None
    rows: int

    def right(self, point: Point) -> npt.NDArray[np.bool_] | None:
        """Per kept image, whether it has the label of its target; None without labels."""
        if self.labels is None:
            return None
        return np.asarray(self.labels[0][point.targets] == self.labels[1][point.rows], np.bool_)

    def knee(self, points: Sequence[Point]) -> Knee:
        """The knee of one scoring's points without a threshold."""
        curves = {RECALL: [point.recall for point in points], SERVED: [point.served for point in points]}
        if self.labels is not None:
            right = [self._count_right(point) for point in points]
            curves[RIGHT] = [count / max(1, *right) for count in right]
        return shared_knee([len(point.rows) for point in points], curves)

    def _count_right(self, point: Point) -> int:
        right = self.right(point)
        return 0 if right is None else int(right.sum())


class Chosen(NamedTuple):
    """The point that is recommended, where it stands in the table, and where that without its threshold does."""

    encoder: str
    point: Point
    row: int
    on_curve: int
    reasons: tuple[str, ...]


def recommend(encoders: Sequence[Tried]) -> Chosen:
    """The scoring by hidden targets, `topn` by the knee, a threshold only where it costs nothing."""
    best, option, why = _best_option(encoders)
    points = dict(by_option(best.swept.points))[option]
    found = best.knee(points)
    if found.place is None:
        point = min(points, key=lambda one: abs(one.setting.topn - ScoringConfig.topn))
        how = f"topn={point.setting.topn}, near the default: {_no_knee(points)}"
    else:
        point = points[found.place]
        how = f"topn={point.setting.topn}: {_knee_words(points, found)}"
    reasons = [why, how]
    reasons += _what_it_gives(best, points, point)
    final, words = _with_threshold(best.swept.points, point)
    every = [one for encoder in encoders for one in encoder.swept.points]
    row, on_curve = (next(number for number, one in enumerate(every) if one is wanted) for wanted in (final, point))
    return Chosen(best.name, final, row, on_curve, (*reasons, words))


def settings_of(chosen: Chosen, config: TuneConfig) -> tuple[str, ...]:
    """The recommendation as words of `lookalike mine`."""
    option, topn, threshold = chosen.point.setting
    words = [f"scoring={scoring_of(option)}"]
    words += [f"components={option.components}"] if option.components else []
    words += [f"topn={topn}", f"knn_metric={config.knn_metric}"]
    words += [f"distance_threshold={threshold:g}"] if threshold != OFF else []
    for key in ("target_vectors", "pool_vectors"):
        words += [f"{key}={getattr(config, key)}"] if getattr(config, key) != getattr(TuneConfig, key) else []
    if config.target_weight_column and option.scoring != "nearest":  # there nothing is weighted
        words.append(f"target_weight_column={config.target_weight_column}")
    return tuple(words)


def scoring_of(option: Option) -> str:
    """The setting `scoring` that an option is: only `auto` blends."""
    return "auto" if option == BLEND else option.scoring


def _best_option(encoders: Sequence[Tried]) -> tuple[Tried, Option, str]:
    """The encoder and the scoring that find hidden targets best."""
    tried = [(one, encoder) for encoder in encoders for one in encoder.swept.tried]
    if not tried:
        options = [option for option, _ in by_option(encoders[0].swept.points)]
        preferred = [option for option in options if option.scoring == "density_ratio"] or options
        option = min(preferred, key=lambda one: abs(one.components - FALLBACK_COMPONENTS))
        return encoders[0], option, f"{option}: too few targets to choose; this is the fallback of scoring=auto"
    # Of one encoder, the blend of `auto`, unless a single option is better by more than chance: the best of ten on one
    # set of targets is often a matter of luck (`choice`). Then the encoder whose option is best.
    figure, encoder = min((_best_of(one) for one in encoders if one.swept.tried), key=lambda one: one[0].log_rank)
    worst = max(one.rank for one, _ in tried)
    name, alone = str(figure.option), ""
    if figure.option == BLEND:
        single = next(one for one in encoder.swept.tried if one.option != BLEND)
        name, alone = "auto, which blends several", f", {single.rank:.0f} with the best alone ({single.option})"
    of = f"{encoder.name}, {name}" if len(encoders) > 1 else name
    return encoder, figure.option, (
        f"{of}: typical rank of a hidden target {figure.rank:.0f} among {figure.among} pool images{alone}, {worst:.0f} "
        f"with the worst of {len(tried)}"
    )  # fmt: skip


def _best_of(encoder: Tried) -> tuple[HeldOut, Tried]:
    """What is best of one encoder."""
    best = encoder.swept.tried[0]
    blends = [one for one in encoder.swept.tried if one.option == BLEND]
    if blends and blends[0].log_rank <= best.log_rank + best.spread:
        best = blends[0]
    return best, encoder


def _no_knee(points: Sequence[Point]) -> str:
    if not all(math.isfinite(point.recall) for point in points):
        return "there is no held-out recall, and nothing else shows where to stop"
    return "what more images bring has no knee"


def _knee_words(points: Sequence[Point], found: Knee) -> str:
    """Which curves have the knee."""
    names = list(found.alone)
    alone = [
        f"{name} topn={points[place].setting.topn}" if place is not None else f"{name} none"
        for name, place in found.alone.items()
    ]
    if len(names) == 1:
        return f"the knee of {names[0]} over yield"
    return f"the knee over yield of {', '.join(names[:-1])} and {names[-1]} together (alone: {', '.join(alone)})"


def _what_it_gives(encoder: Tried, points: Sequence[Point], point: Point) -> list[str]:
    """What the recommended number of images brings, and what the next larger one would add."""
    text = f"{len(point.rows)} images{_figures(encoder, point)}"
    further = [one for one in points if len(one.rows) > len(point.rows)]
    if not further:
        return [f"{text}; no larger topn was tried"]
    following = min(further, key=lambda one: len(one.rows))
    added = np.isin(following.rows, point.rows, invert=True)
    right = encoder.right(following)
    label = "" if right is None or not added.any() else f", of which {right[added].mean():.0%} have the right label"
    return [
        f"{text}; topn={following.setting.topn} would keep {len(following.rows) - len(point.rows)} more{label}: "
        f"then{_figures(encoder, following).removeprefix(':')}"
    ]


def _figures(encoder: Tried, point: Point) -> str:
    """The figures of a point, as far as they are known."""
    right = encoder.right(point)
    known = [
        (point.recall, "{:.0%} of the hidden targets"),
        (point.served, "{:.0%} of the targets served"),
        (float("nan") if right is None or not len(right) else float(right.mean()), "{:.0%} with the right label"),
        (point.redundancy, "redundancy {:.2f}"),
    ]
    words = [text.format(value) for value, text in known if math.isfinite(value)]
    return f": {', '.join(words)}" if words else ""


def _with_threshold(points: Sequence[Point], point: Point) -> tuple[Point, str]:
    """The strictest threshold that loses no hidden target, where there is one that drops images."""
    option, topn, _ = point.setting
    own = [one for one in points if one.setting[:2] == (option, topn) and one.setting.threshold != OFF]
    free = [one for one in own if point.recall - one.recall <= _FREE and one.served >= point.served]
    free = [one for one in free if len(one.rows) < len(point.rows)]
    if not free or not math.isfinite(point.recall):
        return point, "no distance_threshold: none of those tried drops images without losing hidden targets"
    best = min(free, key=lambda one: len(one.rows))
    return best, (
        f"distance_threshold={best.setting.threshold:g}: drops {len(point.rows) - len(best.rows)} images and no more "
        f"than {_FREE:.0%} of the hidden targets"
    )  # fmt: skip
