"""What `select_scored` is given, checked before any work starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import ScoringConfig
from lookalike.errors import ConfigError, VectorError
from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.sides import Side, open_side
from lookalike.selection.rules import label_numbers
from lookalike.selection.scoring import checked_weights
from lookalike.selection.space import Mask, blocks


@dataclass(frozen=True)
class Given:
    """The inputs of a selection.

    Attributes
    ----------
    targets, pool:
        Both sides.
    weights:
        Of the targets, with a mean of 1.
    labels:
        Numbers of the targets' labels; all 0 where they have none.
    pool_labels:
        Numbers of the pool's; None where labels need not agree.
    excluded:
        Rows of the pool that are taken as if they were not there, or None.
    keys:
        Per row of the pool, a number that is equal for equal paths, or None.
    avoid:
        Vectors of images to stay away from, or None.
    """

    targets: Side
    pool: Side
    weights: Float64s
    labels: Rows
    pool_labels: Rows | None
    excluded: Mask | None
    keys: Rows | None
    avoid: Floats | None

    @property
    def allowed(self) -> int:
        """How many rows of the pool may be mined."""
        return self.pool.rows - (0 if self.excluded is None else int(self.excluded.sum()))

    def images(self, rows: Rows) -> int:
        """How many images some rows of the pool are, by their paths."""
        return len(np.unique(rows if self.keys is None else self.keys[rows]))


def check_given(
    targets: Any,
    pool: Any,
    settings: ScoringConfig,
    target_weights: npt.ArrayLike | None,
    target_labels: Any,
    excluded: Mask | None,
    pool_labels: Any,
    keys: Any,
    avoid: Any,
) -> Given:
    """Check the arguments of `select_scored`, as it describes them."""
    sides = _side(targets, "targets"), _side(pool, "pool")
    if not sides[0].rows:
        raise VectorError("there are no targets", where=sides[0].name)
    if sides[0].dimension != sides[1].dimension:
        raise _other_dimension("targets have", sides[0], sides[1])
    labels, of_pool = _labels(settings, target_labels, pool_labels, sides)
    given = Given(
        *sides,
        checked_weights(target_weights, sides[0].rows),
        labels,
        of_pool,
        _mask(excluded, sides[1].rows),
        _keys(keys, sides[1].rows),
        None if avoid is None else _avoided(_side(avoid, "avoid"), sides[1]),
    )
    if not given.allowed:
        raise VectorError("has no row that may be mined", where=sides[1].name, hint="check what is excluded")
    return given


def vectors_of(side: Side) -> Floats:
    """All vectors of a side that fits in memory."""
    vectors: Floats = np.concatenate([block.vectors for block in blocks(side, None)])
    return vectors


def _side(given: Any, name: str) -> Side:
    """What was given, if it gives chunks; else what it holds."""
    side: Side = given if callable(getattr(given, "chunks", None)) else open_side(given, name, "embedding")
    return side


def _other_dimension(what: str, side: Side, pool: Side) -> VectorError:
    return VectorError(
        f"{what} {side.dimension} dimensions, the pool has {pool.dimension}", hint="embed both sides with one encoder"
    )


def _labels(settings: ScoringConfig, targets: Any, pool: Any, sides: tuple[Side, Side]) -> tuple[Rows, Rows | None]:
    """Numbers of the labels of both sides, those of the pool only where they must agree."""
    within = settings.filters_by_label
    if targets is None and (within or settings.max_per_label):
        setting = "filter_by_label" if within else "max_per_label"
        raise ConfigError(f"{setting} needs labels, and the targets have none", hint="leave it out")
    if pool is None and within:
        raise ConfigError("filter_by_label needs labels, and the pool has none", hint="leave it out")
    for labels, side, rows in ((targets, sides[0], "targets"), (pool, sides[1], "rows of the pool")):
        if labels is not None and len(labels) != side.rows:
            raise ConfigError(f"there are {side.rows} {rows} and {len(labels)} labels", hint="give one label a row")
    if targets is None:
        return np.zeros(sides[0].rows, np.int64), None
    return label_numbers(targets, pool if within else None)


def _mask(excluded: Mask | None, rows: int) -> Mask | None:
    if excluded is None:
        return None
    mask = np.asarray(excluded)
    if mask.shape != (rows,) or mask.dtype != np.bool_:
        raise ConfigError(
            f"excluded has shape {mask.shape} and type {mask.dtype}, and the pool has {rows} rows",
            hint="give true or false for every row of the pool",
        )
    return mask


def _keys(keys: Any, rows: int) -> Rows | None:
    if keys is None:
        return None
    numbers = np.asarray(keys)
    if numbers.shape != (rows,) or numbers.dtype.kind not in "iu":
        raise ConfigError(
            f"keys have shape {numbers.shape} and type {numbers.dtype}, and the pool has {rows} rows",
            hint="give one whole number for every row of the pool, equal where the paths are equal",
        )
    whole: Rows = numbers.astype(np.int64)
    return whole


def _avoided(side: Side, pool: Side) -> Floats | None:
    """Vectors of what is to be avoided; None where there are none."""
    if not side.rows:
        return None
    if side.dimension != pool.dimension:
        raise _other_dimension("the images to avoid have", side, pool)
    return vectors_of(side)
