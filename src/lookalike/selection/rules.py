"""Rules that a pair or an image breaks by itself, whatever its score and whatever else is kept.

* A pair: its labels differ, or it is farther than the threshold.
* An image: no target has its label; its nearest target (of its label, where labels matter) is farther than the
  threshold; it is like no target at all; or it is nearer to an image that is to be avoided than to any target.

All are off by default.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.devices import make_finder
from lookalike.neighbors.held import There
from lookalike.selection.filters import Outcome, code
from lookalike.selection.pairs import Images, Outcomes, Pairs


class Measured(NamedTuple):
    """What is known of some images.

    Attributes
    ----------
    targets, distances:
        The nearest target, of the image's label where labels matter and a target has it, and how far it is.
    stopped:
        The rule that an image breaks, as an index into `filters.OUTCOMES`; 0 for none.
    """

    targets: Rows
    distances: Float64s
    stopped: Outcomes


@dataclass(frozen=True)
class Rules:
    """What pairs and images must be like.

    Attributes
    ----------
    distance_threshold:
        The largest distance of a pair; negative: any.
    min_similarity:
        The least cosine of an image to the target that it is most like, of all targets; -1: any.
    target_labels, pool_labels:
        Numbers of labels, that must agree in a pair; None: they do not matter.
    avoid:
        Vectors; an image that is nearer to one of them than to any target is dropped. None: there are none.
    """

    distance_threshold: float = -1.0
    min_similarity: float = -1.0
    target_labels: Rows | None = None
    pool_labels: Rows | None = None
    avoid: Floats | None = None

    @property
    def active(self) -> bool:
        """Whether anything can be dropped."""
        return (
            self.distance_threshold >= 0
            or self.min_similarity > -1
            or self.pool_labels is not None
            or self.avoid is not None
        )

    def measure(self, rows: Rows, vectors: There, targets: Floats, metric: str, devices: list[str]) -> Measured:
        """Find the nearest target of some images, and the rules that they break but for the threshold.

        Parameters
        ----------
        rows, vectors:
            Of the pool; vectors may lie on a device.
        targets:
            Vectors.
        metric:
            Of distances.
        devices:
            Where to search.
        """
        nearest, distances = _nearest(vectors, targets, metric, devices)
        stopped = np.zeros(len(rows), np.int8)
        if self.avoid is not None:
            stopped[_nearest(vectors, self.avoid, metric, devices)[1] < distances] = code(Outcome.AVOIDED)
        if self.min_similarity > -1:
            cosine = distances if metric == "cosine" else _nearest(vectors, targets, "cosine", devices)[1]
            # In float32, as distances are: a floor of 0.9 keeps a distance that prints as 0.1.
            under = cosine.astype(np.float32) > np.float32(1 - self.min_similarity)
            stopped[under] = code(Outcome.UNDER_SIMILARITY)
        if self.pool_labels is None:
            return Measured(nearest, distances, stopped)
        assert self.target_labels is not None
        nearest, distances = nearest.copy(), distances.copy()
        labels = self.pool_labels[rows]
        # Where the nearest of all targets has the label, it is the nearest of the label.
        others = np.flatnonzero(self.target_labels[nearest] != labels)
        for label in np.unique(labels[others]).tolist():
            mine, members = others[labels[others] == label], self._members.get(label)
            if members is None:
                stopped[mine] = code(Outcome.LABEL_MISMATCH)
            else:
                found, nearest_distances = _nearest(vectors[mine], targets[members], metric, devices)
                nearest[mine], distances[mine] = members[found], nearest_distances
        return Measured(nearest, distances, stopped)

    def of_pairs(self, pairs: Pairs) -> Outcomes | None:
        """The rule that each pair breaks, as `cover` takes them; None where none can."""
        if self.pool_labels is None and self.distance_threshold < 0:
            return None
        stops = np.zeros(len(pairs.rows), np.int8)
        stops[self._is_far(pairs.distances)] = code(Outcome.OVER_DISTANCE)
        if self.pool_labels is not None:
            assert self.target_labels is not None
            differ = self.target_labels[pairs.targets] != self.pool_labels[pairs.rows]
            stops[differ] = code(Outcome.LABEL_MISMATCH)
        return stops

    def with_threshold(self, images: Images, pairs: Pairs) -> Images:
        """The same images, those stopped whose nearest target is farther than the threshold.

        Parameters
        ----------
        images:
            As `passes.score_pool` gives them.
        pairs:
            Whose distances count, where they and the images' differ by a rounding.
        """
        if self.distance_threshold < 0:
            return images
        distances = images.distances.copy()
        listed = images.targets[pairs.rows] == pairs.targets
        distances[pairs.rows[listed]] = pairs.distances[listed]
        stopped = np.zeros(len(distances), np.int8) if images.stopped is None else images.stopped.copy()
        over = self._is_far(distances) & (stopped != code(Outcome.LABEL_MISMATCH)) & images.allowed
        stopped[over] = code(Outcome.OVER_DISTANCE)
        return replace(images, distances=distances, stopped=stopped)

    def _is_far(self, distances: Floats) -> Any:
        """Per distance, whether it is over the threshold."""
        # In float32, as distances are: a threshold of 0.3 keeps a distance that prints as 0.3.
        far = distances > np.float32(self.distance_threshold)
        return far if self.distance_threshold >= 0 else np.zeros(len(distances), np.bool_)

    @cached_property
    def _members(self) -> dict[int, Rows]:
        """The targets of each label, ascending."""
        assert self.target_labels is not None
        order = np.argsort(self.target_labels, kind="stable")
        labels, begins = np.unique(self.target_labels[order], return_index=True)
        return dict(zip(labels.tolist(), np.split(order, begins[1:]), strict=True))


def _nearest(vectors: There, targets: Floats, metric: str, devices: list[str]) -> tuple[Rows, Float64s]:
    """The nearest target of every vector."""
    finder = make_finder(vectors, metric, 1, devices)
    finder.see(targets, np.arange(len(targets)))
    found = finder.finish()
    return found.rows[:, 0], found.distances[:, 0]


def label_numbers(targets: Any, pool: Any = None) -> tuple[Rows, Rows | None]:
    """Numbers of the labels of both sides, equal where the labels agree.

    Whole numbers on both sides are compared as they are; anything else as text without case and outer blanks.

    Parameters
    ----------
    targets, pool:
        One a row; the pool's may be left out.
    """
    sides = [side if isinstance(side, np.ndarray) else list(side) for side in (targets, pool) if side is not None]
    numbers: dict[object, int] = {}
    whole = all(isinstance(side, np.ndarray) and side.dtype.kind in "iu" for side in sides)
    found = [_numbers(side.tolist() if isinstance(side, np.ndarray) else side, numbers, whole) for side in sides]
    return found[0], found[1] if len(found) > 1 else None


def _numbers(labels: Sequence[Any], known: dict[object, int], whole: bool) -> Rows:
    plain: dict[object, int] = {}  # most labels are met many times

    def number(label: Any) -> int:
        return known.setdefault(label if whole else str(label).strip().upper(), len(known))

    try:
        return np.array(
            [plain[one] if one in plain else plain.setdefault(one, number(one)) for one in labels], np.int64
        )
    except TypeError:  # lists and the like, which hardly any table has as labels
        return np.array([number(one) for one in labels], np.int64)
