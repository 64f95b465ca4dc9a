"""What a selection gives: the images that are kept, what became of every other one, and how the scoring was chosen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookalike.neighbors.base import Rows
from lookalike.neighbors.certificate import Certificate
from lookalike.selection.filters import OUTCOMES, Outcome
from lookalike.selection.heldout import HeldOut, Option
from lookalike.selection.pairs import Outcomes
from lookalike.selection.space import Mask, Singles


@dataclass(frozen=True)
class Choice:
    """Which scoring was used, and why.

    Attributes
    ----------
    option:
        The scoring and its components; `choice.BLEND` where several share it.
    reason:
        One sentence for people.
    tried:
        Every candidate with its held-out figures and its share, best first; empty where nothing was tried.
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
    pool_outcomes:
        Per row of the pool, what became of it, as an index into `filters.OUTCOMES` (int8). ``over_budget``: others had
        better scores, and it may never have come to its turn.
    pool_targets, pool_distances:
        Per row of the pool, the target that is nearest by `knn_metric`, of its own label where `filter_by_label` is on
        and a target has it; and how far it is. -1 and infinity where the row was excluded (int64, float32). An image
        can be kept for another target: `targets` has that.
    pool_instead:
        Per row of the pool, the row that is kept and is the same image or a near-duplicate of it, its own where it is
        kept itself; -1 where there is none (int64).
    pool_groups:
        Per row of the pool, the number of its group of near-duplicates, as far as they were looked for; -1 for none
        (int64).
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
    pool_outcomes: Outcomes
    pool_targets: Rows
    pool_distances: Singles
    pool_instead: Rows
    pool_groups: Rows
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

    @property
    def groups(self) -> Rows:
        """Per pair, the group of near-duplicates of its image; -1 for none."""
        groups: Rows = self.pool_groups[self.rows]
        return groups

    @property
    def instead(self) -> Rows:
        """Per pair, the pool row that is kept and is its image or a near-duplicate of it; -1 for none."""
        instead: Rows = self.pool_instead[self.rows]
        return instead

    def count(self, outcome: Outcome) -> int:
        """How many pairs had an outcome."""
        return int((self.outcomes == OUTCOMES.index(outcome)).sum())


class Diary:
    """What a selection says beside its result.

    Attributes
    ----------
    notes:
        What changes the meaning of the result.
    seconds:
        Of every step, in the order of the steps.
    """

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.seconds: dict[str, float] = {}

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Add what is done in this block to the seconds of a step."""
        started = time.perf_counter()
        yield
        self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - started
