"""What becomes of each pair: kept, or dropped by exactly one rule.

The order of the rules is the drop-in contract's (section 3): pairs are walked target by target, nearest first;
the label filter, then the distance filter, then the first occurrence of every source path. What is left are the
mined sources; the cosine floor (section 7) acts on them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


class Outcome(StrEnum):
    """What became of a pair."""

    KEPT = "kept"
    LABEL_MISMATCH = "label_mismatch"
    OVER_DISTANCE = "over_distance"
    DUPLICATE = "duplicate"
    UNDER_SIMILARITY = "under_similarity"
    OVER_BUDGET = "over_budget"
    OVER_TARGET_LIMIT = "over_target_limit"
    OVER_LABEL_LIMIT = "over_label_limit"
    NEAR_DUPLICATE = "near_duplicate"
    LESS_DIVERSE = "less_diverse"
    AVOIDED = "avoided"
    EXCLUDED = "excluded"
    BEYOND_TOPN = "beyond_topn"


#: Outcomes by their number in the arrays of this module.
OUTCOMES = tuple(Outcome)


def code(outcome: Outcome) -> int:
    """The number of an outcome."""
    return OUTCOMES.index(outcome)


@dataclass(frozen=True)
class Selection:
    """The outcome of every pair.

    Attributes
    ----------
    outcomes:
        Per pair, an index into `OUTCOMES` (int8), in the pairs' order.
    label_filter, distance_filter:
        Whether each filter ran.
    """

    outcomes: npt.NDArray[np.int8]
    label_filter: bool
    distance_filter: bool

    def count(self, outcome: Outcome) -> int:
        """How many pairs had an outcome."""
        return int((self.outcomes == OUTCOMES.index(outcome)).sum())

    @property
    def kept(self) -> Mask:
        """Per pair, whether it is kept."""
        return np.asarray(self.outcomes == OUTCOMES.index(Outcome.KEPT))


def select_pairs(
    source_keys: npt.NDArray[np.int64],
    distances: npt.NDArray[np.float32],
    *,
    same_label: Mask | None,
    distance_threshold: float,
) -> Selection:
    """Decide every pair.

    Parameters
    ----------
    source_keys:
        Per pair, a number that is equal where the source paths are equal. Pairs are in the order of walking.
    distances:
        Per pair.
    same_label:
        Per pair, whether the labels agree; None switches the label filter off.
    distance_threshold:
        Pairs with a larger distance are dropped; a negative value switches the filter off.
    """
    outcomes = np.full(len(source_keys), OUTCOMES.index(Outcome.KEPT), np.int8)
    alive = np.ones(len(source_keys), np.bool_)
    if same_label is not None:
        outcomes[~same_label] = OUTCOMES.index(Outcome.LABEL_MISMATCH)
        alive &= same_label
    distance_filter = distance_threshold >= 0
    if distance_filter:
        # In float32, as distances are: a threshold of 0.3 keeps a distance that prints as 0.3.
        over = alive & (distances > np.float32(distance_threshold))
        outcomes[over] = OUTCOMES.index(Outcome.OVER_DISTANCE)
        alive &= ~over
    living = np.flatnonzero(alive)
    _, first = np.unique(source_keys[living], return_index=True)
    repeated = np.ones(len(living), np.bool_)
    repeated[first] = False
    outcomes[living[repeated]] = OUTCOMES.index(Outcome.DUPLICATE)
    return Selection(outcomes, same_label is not None, distance_filter)


def apply_floor(selection: Selection, distances: npt.NDArray[np.float32], min_similarity: float) -> Selection:
    """Drop mined sources that are like no target.

    Parameters
    ----------
    selection:
        What the other rules decided.
    distances:
        Per kept pair, the cosine distance of its source to the target that is nearest to it, of all targets.
    min_similarity:
        The least cosine that stays.
    """
    # In float32, as distances are: a floor of 0.9 keeps a distance that prints as 0.1.
    under = distances > np.float32(1 - min_similarity)
    outcomes = selection.outcomes.copy()
    outcomes[np.flatnonzero(selection.kept)[under]] = OUTCOMES.index(Outcome.UNDER_SIMILARITY)
    return replace(selection, outcomes=outcomes)
