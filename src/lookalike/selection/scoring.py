"""Scores: how much a pool image is like the targets and unlike the rest of the pool.

All of them work on directions: whitened coordinates as unit vectors (`space`). For a pool image x, weights w of the
targets scaled to a mean of 1, and k = 50:

* ``density_ratio``: the mean of w cos(x, target) over its k nearest targets, minus the mean of cos(x, image) over its k
  nearest pool images, itself left out. With fewer than k, the mean over all.
* ``lda``: cos(x, weighted mean of the targets): linear discriminant analysis with the pool as background.

Images to stay away from (`avoid`) push others away, with a weight g. `density_ratio` loses g max(0, the mean of
cos(x, image) over the k nearest of them): who is unlike them gains nothing. `lda` is the cosine to the weighted mean of
the targets minus g times the mean of the images to avoid: Rocchio's query, as in relevance feedback (Rocchio, 1971).

(``nearest`` is no such score: it orders pool images by their best rank among any target's neighbours.)

Neighbours are found exactly and measured in float64, so that a score depends on nothing but the vectors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookalike.config.schemas import ScoringConfig
from lookalike.errors import ConfigError
from lookalike.neighbors.base import Float64s, Floats, Rows
from lookalike.neighbors.devices import make_finder
from lookalike.selection.space import Singles

#: The scorings that need the whitened space.
WHITENED = ("density_ratio", "lda")
#: Nearest targets, and nearest pool images, that a mean is taken over.
NEAR = 50
#: Images whose neighbours are looked for at a time: the search holds some 30 KB for each.
_QUERIES = 4096


@dataclass(frozen=True)
class Near:
    """The nearest of some images for each of some others.

    Attributes
    ----------
    cosines:
        Queries x k, descending; -inf where there are fewer.
    rows:
        Queries x k; -1 where there are fewer.
    """

    cosines: Float64s
    rows: Rows


def near(queries: Singles, images: Singles, k: int, devices: list[str]) -> Near:
    """The k nearest images of every query, exactly; a query's own row is not left out.

    Parameters
    ----------
    queries, images:
        Directions.
    k:
        How many at most.
    devices:
        As `neighbors.devices.choose_devices` returns them.
    """
    k = min(k, len(images))
    cosines = np.full((len(queries), k), -np.inf)
    rows = np.full((len(queries), k), -1, np.int64)
    numbers = np.arange(len(images))
    for first in range(0, len(queries) if k else 0, _QUERIES):
        part = slice(first, first + _QUERIES)
        finder = make_finder(queries[part], "cosine", k, devices)
        finder.see(images, numbers)
        found = finder.finish()
        cosines[part], rows[part] = 1.0 - found.distances, found.rows
    return Near(cosines, rows)


def without_self(found: Near, own: Rows, k: int) -> Float64s:
    """Cosines of the k nearest that are not the query itself.

    Parameters
    ----------
    found:
        The k + 1 nearest.
    own:
        Per query its own row among the images, or -1.
    k:
        How many to keep.
    """
    cosines = np.where((found.rows == own[:, None]) & (own[:, None] >= 0), -np.inf, found.cosines)
    ordered: Float64s = -np.sort(-cosines, axis=1)[:, :k]
    return ordered


def mean_of(cosines: Floats) -> Float64s:
    """Per row, the mean of what is there; 0 where nothing is."""
    there = np.isfinite(cosines)
    total: Float64s = cosines.sum(axis=1, where=there, dtype=np.float64) / np.maximum(there.sum(axis=1), 1)
    return total


def likeness(found: Near, weights: Float64s) -> Float64s:
    """Per query, the weighted mean of its cosines to the nearest targets."""
    return mean_of(found.cosines * weights[found.rows])


def lda_axis(
    targets: Singles,
    weights: Float64s,
    avoid: Singles | None = None,
    avoid_weight: float = ScoringConfig.avoid_weight,
) -> Float64s:
    """The weighted mean of the targets with length 1; 0 where that mean is 0.

    Parameters
    ----------
    targets:
        Directions.
    weights:
        Of the targets, with a mean of 1.
    avoid, avoid_weight:
        Directions whose mean is taken away from that of the targets, so many times.
    """
    mean = (targets.astype(np.float64) * weights[:, None]).sum(axis=0)
    if avoid is not None:
        mean = mean / len(targets) - avoid_weight * avoid.astype(np.float64).mean(axis=0)
    length = float(np.sqrt((mean * mean).sum()))
    axis: Float64s = mean / length if length > np.finfo(np.float32).eps else np.zeros_like(mean)
    return axis


def checked_weights(weights: npt.ArrayLike | None, targets: int) -> Float64s:
    """Weights of the targets, scaled to a mean of 1.

    Parameters
    ----------
    weights:
        One a target, 0 or more; None for equal ones.
    targets:
        How many there are.

    Raises
    ------
    ConfigError
        When they cannot be weights.
    """
    if weights is None:
        return np.ones(targets)
    given = np.asarray(weights)
    if given.shape != (targets,) or given.dtype.kind not in "fiub":
        raise ConfigError(
            f"target weights have shape {given.shape} and type {given.dtype}",
            hint=f"give one number for each of the {targets} targets",
        )
    values: Float64s = given.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if bad.size:
        raise ConfigError(
            f"{bad.size} target weights are negative or not finite, first in rows {bad[:5].tolist()} (from 0)",
            hint="weights are numbers from 0",
        )
    if not values.any():
        raise ConfigError("all target weights are 0", hint="give at least one target a weight above 0")
    # By the largest first, so that a sum of very large or small weights stays a number.
    scaled = values / values.max()
    weighted: Float64s = scaled / scaled.mean()
    return weighted
